package app

import (
	"flag"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/klog/v2"
	"tags.cncf.io/container-device-interface/pkg/cdi"

	"github.com/cridock/cridock/shim/nri"
	"github.com/cridock/cridock/translate"
)

// Options are the settings of a cridock process. Get them from NewOptions: the zero
// value is not usable. Each field is the setting named in its comment, which is also
// the name of its flag and its key in the configuration file. A setting that
// cri-dockerd also has is named as there. docs/settings.md describes them all.
type Options struct {
	// Version is what cridock calls itself in the CRI, in traces and in its log.
	Version string
	// OwnProcess means that the process is cridock's own, as in [Main]: it takes a
	// socket that systemd passes, tells systemd when it is ready and that it is alive,
	// and with a command line of [Main] reads its configuration again on SIGHUP.
	// Leave it false inside another program.
	OwnProcess bool

	Endpoint       string // container-runtime-endpoint
	SocketMode     string // socket-mode, octal
	SocketGroup    string // socket-group, a name or number; empty: the process's
	SocketLink     string // socket-link; empty: none
	DockerEndpoint string // docker-endpoint
	RootDir        string // root-directory
	RuntimeDir     string // runtime-directory
	PauseImage     string // pod-infra-container-image; empty: the built-in one
	DockerConfig   string // docker-config; empty: none

	RegistryConfigDir string   // registry-config-dir; empty: no mirrors
	NamespacedAuthDir string   // namespaced-auth-dir; empty: none
	ImageVerifierDir  string   // image-verifier-dir; empty: any image
	PinnedImages      []string // pinned-images: patterns
	CheckpointImages  []string // checkpoint-images: patterns
	ArtifactStoreSize string   // artifact-store-size, as Docker writes sizes; 0: no artifacts

	NetworkPlugin   string   // network-plugin: cni or docker; empty: docker
	DockerNetwork   string   // docker-network
	CNIConfDir      string   // cni-conf-dir
	CNIBinDirs      []string // cni-bin-dir
	CNICacheDir     string   // cni-cache-dir
	PodCIDR         string   // pod-cidr; empty: what the kubelet sends
	CNIConfTemplate string   // cni-conf-template; empty: none
	EarlyNetwork    bool     // early-network

	PauseRuntime string // pause-runtime; empty: the engine's default

	StreamingAddr        string        // streaming-bind-addr; empty: loopback
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
	DefaultUlimits       []string      // default-ulimits: NAME=SOFT[:HARD]

	NRI                    bool          // nri
	NRISocketPath          string        // nri-socket-path; empty: no connections
	NRIPluginPath          string        // nri-plugin-path
	NRIPluginConfigPath    string        // nri-plugin-config-path
	NRIRegistrationTimeout time.Duration // nri-plugin-registration-timeout
	NRIRequestTimeout      time.Duration // nri-plugin-request-timeout
	NRIReject              []string      // nri-reject: kinds of adjustments
	NRIRequiredPlugins     []string      // nri-required-plugins
	NRITolerateAnnotation  string        // nri-tolerate-missing-plugins-annotation; empty: none

	CDISpecDirs                []string // cdi-spec-dirs
	AbsentMountSourcesToReject []string // absent-mount-sources-to-reject
	SeccompDefaultProfile      string   // seccomp-default-profile; empty: the engine's

	PodAnnotations       []translate.AnnotationPattern // pod-annotations
	ContainerAnnotations []translate.AnnotationPattern // container-annotations
	CRIAnnotations       []string                      // cri-annotations: runtime handlers

	ImageVolumes                 string   // image-volumes: docker, directory or ignore
	BlockIOConfigFile            string   // blockio-config-file; empty: none
	BaseRuntimeSpec              string   // base-runtime-spec; empty: none
	SharedUTS                    bool     // shared-uts-namespace
	DeviceOwnership              bool     // device-ownership-from-security-context
	PrivilegedWithoutHostDevices []string // privileged-without-host-devices: runtime handlers
	WritableCgroups              []string // writable-cgroups: runtime handlers
	RDTClasses                   []string // rdt-classes: resctrl groups
	ExecCPUAffinity              string   // exec-cpu-affinity: "" or first

	MetricsAddr string // metrics-bind-address; empty: off
	Profiling   bool   // profiling; needs MetricsAddr

	MetricsTLSCert     string // metrics-tls-cert; empty: no TLS
	MetricsTLSKey      string // metrics-tls-key
	MetricsTLSClientCA string // metrics-tls-client-ca; empty: any client

	TracingEndpoint string // tracing-endpoint; empty: off

	configFile, configDir string // only on the command line
	logLevel              string
	settings              *pflag.FlagSet // by AddFlags
	loaded                *configuration // by Complete
	reloads               chan os.Signal // nil: no reloads
}

// NewOptions returns the default settings.
func NewOptions() *Options {
	return &Options{
		Version:              devVersion,
		Endpoint:             "unix:///run/cridock/cridock.sock",
		SocketMode:           "0660",
		DockerEndpoint:       "unix:///var/run/docker.sock",
		RootDir:              "/var/lib/cridock",
		RuntimeDir:           "/run/cridock",
		DockerConfig:         defaultDockerConfig(),
		RegistryConfigDir:    "/etc/cridock/certs.d",
		ArtifactStoreSize:    "10g",
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
		ImageVolumes:         string(translate.DockerVolumes),

		NRISocketPath: nri.DefaultSocketPath, NRIPluginPath: nri.DefaultPluginPath, NRIPluginConfigPath: nri.DefaultPluginConfigPath,
		NRIRegistrationTimeout: nri.DefaultRegistrationTimeout, NRIRequestTimeout: nri.DefaultRequestTimeout,

		CDISpecDirs: slices.Clone(cdi.DefaultSpecDirs),
		configDir:   "/etc/cridock/conf.d",
	}
}

// AddFlags adds a flag for each setting, with the current value as its default, and
// for klog's v and vmodule. Call it once, before Complete.
func (o *Options) AddFlags(f *pflag.FlagSet) {
	o.settings = f
	f.StringVar(&o.configFile, "config", o.configFile, "YAML file with the settings below as keys; flags override it")
	f.StringVar(&o.configDir, "config-dir", o.configDir, "directory of more such files, *.yaml, read in the order of their names; later ones override earlier ones and --config")
	f.StringVar(&o.Endpoint, "container-runtime-endpoint", o.Endpoint, "socket to serve the CRI on; fd:// for a socket from systemd")
	f.StringVar(&o.SocketMode, "socket-mode", o.SocketMode, "mode of that socket, octal; a socket from systemd has its unit's")
	f.StringVar(&o.SocketGroup, "socket-group", o.SocketGroup, "group of that socket (default: the process's); its members are as good as root")
	f.StringVar(&o.SocketLink, "socket-link", o.SocketLink, "path of a symbolic link to that socket while cridock runs, for clients that use another path, such as /var/run/cri-dockerd.sock (default: none)")
	f.StringVar(&o.DockerEndpoint, "docker-endpoint", o.DockerEndpoint, "address of the Docker Engine, 20.10 (API 1.41) or later")
	f.StringVar(&o.RootDir, "root-directory", o.RootDir, "persistent state; Docker must see it under the same path")
	f.StringVar(&o.RuntimeDir, "runtime-directory", o.RuntimeDir, "state until the next reboot, such as pinned network namespaces")
	f.StringVar(&o.PauseImage, "pod-infra-container-image", o.PauseImage, "sandbox image (default: the one built into cridock)")

	o.addImageFlags(f)

	f.StringVar(&o.NetworkPlugin, "network-plugin", o.NetworkPlugin, "pod network: cni, or docker for one of Docker's own networks; empty or no-op mean docker, as in cri-dockerd")
	f.StringVar(&o.DockerNetwork, "docker-network", o.DockerNetwork, "Docker network that pods join with --network-plugin=docker")
	f.StringVar(&o.CNIConfDir, "cni-conf-dir", o.CNIConfDir, "directory of CNI configurations; the lexically first is used, and changes are followed")
	f.StringSliceVar(&o.CNIBinDirs, "cni-bin-dir", o.CNIBinDirs, "directories of CNI plugins, searched in order")
	f.StringVar(&o.CNICacheDir, "cni-cache-dir", o.CNICacheDir, "directory of CNI results and of the records needed to release them")
	f.StringVar(&o.CNIConfTemplate, "cni-conf-template", o.CNIConfTemplate, "file with a text/template of a CNI configuration, rendered with .PodCIDR, .PodCIDRRanges and .Routes when the pod CIDRs are known, unless there is another configuration")
	f.BoolVar(&o.EarlyNetwork, "early-network", o.EarlyNetwork, "have cridock-runtime, if the engine has it, take care of the sandboxes' network namespaces, which is faster; CNI then connects them while Docker starts the sandbox (Docker 26.1 and later)")
	f.StringVar(&o.PauseRuntime, "pause-runtime", o.PauseRuntime, "Docker runtime of the sandboxes of pods that request none, such as crun; empty for the engine's default runtime, which their containers have in any case")
	f.StringVar(&o.PodCIDR, "pod-cidr", o.PodCIDR, "pod CIDRs for CNI's ipRanges until the kubelet sends them")

	f.StringVar(&o.StreamingAddr, "streaming-bind-addr", o.StreamingAddr, "address for exec, attach and port-forward sessions; port 0, or none, for any free port")
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

	f.StringSliceVar(&o.DefaultUlimits, "default-ulimits", o.DefaultUlimits, "resource limits of all containers' processes, as NAME=SOFT:HARD or NAME=LIMIT, such as nofile=1024:524288; the engine's defaults have the rest")

	f.StringVar(&o.ShimGrouping, "shim-grouping", o.ShimGrouping, "use one containerd shim per pod instead of one per container: auto, true or false; needs Docker 24 (API 1.43) and a runtime with runc's shim")

	f.StringSliceVar(&o.CDISpecDirs, "cdi-spec-dirs", o.CDISpecDirs, "directories of CDI specifications; later ones take precedence. An engine with CDI uses its own setting instead")
	f.StringSliceVar(&o.AbsentMountSourcesToReject, "absent-mount-sources-to-reject", o.AbsentMountSourcesToReject, "host paths at and below which a missing mount source is an error, instead of becoming a directory")

	f.StringVar(&o.SeccompDefaultProfile, "seccomp-default-profile", o.SeccompDefaultProfile, "file with the seccomp profile for RuntimeDefault (default: the engine's)")

	f.Var(&annotationPatterns{list: &o.PodAnnotations}, "pod-annotations", "pod annotations to pass to the OCI runtime, as [HANDLER=]PATTERN, for one runtime handler or for all; * matches anything but a slash; needs Docker 24 (API 1.43)")
	f.Var(&annotationPatterns{list: &o.ContainerAnnotations}, "container-annotations", "the same for container annotations")
	f.StringSliceVar(&o.CRIAnnotations, "cri-annotations", o.CRIAnnotations, "runtime handlers that get the annotations io.kubernetes.cri.* of other CRI runtimes, which gVisor and Kata Containers need to recognise pods; needs Docker 24 (API 1.43)")

	o.addRuntimeFlags(f)

	f.StringVar(&o.MetricsAddr, "metrics-bind-address", o.MetricsAddr, "address for /metrics, /healthz and /readyz: host:port, a port for loopback, or unix:///path (default: off)")
	f.StringVar(&o.MetricsTLSCert, "metrics-tls-cert", o.MetricsTLSCert, "file with the TLS certificate for that address; read again when it changes")
	f.StringVar(&o.MetricsTLSKey, "metrics-tls-key", o.MetricsTLSKey, "file with the certificate's key; read again when it changes")
	f.StringVar(&o.MetricsTLSClientCA, "metrics-tls-client-ca", o.MetricsTLSClientCA, "file with certificate authorities; clients of that address must have a certificate from one of them; read again when it changes")
	f.BoolVar(&o.Profiling, "profiling", o.Profiling, "serve /debug/pprof on the metrics address")
	f.StringVar(&o.TracingEndpoint, "tracing-endpoint", o.TracingEndpoint, "OTLP collector for traces, gRPC: https://host:port, or host:port without TLS; the standard OTEL_* environment variables set headers, TLS, sampling and more (default: off)")

	o.addNRIFlags(f)
	o.addCompatibilityFlags(f)
	addLogFlags(f)
}

// addRuntimeFlags adds the flags about what containers get besides their requests.
func (o *Options) addRuntimeFlags(f *pflag.FlagSet) {
	f.StringVar(&o.ImageVolumes, "image-volumes", o.ImageVolumes, "what becomes of volumes that an image declares: docker for Docker's anonymous volumes, removed with the container; directory for directories of the pod, which a restarted container finds again; ignore for none, which needs cridock-runtime")
	f.StringVar(&o.BlockIOConfigFile, "blockio-config-file", o.BlockIOConfigFile, "file with the classes of block I/O that annotations of pods can name, as for containerd and CRI-O (default: none)")
	f.StringVar(&o.BaseRuntimeSpec, "base-runtime-spec", o.BaseRuntimeSpec, "file with the process.env, process.rlimits, linux.sysctl and hooks, as in an OCI runtime specification, that all containers get; hooks need cridock-runtime (default: none)")
	f.BoolVar(&o.SharedUTS, "shared-uts-namespace", o.SharedUTS, "let the containers of a pod share its UTS namespace, so that all see a changed host name; needs cridock-runtime")
	f.BoolVar(&o.DeviceOwnership, "device-ownership-from-security-context", o.DeviceOwnership, "let a container's user and group (runAsUser, runAsGroup) own the devices that it requests; needs cridock-runtime")
	f.StringSliceVar(&o.PrivilegedWithoutHostDevices, "privileged-without-host-devices", o.PrivilegedWithoutHostDevices, "runtime handlers whose privileged containers have only the devices that they request; needs cridock-runtime")
	f.StringSliceVar(&o.WritableCgroups, "writable-cgroups", o.WritableCgroups, "runtime handlers whose containers can write to their cgroups; needs cgroup v2 and cridock-runtime")
	f.StringSliceVar(&o.RDTClasses, "rdt-classes", o.RDTClasses, "classes of Intel RDT that annotations of pods can name: groups in /sys/fs/resctrl, which you make; needs cridock-runtime")
	f.StringVar(&o.ExecCPUAffinity, "exec-cpu-affinity", o.ExecCPUAffinity, "first: processes of exec sessions, such as probes, start on the first CPU of the cpuset of a container that has one; needs cridock-runtime (default: on any of its CPUs)")
}

// addImageFlags adds the flags about images and registries.
func (o *Options) addImageFlags(f *pflag.FlagSet) {
	f.StringVar(&o.DockerConfig, "docker-config", o.DockerConfig, "Docker's config.json, with registry credentials and credential helpers for pulls without credentials")
	f.StringVar(&o.RegistryConfigDir, "registry-config-dir", o.RegistryConfigDir, "directory of registries' mirrors, as HOST/hosts.toml in containerd's format; _default is for registries without a directory")
	f.StringVar(&o.NamespacedAuthDir, "namespaced-auth-dir", o.NamespacedAuthDir, "directory of registry credentials for the pods of a namespace, as NAMESPACE-SHA256.json like CRI-O's; each is removed by the pull that uses it (default: none)")
	f.StringVar(&o.ImageVerifierDir, "image-verifier-dir", o.ImageVerifierDir, "directory of executables, called as containerd calls its image verifiers, that must all accept an image before it is pulled (default: any image is)")
	f.StringVar(&o.ArtifactStoreSize, "artifact-store-size", o.ArtifactStoreSize, "how much disk the OCI artifacts that pods mount as image volumes may use, below root-directory; 0 for no artifacts")
	f.StringSliceVar(&o.PinnedImages, "pinned-images", o.PinnedImages, "images that the kubelet's garbage collection keeps, besides the sandbox image; * matches any text")
	f.StringSliceVar(&o.CheckpointImages, "checkpoint-images", o.CheckpointImages, "images, and absolute paths of archives, that are checkpoints, from which containers are restored: who made one decides what these containers do; * matches any text (default: none)")
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

// annotationPatterns is a list of patterns as the value of a flag. Like other lists,
// the first value replaces the default, and later ones are added.
type annotationPatterns struct {
	list *[]translate.AnnotationPattern
	set  bool
}

func (*annotationPatterns) Type() string { return "patterns" }

func (p *annotationPatterns) String() string {
	if p.list == nil {
		return "" // pflag calls it on a zero value
	}
	texts := make([]string, len(*p.list))
	for i, a := range *p.list {
		texts[i] = strings.TrimPrefix(a.Handler+"="+a.Pattern, "=")
	}
	return strings.Join(texts, ",")
}

// Set adds patterns, separated by commas.
func (p *annotationPatterns) Set(text string) error {
	var patterns []translate.AnnotationPattern
	if text != "" {
		for part := range strings.SplitSeq(text, ",") {
			pattern, err := translate.ParseAnnotationPattern(strings.TrimSpace(part))
			if err != nil {
				return err
			}
			patterns = append(patterns, pattern)
		}
	}
	if p.set {
		patterns = append(*p.list, patterns...)
	}
	*p.list, p.set = patterns, true
	return nil
}
