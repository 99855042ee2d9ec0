package main

import (
	"flag"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
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

// options are the settings. Each is a flag; the configuration file uses the same
// names. A setting that cri-dockerd also has is named as there.
type options struct {
	configFile string

	endpoint       string
	dockerEndpoint string
	rootDir        string
	runtimeDir     string
	pauseImage     string
	dockerConfig   string

	networkPlugin string
	dockerNetwork string
	cniConfDir    string
	cniBinDirs    []string
	cniCacheDir   string
	podCIDR       string
	cniTemplate   string

	streamingAddr     string
	streamingCert     string
	streamingKey      string
	streamingClientCA string
	streamingIdle     time.Duration

	podLogsDir string
	logMode    string
	logMaxSize string
	logMaxFile int

	pullDeadline time.Duration
	restrictOOM  string
	shimGrouping string
	logLevel     string

	cdiSpecDirs        []string
	absentMountSources []string
	seccompDefault     string

	podAnnotations       annotationPatterns
	containerAnnotations annotationPatterns
	criAnnotations       []string

	metricsAddr     string
	profiling       bool
	tracingEndpoint string
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

func (o *options) addFlags(f *pflag.FlagSet) {
	f.StringVar(&o.configFile, "config", "", "YAML file with the settings below as keys; flags override it")
	f.StringVar(&o.endpoint, "container-runtime-endpoint", "unix:///run/cridock/cridock.sock", "socket to serve the CRI on; fd:// for a socket from systemd")
	f.StringVar(&o.dockerEndpoint, "docker-endpoint", "unix:///var/run/docker.sock", "address of the Docker Engine, 20.10 (API 1.41) or later")
	f.StringVar(&o.rootDir, "root-directory", "/var/lib/cridock", "persistent state; Docker must see it under the same path")
	f.StringVar(&o.runtimeDir, "runtime-directory", "/run/cridock", "state until the next reboot, such as pinned network namespaces")
	f.StringVar(&o.pauseImage, "pod-infra-container-image", "", "sandbox image (default: the one built into cridock)")

	f.StringVar(&o.dockerConfig, "docker-config", defaultDockerConfig(), "Docker's config.json, with registry credentials and credential helpers for pulls without credentials")

	f.StringVar(&o.networkPlugin, "network-plugin", "cni", "pod network: cni, or docker for one of Docker's own networks")
	f.StringVar(&o.dockerNetwork, "docker-network", "bridge", "Docker network that pods join with --network-plugin=docker")
	f.StringVar(&o.cniConfDir, "cni-conf-dir", "/etc/cni/net.d", "directory of CNI configurations; the lexically first is used, and changes are followed")
	f.StringSliceVar(&o.cniBinDirs, "cni-bin-dir", []string{"/opt/cni/bin", "/usr/lib/cni"}, "directories of CNI plugins, searched in order")
	f.StringVar(&o.cniCacheDir, "cni-cache-dir", "/var/lib/cni/cache", "directory of CNI results and of the records needed to release them")
	f.StringVar(&o.cniTemplate, "cni-conf-template", "", "file with a text/template of a CNI configuration, rendered with .PodCIDR, .PodCIDRRanges and .Routes when the pod CIDRs are known, unless there is another configuration")
	f.StringVar(&o.podCIDR, "pod-cidr", "", "pod CIDRs for CNI's ipRanges until the kubelet sends them")

	f.StringVar(&o.streamingAddr, "streaming-bind-addr", "127.0.0.1:0", "address for exec, attach and port-forward sessions; port 0 for any free port")
	f.StringVar(&o.streamingCert, "streaming-tls-cert", "", "file with the TLS certificate for streaming sessions; read again when it changes")
	f.StringVar(&o.streamingKey, "streaming-tls-key", "", "file with the certificate's key; read again when it changes")
	f.StringVar(&o.streamingClientCA, "streaming-tls-client-ca", "", "file with certificate authorities; streaming clients must have a certificate from one of them; read again when it changes")
	f.DurationVar(&o.streamingIdle, "streaming-idle-timeout", 4*time.Hour, "close streaming sessions idle for this long")

	f.StringVar(&o.podLogsDir, "pod-logs-dir", "/var/log/pods", "the kubelet's podLogsDir; cridock follows no symbolic link below it, and writes logs of adopted containers nowhere else")
	f.StringVar(&o.logMode, "container-log-mode", "cri", "cri: write container logs in CRI format; symlink: link to Docker's JSON files, which the kubelet cannot rotate")
	f.StringVar(&o.logMaxSize, "docker-log-max-size", "128m", "size at which Docker rotates a container's own log")
	f.IntVar(&o.logMaxFile, "docker-log-max-file", 4, "number of files of that log that Docker keeps")

	f.DurationVar(&o.pullDeadline, "image-pull-progress-deadline", 10*time.Minute, "cancel a pull that makes no progress in any phase for this long; 0 for never")
	f.StringVar(&o.restrictOOM, "restrict-oom-score-adj", "auto", "raise oom_score_adj to the minimum that the node allows: auto, true or false")

	f.StringVar(&o.shimGrouping, "shim-grouping", "auto", "use one containerd shim per pod instead of one per container: auto, true or false; needs Docker 24 (API 1.43) and a runtime with runc's shim")

	f.StringSliceVar(&o.cdiSpecDirs, "cdi-spec-dirs", cdi.DefaultSpecDirs, "directories of CDI specifications; later ones take precedence. An engine with CDI uses its own setting instead")
	f.StringSliceVar(&o.absentMountSources, "absent-mount-sources-to-reject", nil, "host paths at and below which a missing mount source is an error, instead of becoming a directory")

	f.StringVar(&o.seccompDefault, "seccomp-default-profile", "", "file with the seccomp profile for RuntimeDefault (default: the engine's)")

	f.Var(&o.podAnnotations, "pod-annotations", "pod annotations to pass to the OCI runtime, as [HANDLER=]PATTERN, for one runtime handler or for all; * matches anything but a slash; needs Docker 24 (API 1.43)")
	f.Var(&o.containerAnnotations, "container-annotations", "the same for container annotations")
	f.StringSliceVar(&o.criAnnotations, "cri-annotations", nil, "runtime handlers that get the annotations io.kubernetes.cri.* of other CRI runtimes, which gVisor and Kata Containers need to recognise pods; needs Docker 24 (API 1.43)")

	f.StringVar(&o.metricsAddr, "metrics-bind-address", "", "address for /metrics, /healthz and /readyz; a port alone means loopback (default: off)")
	f.BoolVar(&o.profiling, "profiling", false, "serve /debug/pprof on the metrics address")
	f.StringVar(&o.tracingEndpoint, "tracing-endpoint", "", "host:port of an OTLP collector for traces, gRPC without TLS (default: off)")

	f.StringVar(&o.rootDir, "cri-dockerd-root-directory", o.rootDir, "alias of --root-directory")
	f.StringVar(&o.logLevel, "log-level", "", "alias of --v: info, debug or trace")
	for name, why := range obsolete {
		f.String(name, "", "no effect: "+why)
		_ = f.MarkHidden(name) // defined in the line above
		f.Lookup(name).NoOptDefVal = "true"
	}
	for _, name := range []string{"cri-dockerd-root-directory", "log-level"} {
		_ = f.MarkHidden(name) // likewise
	}
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

// complete reads the configuration file and checks what can be checked without
// touching the system.
func (o *options) complete(f *pflag.FlagSet) error {
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
	return o.validate()
}

func (o *options) validate() error {
	if o.networkPlugin != "cni" && o.networkPlugin != "docker" {
		return fmt.Errorf("network-plugin %q: want cni or docker", o.networkPlugin)
	}
	if o.networkPlugin == "docker" && (o.dockerNetwork == "none" || o.dockerNetwork == "host" || o.dockerNetwork == "") {
		return fmt.Errorf("docker-network %q: want a network that assigns addresses to containers", o.dockerNetwork)
	}
	if !filepath.IsAbs(o.podLogsDir) || filepath.Clean(o.podLogsDir) == "/" {
		return fmt.Errorf("pod-logs-dir %q: want the absolute path of a directory", o.podLogsDir)
	}
	if o.logMode != "cri" && o.logMode != "symlink" {
		return fmt.Errorf("container-log-mode %q: want cri or symlink", o.logMode)
	}
	if _, err := units.FromHumanSize(o.logMaxSize); err != nil {
		return fmt.Errorf("docker-log-max-size: %w", err)
	}
	if o.logMaxFile < 2 {
		return fmt.Errorf("docker-log-max-file %d: want 2 or more: with fewer, lines are lost when Docker rotates the log", o.logMaxFile)
	}
	if (o.streamingCert == "") != (o.streamingKey == "") {
		return fmt.Errorf("streaming-tls-cert and streaming-tls-key must be set together")
	}
	if o.streamingClientCA != "" && o.streamingCert == "" {
		return fmt.Errorf("streaming-tls-client-ca needs streaming-tls-cert and streaming-tls-key")
	}
	if o.profiling && o.metricsAddr == "" {
		return fmt.Errorf("profiling needs metrics-bind-address")
	}
	if _, err := strconv.ParseBool(o.restrictOOM); err != nil && o.restrictOOM != "auto" {
		return fmt.Errorf("restrict-oom-score-adj %q: want auto, true or false", o.restrictOOM)
	}
	if _, err := strconv.ParseBool(o.shimGrouping); err != nil && o.shimGrouping != "auto" {
		return fmt.Errorf("shim-grouping %q: want auto, true or false", o.shimGrouping)
	}
	return nil
}

// annotationPatterns is the value of a flag with a list of patterns.
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
