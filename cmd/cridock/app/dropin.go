package app

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"
)

const (
	// criDockerd is the name under which cridock takes cri-dockerd's place.
	criDockerd = "cri-dockerd"
	// criDockerdEndpoint is cri-dockerd's default, where kubeadm and crictl look.
	criDockerdEndpoint = "unix:///var/run/cri-dockerd.sock"
)

// The values of network-plugin. pluginNoop is cri-dockerd's name of Docker's own
// network, which it also takes an empty value for.
const (
	pluginCNI    = "cni"
	pluginDocker = "docker"
	pluginNoop   = "no-op"
)

// adopt changes the defaults to those of the program that cridock is started as.
func (o *Options) adopt(program string) {
	if filepath.Base(program) == criDockerd {
		o.Endpoint = criDockerdEndpoint
	}
}

// networkPlugin returns the network plugin, with cri-dockerd's names translated.
func (o *Options) networkPlugin() string {
	if o.NetworkPlugin == "" || o.NetworkPlugin == pluginNoop {
		return pluginDocker
	}
	return o.NetworkPlugin
}

// obsoleteFlag is a flag of cri-dockerd's that has no meaning here. It is accepted
// with a warning, so that in a unit file only the binary's name has to change.
type obsoleteFlag struct {
	name, reason string
	// isBool: the flag may stand alone, and its value never is an argument of its own.
	isBool bool
}

func obsoleteFlags() []obsoleteFlag {
	return []obsoleteFlag{
		{name: "hairpin-mode", reason: "the CNI configuration sets hairpin mode"},
		{name: "ipv6-dual-stack", reason: "pods get all addresses that CNI assigns", isBool: true},
		{name: "network-plugin-mtu", reason: "the CNI configuration sets the MTU"},
		{name: "runtime-cgroups", reason: "cridock does not move itself; the service manager sets its cgroup"},
		{name: "runtime-request-timeout", reason: "each call has its client's deadline"},
	}
}

// Names of cri-dockerd's flags for settings that cridock names otherwise.
const (
	aliasRootDirectory = "cri-dockerd-root-directory" // root-directory
	aliasLogLevel      = "log-level"                  // v
)

// addCompatibilityFlags adds the hidden flags that cri-dockerd has and cridock names
// otherwise or does not need.
func (o *Options) addCompatibilityFlags(f *pflag.FlagSet) {
	f.StringVar(&o.RootDir, aliasRootDirectory, o.RootDir, "alias of --root-directory")
	f.StringVar(&o.logLevel, aliasLogLevel, o.logLevel, "alias of --v: info or less, debug or trace")
	hidden := []string{aliasRootDirectory, aliasLogLevel}
	for _, flag := range obsoleteFlags() {
		usage := "no effect: " + flag.reason
		if flag.isBool {
			f.Bool(flag.name, false, usage)
		} else {
			f.String(flag.name, "", usage)
		}
		hidden = append(hidden, flag.name)
	}
	for _, name := range hidden {
		_ = f.MarkHidden(name) // defined above
	}
}

// canonical returns cridock's name of a setting and the value under that name.
func canonical(name, value string) (string, string, error) {
	switch name {
	case aliasRootDirectory:
		return "root-directory", value, nil
	case aliasLogLevel:
		v, err := verbosityOf(value)
		return "v", v, err
	default:
		return name, value, nil
	}
}

// verbosityOf maps cri-dockerd's log levels to klog's verbosity. cridock logs what
// info has at least.
func verbosityOf(level string) (string, error) {
	switch strings.ToLower(level) {
	case "panic", "fatal", "error", "warn", "warning", "info":
		return "0", nil
	case "debug":
		return "4", nil
	case "trace":
		return "6", nil
	default:
		return "", fmt.Errorf("%s %q: want panic, fatal, error, warn, info, debug or trace", aliasLogLevel, level)
	}
}
