package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

// catchReloads makes SIGHUP a request to read the configuration files again, if the
// process is cridock's own; else, and after a call of stop, it ends the process.
func (o *Options) catchReloads() (stop func()) {
	if !o.OwnProcess {
		return func() {}
	}
	o.reloads = make(chan os.Signal, 1)
	signal.Notify(o.reloads, syscall.SIGHUP)
	return func() { signal.Stop(o.reloads) }
}

// reload reads the configuration files again, and applies what can change while
// cridock runs: the log's verbosity and the metrics server's settings. What needs a
// restart is logged. If a file is invalid, nothing changes. Between the two
// notifications systemd shows the service as reloading; they are sent only once the
// service is ready.
func (o *Options) reload(ctx context.Context, ready bool, m *metricsServer) error {
	logger := klog.FromContext(ctx)
	if ready {
		if err := notifyReloading(); err != nil {
			return err
		}
	}
	changed, restart, err := o.reread(ctx, m)
	switch {
	case err != nil:
		logger.Error(err, "Configuration not reloaded")
	default:
		logger.Info("Configuration reloaded", "changed", changed, "needRestart", restart)
	}
	if !ready {
		return nil
	}
	_, err = daemon.SdNotify(false, daemon.SdNotifyReady)
	return err
}

// notifyReloading sends what systemd wants before a reload; the time is for units of
// type notify-reload.
func notifyReloading() error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return err
	}
	_, err := daemon.SdNotify(false, fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, now.Nano()/int64(time.Microsecond)))
	return err
}

// reread returns the settings in files that changed and were applied, and those that
// need a restart. Settings on the command line do not change.
func (o *Options) reread(ctx context.Context, m *metricsServer) (changed, restart []string, err error) {
	if o.loaded == nil {
		return nil, nil, errors.New("the settings are not from a command line")
	}
	files, read, err := o.readFiles()
	if err != nil {
		return nil, nil, err
	}
	next := *o
	flags := pflag.NewFlagSet("cridock", pflag.ContinueOnError)
	next.AddFlags(flags)
	verbosity := map[string]string{}
	changed, restart = []string{}, []string{} // not nil, for the log
	for _, name := range o.loaded.differing(files) {
		value, ok := files[name]
		if !ok {
			value = fileSetting{value: defaultText(o.settings.Lookup(name)), file: "default"}
		}
		if reloadsLog(name) { // klog's flags are the process's
			verbosity[name] = value.value
			continue
		}
		if err := flags.Set(name, value.value); err != nil {
			return nil, nil, fmt.Errorf("config %s: %s: %w", value.file, name, err)
		}
		if !reloadsMetrics(name) {
			restart = append(restart, name)
		}
	}
	if err := next.Validate(); err != nil {
		return nil, nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(verbosity)) {
		if err := o.settings.Set(name, verbosity[name]); err != nil {
			return nil, nil, fmt.Errorf("config: %s: %w", name, err)
		}
		changed = append(changed, name)
	}
	was := *o
	o.MetricsAddr, o.Profiling = next.MetricsAddr, next.Profiling
	if was.MetricsAddr != o.MetricsAddr || was.Profiling != o.Profiling {
		if err := m.apply(ctx, o.MetricsAddr, o.Profiling); err != nil {
			o.MetricsAddr, o.Profiling = was.MetricsAddr, was.Profiling
			return nil, nil, err
		}
		changed = append(changed, "metrics-bind-address", "profiling")
	}
	o.loaded.applied(files, read, restart)
	return changed, restart, nil
}

func reloadsLog(name string) bool { return name == "v" || name == "vmodule" }

func reloadsMetrics(name string) bool { return name == "metrics-bind-address" || name == "profiling" }

// differing returns the names of the settings that have another value in files than
// at the last reading, sorted, without those on the command line.
func (c *configuration) differing(files map[string]fileSetting) []string {
	var names []string
	for name := range maps.Keys(files) {
		if old, ok := c.files[name]; !ok || old.value != files[name].value {
			names = append(names, name)
		}
	}
	for name := range maps.Keys(c.files) {
		if _, ok := files[name]; !ok {
			names = append(names, name)
		}
	}
	names = slices.DeleteFunc(names, func(name string) bool { _, given := c.given[name]; return given })
	slices.Sort(names)
	return names
}

// applied makes files the settings in force, but for those that need a restart: they
// are reported again at the next reload.
func (c *configuration) applied(files map[string]fileSetting, read, restart []string) {
	inForce := maps.Clone(files)
	for _, name := range restart {
		if old, ok := c.files[name]; ok {
			inForce[name] = old
		} else {
			delete(inForce, name)
		}
	}
	c.files, c.read = inForce, read
}

// defaultText returns the default of a setting, as its flag takes it.
func defaultText(f *pflag.Flag) string {
	if f.Value.Type() == "stringSlice" {
		return strings.TrimSuffix(strings.TrimPrefix(f.DefValue, "["), "]")
	}
	return f.DefValue
}
