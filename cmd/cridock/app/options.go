package app

import (
	"flag"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"
	"k8s.io/klog/v2"
	"sigs.k8s.io/yaml"
	"tags.cncf.io/container-device-interface/pkg/cdi"

	"github.com/cridock/cridock/translate"
)

// Options are the settings of a cridock process. Get them from NewOptions: the zero
// value is not usable. Each field is the setting named in its comment, which is also
// the name of its flag and its key in the configuration file. A setting that
// cri-dockerd also has is named as there. docs/settings.md describes them all.
type Options struct {
	// Version is what cridock calls itself in the CRI, in traces and in its log.
	Version string

	Endpoint       string // container-runtime-endpoint
	DockerEndpoint string // docker-endpoint
	RootDir        string // root-directory
	RuntimeDir     string // runtime-directory
	PauseImage     string // pod-infra-container-image; empty: the built-in one
	DockerConfig   string // docker-config; empty: none

	NetworkPlugin   string   // network-plugin: cni or docker
	DockerNetwork   string   // docker-network
	CNIConfDir      string   // cni-conf-dir
	CNIBinDirs      []string // cni-bin-dir
	CNICacheDir     string   // cni-cache-dir
	PodCIDR         string   // pod-cidr; empty: what the kubelet sends
	CNIConfTemplate string   // cni-conf-template; empty: none

	StreamingAddr        string        // streaming-bind-addr
	StreamingTLSCert     string        // streaming-tls-cert; empty: no TLS
	StreamingTLSKey      string        // streaming-tls-key
	StreamingTLSClientCA string        // streaming-tls-client-ca; empty: any client
	StreamingIdleTimeout time.Duration // streaming-idle-timeout

	PodLogsDir string // pod-logs-dir
	LogMode    string // container-log-mode: cri or symlink
	LogMaxSize string // docker-log-max-size, as Docker writes sizes: 128m
	LogMaxFile int    // docker-log-max-file; at least 2

	PullProgressDeadline time.Duration // image-pull-progress-deadline; 0: never
	RestrictOOMScoreAdj  string        // restrict-oom-score-adj: auto, true or false
	ShimGrouping         string        // shim-grouping: auto, true or false

	CDISpecDirs                []string // cdi-spec-dirs
	AbsentMountSourcesToReject []string // absent-mount-sources-to-reject
	SeccompDefaultProfile      string   // seccomp-default-profile; empty: the engine's

	PodAnnotations       []translate.AnnotationPattern // pod-annotations
	ContainerAnnotations []translate.AnnotationPattern // container-annotations
	CRIAnnotations       []string                      // cri-annotations: runtime handlers

	MetricsAddr     string // metrics-bind-address; empty: off
	Profiling       bool   // profiling; needs MetricsAddr
	TracingEndpoint string // tracing-endpoint; empty: off

	configFile, logLevel string // only on the command line
}

// NewOptions returns the default settings.
func NewOptions() *Options {
	return &Options{
		Version:              "dev",
		Endpoint:             "unix:///run/cridock/cridock.sock",
		DockerEndpoint:       "unix:///var/run/docker.sock",
		RootDir:              "/var/lib/cridock",
		RuntimeDir:           "/run/cridock",
		DockerConfig:         defaultDockerConfig(),
		NetworkPlugin:        "cni",
		DockerNetwork:        "bridge",
		CNIConfDir:           "/etc/cni/net.d",
		CNIBinDirs:           []string{"/opt/cni/bin", "/usr/lib/cni"},
		CNICacheDir:          "/var/lib/cni/cache",
		StreamingAddr:        "127.0.0.1:0",
		StreamingIdleTimeout: 4 * time.Hour,
		PodLogsDir:           "/var/log/pods",
		LogMode:              "cri",
		LogMaxSize:           "128m",
		LogMaxFile:           4,
		PullProgressDeadline: 10 * time.Minute,
		RestrictOOMScoreAdj:  "auto",
		ShimGrouping:         "auto",
		CDISpecDirs:          slices.Clone(cdi.DefaultSpecDirs),
	}
}

// obsolete are cri-dockerd's flags that have no meaning here, with the reason. They
// are accepted with a warning, so that in a unit file only the binary's name has to
// change.
var obsolete = map[string]string{
	"runtime-cgroups":         "cridock does not move itself; the service manager sets its cgroup",
	"network-plugin-mtu":      "the CNI configuration sets the MTU",
	"hairpin-mode":            "the CNI configuration sets hairpin mode",
	"ipv6-dual-stack":         "pods get all addresses that CNI assigns",
	"runtime-request-timeout": "each call has its client's deadline",
}

// AddFlags adds a flag for each setting, with the current value as its default, and
// for klog's v and vmodule. Call it once, before Complete.
func (o *Options) AddFlags(f *pflag.FlagSet) {
	f.StringVar(&o.configFile, "config", o.configFile, "YAML file with the settings below as keys; flags override it")
	f.StringVar(&o.Endpoint, "container-runtime-endpoint", o.Endpoint, "socket to serve the CRI on; fd:// for a socket from systemd")
	f.StringVar(&o.DockerEndpoint, "docker-endpoint", o.DockerEndpoint, "address of the Docker Engine, 20.10 (API 1.41) or later")
	f.StringVar(&o.RootDir, "root-directory", o.RootDir, "persistent state; Docker must see it under the same path")
	f.StringVar(&o.RuntimeDir, "runtime-directory", o.RuntimeDir, "state until the next reboot, such as pinned network namespaces")
	f.StringVar(&o.PauseImage, "pod-infra-container-image", o.PauseImage, "sandbox image (default: the one built into cridock)")

	f.StringVar(&o.DockerConfig, "docker-config", o.DockerConfig, "Docker's config.json, with registry credentials and credential helpers for pulls without credentials")

	f.StringVar(&o.NetworkPlugin, "network-plugin", o.NetworkPlugin, "pod network: cni, or docker for one of Docker's own networks")
	f.StringVar(&o.DockerNetwork, "docker-network", o.DockerNetwork, "Docker network that pods join with --network-plugin=docker")
	f.StringVar(&o.CNIConfDir, "cni-conf-dir", o.CNIConfDir, "directory of CNI configurations; the lexically first is used, and changes are followed")
	f.StringSliceVar(&o.CNIBinDirs, "cni-bin-dir", o.CNIBinDirs, "directories of CNI plugins, searched in order")
	f.StringVar(&o.CNICacheDir, "cni-cache-dir", o.CNICacheDir, "directory of CNI results and of the records needed to release them")
	f.StringVar(&o.CNIConfTemplate, "cni-conf-template", o.CNIConfTemplate, "file with a text/template of a CNI configuration, rendered with .PodCIDR, .PodCIDRRanges and .Routes when the pod CIDRs are known, unless there is another configuration")
	f.StringVar(&o.PodCIDR, "pod-cidr", o.PodCIDR, "pod CIDRs for CNI's ipRanges until the kubelet sends them")

	f.StringVar(&o.StreamingAddr, "streaming-bind-addr", o.StreamingAddr, "address for exec, attach and port-forward sessions; port 0 for any free port")
	f.StringVar(&o.StreamingTLSCert, "streaming-tls-cert", o.StreamingTLSCert, "file with the TLS certificate for streaming sessions; read again when it changes")
	f.StringVar(&o.StreamingTLSKey, "streaming-tls-key", o.StreamingTLSKey, "file with the certificate's key; read again when it changes")
	f.StringVar(&o.StreamingTLSClientCA, "streaming-tls-client-ca", o.StreamingTLSClientCA, "file with certificate authorities; streaming clients must have a certificate from one of them; read again when it changes")
	f.DurationVar(&o.StreamingIdleTimeout, "streaming-idle-timeout", o.StreamingIdleTimeout, "close streaming sessions idle for this long")

	f.StringVar(&o.PodLogsDir, "pod-logs-dir", o.PodLogsDir, "the kubelet's podLogsDir; cridock follows no symbolic link below it, and writes logs of adopted containers nowhere else")
	f.StringVar(&o.LogMode, "container-log-mode", o.LogMode, "cri: write container logs in CRI format; symlink: link to Docker's JSON files, which the kubelet cannot rotate")
	f.StringVar(&o.LogMaxSize, "docker-log-max-size", o.LogMaxSize, "size at which Docker rotates a container's own log")
	f.IntVar(&o.LogMaxFile, "docker-log-max-file", o.LogMaxFile, "number of files of that log that Docker keeps")

	f.DurationVar(&o.PullProgressDeadline, "image-pull-progress-deadline", o.PullProgressDeadline, "cancel a pull that makes no progress in any phase for this long; 0 for never")
	f.StringVar(&o.RestrictOOMScoreAdj, "restrict-oom-score-adj", o.RestrictOOMScoreAdj, "raise oom_score_adj to the minimum that the node allows: auto, true or false")

	f.StringVar(&o.ShimGrouping, "shim-grouping", o.ShimGrouping, "use one containerd shim per pod instead of one per container: auto, true or false; needs Docker 24 (API 1.43) and a runtime with runc's shim")

	f.StringSliceVar(&o.CDISpecDirs, "cdi-spec-dirs", o.CDISpecDirs, "directories of CDI specifications; later ones take precedence. An engine with CDI uses its own setting instead")
	f.StringSliceVar(&o.AbsentMountSourcesToReject, "absent-mount-sources-to-reject", o.AbsentMountSourcesToReject, "host paths at and below which a missing mount source is an error, instead of becoming a directory")

	f.StringVar(&o.SeccompDefaultProfile, "seccomp-default-profile", o.SeccompDefaultProfile, "file with the seccomp profile for RuntimeDefault (default: the engine's)")

	f.Var((*annotationPatterns)(&o.PodAnnotations), "pod-annotations", "pod annotations to pass to the OCI runtime, as [HANDLER=]PATTERN, for one runtime handler or for all; * matches anything but a slash; needs Docker 24 (API 1.43)")
	f.Var((*annotationPatterns)(&o.ContainerAnnotations), "container-annotations", "the same for container annotations")
	f.StringSliceVar(&o.CRIAnnotations, "cri-annotations", o.CRIAnnotations, "runtime handlers that get the annotations io.kubernetes.cri.* of other CRI runtimes, which gVisor and Kata Containers need to recognise pods; needs Docker 24 (API 1.43)")

	f.StringVar(&o.MetricsAddr, "metrics-bind-address", o.MetricsAddr, "address for /metrics, /healthz and /readyz; a port alone means loopback (default: off)")
	f.BoolVar(&o.Profiling, "profiling", o.Profiling, "serve /debug/pprof on the metrics address")
	f.StringVar(&o.TracingEndpoint, "tracing-endpoint", o.TracingEndpoint, "host:port of an OTLP collector for traces, gRPC without TLS (default: off)")

	o.addCompatibilityFlags(f)
	addLogFlags(f)
}

// addCompatibilityFlags adds the hidden flags that cri-dockerd has and cridock names
// otherwise or does not need.
func (o *Options) addCompatibilityFlags(f *pflag.FlagSet) {
	f.StringVar(&o.RootDir, "cri-dockerd-root-directory", o.RootDir, "alias of --root-directory")
	f.StringVar(&o.logLevel, "log-level", o.logLevel, "alias of --v: info, debug or trace")
	for name, why := range obsolete {
		f.String(name, "", "no effect: "+why)
		_ = f.MarkHidden(name) // defined in the line above
		f.Lookup(name).NoOptDefVal = "true"
	}
	for _, name := range []string{"cri-dockerd-root-directory", "log-level"} {
		_ = f.MarkHidden(name) // likewise
	}
}

func addLogFlags(f *pflag.FlagSet) {
	klogFlags := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(klogFlags)
	for _, name := range []string{"v", "vmodule"} {
		f.AddGoFlag(klogFlags.Lookup(name))
	}
}

// defaultDockerConfig returns the file in which docker login keeps credentials. It
// does not use HOME, which services do not have.
func defaultDockerConfig() string {
	dir := os.Getenv("DOCKER_CONFIG")
	if dir == "" {
		u, err := user.Current()
		if err != nil {
			return ""
		}
		dir = filepath.Join(u.HomeDir, ".docker")
	}
	return filepath.Join(dir, "config.json")
}

// Complete applies the configuration file that the parsed flags name, and the
// verbosity. Flags on the command line override the file. It does not validate.
func (o *Options) Complete(f *pflag.FlagSet) error {
	if o.configFile != "" {
		if err := applyFile(f, o.configFile); err != nil {
			return err
		}
	}
	for name, why := range obsolete {
		if f.Changed(name) {
			klog.InfoS("Setting has no effect", "setting", name, "reason", why)
		}
	}
	if o.logLevel != "" {
		if err := f.Set("v", verbosityOf(o.logLevel)); err != nil {
			return err
		}
	}
	return nil
}

// Validate checks what can be checked without touching the system. The error names
// the setting.
func (o *Options) Validate() error {
	if o.NetworkPlugin != "cni" && o.NetworkPlugin != "docker" {
		return fmt.Errorf("network-plugin %q: want cni or docker", o.NetworkPlugin)
	}
	if o.NetworkPlugin == "docker" && (o.DockerNetwork == "none" || o.DockerNetwork == "host" || o.DockerNetwork == "") {
		return fmt.Errorf("docker-network %q: want a network that assigns addresses to containers", o.DockerNetwork)
	}
	if !filepath.IsAbs(o.PodLogsDir) || filepath.Clean(o.PodLogsDir) == "/" {
		return fmt.Errorf("pod-logs-dir %q: want the absolute path of a directory", o.PodLogsDir)
	}
	if o.LogMode != "cri" && o.LogMode != "symlink" {
		return fmt.Errorf("container-log-mode %q: want cri or symlink", o.LogMode)
	}
	if _, err := units.FromHumanSize(o.LogMaxSize); err != nil {
		return fmt.Errorf("docker-log-max-size: %w", err)
	}
	if o.LogMaxFile < 2 {
		return fmt.Errorf("docker-log-max-file %d: want 2 or more: with fewer, lines are lost when Docker rotates the log", o.LogMaxFile)
	}
	if (o.StreamingTLSCert == "") != (o.StreamingTLSKey == "") {
		return fmt.Errorf("streaming-tls-cert and streaming-tls-key must be set together")
	}
	if o.StreamingTLSClientCA != "" && o.StreamingTLSCert == "" {
		return fmt.Errorf("streaming-tls-client-ca needs streaming-tls-cert and streaming-tls-key")
	}
	if o.Profiling && o.MetricsAddr == "" {
		return fmt.Errorf("profiling needs metrics-bind-address")
	}
	if _, err := strconv.ParseBool(o.RestrictOOMScoreAdj); err != nil && o.RestrictOOMScoreAdj != "auto" {
		return fmt.Errorf("restrict-oom-score-adj %q: want auto, true or false", o.RestrictOOMScoreAdj)
	}
	if _, err := strconv.ParseBool(o.ShimGrouping); err != nil && o.ShimGrouping != "auto" {
		return fmt.Errorf("shim-grouping %q: want auto, true or false", o.ShimGrouping)
	}
	return nil
}

// annotationPatterns is a list of patterns as the value of a flag.
type annotationPatterns []translate.AnnotationPattern

func (*annotationPatterns) Type() string { return "patterns" }

func (p *annotationPatterns) String() string {
	texts := make([]string, len(*p))
	for i, a := range *p {
		texts[i] = strings.TrimPrefix(a.Handler+"="+a.Pattern, "=")
	}
	return strings.Join(texts, ",")
}

// Set adds patterns, separated by commas.
func (p *annotationPatterns) Set(list string) error {
	for text := range strings.SplitSeq(list, ",") {
		pattern, err := translate.ParseAnnotationPattern(strings.TrimSpace(text))
		if err != nil {
			return err
		}
		*p = append(*p, pattern)
	}
	return nil
}

// verbosityOf maps cri-dockerd's log levels to klog's verbosity.
func verbosityOf(level string) string {
	switch level {
	case "debug":
		return "4"
	case "trace":
		return "6"
	default:
		return "0"
	}
}

// applyFile sets the flags that are not on the command line from a YAML file whose
// keys are flag names. An unknown key is an error.
func applyFile(f *pflag.FlagSet, path string) error {
	b, err := os.ReadFile(path) //nolint:gosec // a flag names the file
	if err != nil {
		return fmt.Errorf("config: %w", err)
	}
	var settings map[string]any
	if err := yaml.UnmarshalStrict(b, &settings); err != nil {
		return fmt.Errorf("config %s: %w", path, err)
	}
	for key, value := range settings {
		known := f.Lookup(key)
		if known == nil || key == "config" {
			return fmt.Errorf("config %s: unknown key %q", path, key)
		}
		if known.Changed {
			continue
		}
		text, err := settingText(value)
		if err == nil {
			err = f.Set(key, text)
		}
		if err != nil {
			return fmt.Errorf("config %s: %s: %w", path, key, err)
		}
	}
	return nil
}

// settingText converts a YAML value to text for its flag.
func settingText(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case bool:
		return strconv.FormatBool(v), nil
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64), nil
	case []any:
		parts := make([]string, len(v))
		for i, p := range v {
			text, ok := p.(string)
			if !ok {
				return "", fmt.Errorf("want a list of strings")
			}
			parts[i] = text
		}
		return strings.Join(parts, ","), nil
	default:
		return "", fmt.Errorf("want a string, number, boolean or list")
	}
}
