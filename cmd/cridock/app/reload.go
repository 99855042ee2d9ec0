package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strconv"
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
// restart is logged. If it fails, nothing changes. Between the two notifications
// systemd shows the service as reloading; they are sent only once the service is
// ready.
func (o *Options) reload(ctx context.Context, ready bool, m *metricsServer) {
	logger := klog.FromContext(ctx)
	if ready {
		tellSystemd(ctx, reloadingMessage())
		defer tellSystemd(ctx, daemon.SdNotifyReady)
	}
	changed, restart, err := o.reread(ctx, m)
	if err != nil {
		logger.Error(err, "Configuration not reloaded")
		return
	}
	logger.Info("Configuration reloaded", "changed", changed, "needRestart", restart)
}

// reloadingMessage is what systemd wants before a reload; the time is for units of type
// notify-reload.
func reloadingMessage() string {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // every kernel has this clock
	return fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, now.Nano()/int64(time.Microsecond))
}

// reread returns the settings in files that changed and were applied, and those that
// need a restart. Settings on the command line do not change. If it fails, nothing
// has changed.
func (o *Options) reread(ctx context.Context, m *metricsServer) (changed, restart []string, err error) {
	if o.loaded == nil {
		return nil, nil, errors.New("the settings are not from a command line")
	}
	files, read, err := o.readFiles()
	if err != nil {
		return nil, nil, err
	}
	r, err := o.revise(files)
	if err != nil {
		return nil, nil, err
	}
	if changed, err = o.applyRevision(ctx, r, m); err != nil {
		return nil, nil, err
	}
	o.loaded.applied(files, read, r.restart)
	return changed, r.restart, nil
}

// revision is what the files change of the settings in force.
type revision struct {
	next *Options // all settings but the log's, validated
	// log are the changed settings of the log. klog's flags are the process's, so only
	// setting them shows whether they are valid.
	log     map[string]fileSetting
	restart []string // names of the changed settings that need a restart
}

// revise compares the settings in files with those in force. It changes nothing.
func (o *Options) revise(files map[string]fileSetting) (*revision, error) {
	next := *o
	r := &revision{next: &next, log: map[string]fileSetting{}, restart: []string{}} // not nil, for the log
	flags := pflag.NewFlagSet("cridock", pflag.ContinueOnError)
	next.AddFlags(flags)
	for _, name := range o.loaded.differing(files) {
		value, ok := files[name]
		if !ok {
			value = fileSetting{value: defaultText(o.settings.Lookup(name)), file: "default"}
		}
		if reloadsLog(name) {
			r.log[name] = value
			continue
		}
		if err := flags.Set(name, value.value); err != nil {
			return nil, fmt.Errorf("config %s: %s: %w", value.file, name, err)
		}
		if !reloadsMetrics(name) {
			r.restart = append(r.restart, name)
		}
	}
	return r, next.Validate()
}

// applyRevision applies what needs no restart, and returns the names of those
// settings. If it fails, nothing has changed.
func (o *Options) applyRevision(ctx context.Context, r *revision, m *metricsServer) ([]string, error) {
	undo, err := o.setLog(r.log)
	if err != nil {
		return nil, err
	}
	if err := m.apply(ctx, r.next.metricsEndpoint(), r.next.Profiling); err != nil {
		undo()
		return nil, err
	}
	changed := append([]string{}, slices.Sorted(maps.Keys(r.log))...) // not nil, for the log
	for _, s := range metricsSettings() {
		if now, next := s.value(o), s.value(r.next); now != next {
			changed = append(changed, s.name)
		}
	}
	o.MetricsAddr, o.Profiling = r.next.MetricsAddr, r.next.Profiling
	o.MetricsTLSCert, o.MetricsTLSKey, o.MetricsTLSClientCA = r.next.MetricsTLSCert, r.next.MetricsTLSKey, r.next.MetricsTLSClientCA
	return changed, nil
}

// setLog applies settings of the log, and returns a function that undoes it. If one is
// invalid, none changes.
func (o *Options) setLog(values map[string]fileSetting) (undo func(), err error) {
	former := map[string]string{}
	undo = func() {
		for name, value := range former {
			_ = o.settings.Set(name, value) // it was valid
		}
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		was := o.settings.Lookup(name).Value.String()
		if err := o.settings.Set(name, values[name].value); err != nil {
			undo()
			return nil, fmt.Errorf("config %s: %s: %w", values[name].file, name, err)
		}
		former[name] = was
	}
	return undo, nil
}

func reloadsLog(name string) bool { return name == "v" || name == "vmodule" }

// metricsSetting is a setting of the metrics server.
type metricsSetting struct {
	name  string
	value func(*Options) string
}

func metricsSettings() []metricsSetting {
	return []metricsSetting{
		{"metrics-bind-address", func(o *Options) string { return o.MetricsAddr }},
		{"metrics-tls-cert", func(o *Options) string { return o.MetricsTLSCert }},
		{"metrics-tls-key", func(o *Options) string { return o.MetricsTLSKey }},
		{"metrics-tls-client-ca", func(o *Options) string { return o.MetricsTLSClientCA }},
		{"profiling", func(o *Options) string { return strconv.FormatBool(o.Profiling) }},
	}
}

func reloadsMetrics(name string) bool {
	return slices.ContainsFunc(metricsSettings(), func(s metricsSetting) bool { return s.name == name })
}

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
