package translate

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/go-connections/nat"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// sandboxOOMScoreAdj makes the kernel kill almost everything else before a pause
	// process, whose death ends the pod.
	sandboxOOMScoreAdj = -998
	// sandboxCPUShares is the kernel's minimum: a pause process sleeps.
	sandboxCPUShares = 2
	// shmSize is Docker's default size of /dev/shm, whatever the daemon's setting, for
	// pods that request none.
	shmSize = 64 << 20
)

// Create is the content of a POST /containers/create.
type Create struct {
	Name       string
	Config     *container.Config
	HostConfig *container.HostConfig
	Networking *network.NetworkingConfig
	// Seam is nil unless HostConfig.Runtime is cridock-runtime.
	Seam *Seam `json:",omitempty"`
}

// SandboxRequest is a RunPodSandbox request with what the caller looked up.
type SandboxRequest struct {
	Config         *runtimeapi.PodSandboxConfig
	RuntimeHandler string
	// ImageID is the pause image's ID.
	ImageID string
	// ResolvConf is the host file to bind over /etc/resolv.conf; "" for none.
	// Containers that join the sandbox inherit it.
	ResolvConf string
	// Network is the Docker network to use, "" if CNI connects the pod.
	Network string
	// SeccompProfile is the content of the file at [SeccompProfilePath].
	SeccompProfile []byte
	// EarlyNetwork has cridock-runtime take care of the network namespace, if CNI
	// connects the pod and cridock-runtime can execute its runtime.
	EarlyNetwork bool
}

// DockerSandbox returns the request to create the container that holds a pod's
// namespaces. It validates req as [ValidateSandboxConfig] does. It omits sysctls
// of interfaces that CNI creates later, see [InterfaceSysctls].
func DockerSandbox(req SandboxRequest, host Host) (*Create, error) {
	cfg := req.Config
	if err := ValidateSandboxConfig(cfg); err != nil {
		return nil, err
	}
	if req.ImageID == "" {
		return nil, invalid("image", "no sandbox image ID found")
	}
	rec := record{RuntimeHandler: req.RuntimeHandler}
	recorded, err := encodeRecord(rec, cfg)
	if err != nil {
		return nil, err
	}
	if req.RuntimeHandler, err = req.pauseHandler(host); err != nil {
		return nil, err
	}
	hostConfig, err := sandboxHostConfig(req, host)
	if err != nil {
		return nil, err
	}
	user, _ := sandboxUser(cfg.GetLinux().GetSecurityContext())
	config := &container.Config{
		User:        user,
		Image:       req.ImageID,
		Labels:      dockerLabels(cfg.GetLabels(), cfg.GetAnnotations(), sandboxLabels(cfg.GetMetadata(), recorded)),
		Healthcheck: noHealthcheck(),
		StopSignal:  "SIGTERM",
	}
	if !isHost(sandboxNamespaces(cfg).GetNetwork()) {
		// With the host's network, Docker uses the host's name and refuses another.
		config.Hostname = cfg.GetHostname()
	}
	publishPorts(req, config, hostConfig)
	create := &Create{Name: SandboxName(cfg.GetMetadata()), Config: config, HostConfig: hostConfig}
	if err := create.enterUserNamespace(sandboxNamespaces(cfg), req.RuntimeHandler, host); err != nil {
		return nil, err
	}
	if err := create.addBaseHooks(req.RuntimeHandler, host); err != nil {
		return nil, err
	}
	create.annotate(req.runtimeAnnotations(host), req.RuntimeHandler, host)
	create.networkEarly(req, host)
	host.Seal.stamp(create)
	return create, nil
}

// pauseHandler returns the handler by whose runtime the pause container runs: the pod's,
// or the operator's choice if the pod requests none. User namespaces are checked for the
// pod's, so these pods keep it.
func (r SandboxRequest) pauseHandler(host Host) (string, error) {
	requested, err := RuntimeHandler(r.RuntimeHandler, host)
	if err != nil || requested != "" || host.PauseRuntime == "" {
		return r.RuntimeHandler, err
	}
	if host.UsernsRemap || podUserns(sandboxNamespaces(r.Config)) != nil {
		return r.RuntimeHandler, nil
	}
	if !slices.Contains(runtimeNames(host), host.PauseRuntime) {
		return "", unmet("runtime_handler", "the setting pause-runtime names %q; this engine has %q: register the runtime with the engine or correct the setting",
			host.PauseRuntime, runtimeNames(host))
	}
	return host.PauseRuntime, nil
}

func sandboxHostConfig(req SandboxRequest, host Host) (*container.HostConfig, error) {
	linux := req.Config.GetLinux()
	sc := linux.GetSecurityContext()
	runtime, err := RuntimeHandler(req.RuntimeHandler, host)
	if err != nil {
		return nil, err
	}
	parent, err := cgroupParent(linux.GetCgroupParent(), host)
	if err != nil {
		return nil, err
	}
	opts, err := securityOpt(confinement{
		in:              "linux.security_context.",
		privileged:      sc.GetPrivileged(),
		noNewPrivileges: true,
		selinux:         sc.GetSelinuxOptions(),
		seccomp:         sc.GetSeccomp(),
		seccompPath:     sc.GetSeccompProfilePath(),
		seccompProfile:  req.SeccompProfile,
		apparmor:        sc.GetApparmor(),
	}, host)
	if err != nil {
		return nil, err
	}
	if sc.GetPrivileged() && len(selinuxOpts(sc.GetSelinuxOptions())) == 0 {
		opts = append(opts, "label=disable")
	}
	_, groups := sandboxUser(sc)
	hc := baseHostConfig(host)
	hc.LogConfig = container.LogConfig{Type: "none"}
	hc.NetworkMode = sandboxNetworkMode(req)
	hc.ShmSize, _ = podShmSize(req.Config) // was validated
	hc.IpcMode = container.IPCModeShareable
	if isHost(sc.GetNamespaceOptions().GetIpc()) {
		hc.IpcMode = container.IPCModeHost
	}
	if isHost(sc.GetNamespaceOptions().GetPid()) {
		hc.PidMode = "host"
	}
	hc.UsernsMode = sandboxUsernsMode(sc, host)
	hc.GroupAdd = groups
	hc.ReadonlyRootfs = sc.GetReadonlyRootfs()
	hc.SecurityOpt = opts
	hc.Sysctls, _ = InterfaceSysctls(host.SandboxSysctls(req.Config))
	hc.Runtime = runtime
	hc.OomScoreAdj = max(sandboxOOMScoreAdj, host.MinOOMScoreAdj)
	hc.CPUShares = sandboxCPUShares
	hc.CgroupParent = parent
	hc.Mounts = resolvConfMount(req.ResolvConf, host)
	hc.Annotations, err = sandboxAnnotations(req, host)
	return hc, err
}

// baseHostConfig returns the settings that sandboxes and containers share:
// everything that would otherwise follow the daemon's defaults.
func baseHostConfig(host Host) *container.HostConfig {
	noInit := false
	hc := &container.HostConfig{
		RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyDisabled},
		Init:          &noInit,
		ShmSize:       shmSize,
		CgroupnsMode:  container.CgroupnsModeHost,
	}
	if host.CgroupV2 {
		hc.CgroupnsMode = container.CgroupnsModePrivate
	}
	return hc
}

// sandboxUsernsMode returns "host" for pods to keep out of the user namespace into
// which the daemon maps all containers: those that Docker refuses there. All other
// pods are in it, whatever the CRI requests: an image's files have owners of that
// namespace.
func sandboxUsernsMode(sc *runtimeapi.LinuxSandboxSecurityContext, host Host) container.UsernsMode {
	ns := sc.GetNamespaceOptions()
	if host.UsernsRemap && (sc.GetPrivileged() || isHost(ns.GetNetwork()) || isHost(ns.GetPid()) || isHost(ns.GetIpc())) {
		return "host"
	}
	return ""
}

// noHealthcheck disables an image's HEALTHCHECK: the kubelet does the probing.
func noHealthcheck() *container.HealthConfig {
	return &container.HealthConfig{Test: []string{"NONE"}}
}

func sandboxNamespaces(cfg *runtimeapi.PodSandboxConfig) *runtimeapi.NamespaceOption {
	return cfg.GetLinux().GetSecurityContext().GetNamespaceOptions()
}

func isHost(mode runtimeapi.NamespaceMode) bool { return mode == runtimeapi.NamespaceMode_NODE }

func sandboxNetworkMode(req SandboxRequest) container.NetworkMode {
	switch {
	case isHost(sandboxNamespaces(req.Config).GetNetwork()):
		return network.NetworkHost
	case req.Network != "":
		return container.NetworkMode(req.Network)
	}
	return network.NetworkNone
}

// publishPorts has Docker publish host ports if the pod is on one of its networks;
// otherwise CNI does.
func publishPorts(req SandboxRequest, config *container.Config, hc *container.HostConfig) {
	if req.Network == "" || hc.NetworkMode.IsHost() {
		return
	}
	for _, m := range req.Config.GetPortMappings() {
		if m.GetHostPort() <= 0 {
			continue
		}
		port := nat.Port(strconv.Itoa(int(m.GetContainerPort())) + "/" + strings.ToLower(m.GetProtocol().String()))
		if config.ExposedPorts == nil {
			config.ExposedPorts, hc.PortBindings = nat.PortSet{}, nat.PortMap{}
		}
		config.ExposedPorts[port] = struct{}{}
		hc.PortBindings[port] = append(hc.PortBindings[port], nat.PortBinding{
			HostIP: m.GetHostIp(), HostPort: strconv.Itoa(int(m.GetHostPort())),
		})
	}
}

// resolvConfMount binds a file over /etc/resolv.conf. Docker then uses it as the
// sandbox's own and passes it to every container that joins the sandbox's network.
// Rewriting Docker's own file afterwards would not last.
func resolvConfMount(file string, host Host) []mount.Mount {
	if file == "" {
		return nil
	}
	return []mount.Mount{{
		Type:        mount.TypeBind,
		Source:      file,
		Target:      "/etc/resolv.conf",
		BindOptions: &mount.BindOptions{Propagation: privatePropagation(file, host)},
	}}
}

// cgroupParent returns Docker's CgroupParent: under systemd only the slice's name,
// as systemd knows its path.
func cgroupParent(parent string, host Host) (string, error) {
	if parent == "" || host.CgroupDriver != "systemd" {
		return parent, nil
	}
	slice := path.Base(parent)
	if !strings.HasSuffix(slice, ".slice") || slice == ".slice" {
		return "", invalid("linux.cgroup_parent", "%q does not end in a systemd slice; the engine uses the cgroup driver systemd: configure the kubelet to use it too", parent)
	}
	return slice, nil
}

// shimGroup returns the same value for a sandbox and its containers. A sandbox's
// ID isn't known before it is created, so the value comes from its metadata.
func shimGroup(m *runtimeapi.PodSandboxMetadata) string {
	sum := sha256.Sum256([]byte(SandboxName(m)))
	return "pod-" + hex.EncodeToString(sum[:16])
}

// InterfaceSysctls splits sysctls into those to create a sandbox with and those of
// network interfaces that exist only after CNI has run; the caller must then write
// these in the sandbox's network namespace. A nil map means none.
func InterfaceSysctls(sysctls map[string]string) (atCreate, afterCNI map[string]string) {
	for key, value := range sysctls {
		into := &atCreate
		if namesInterface(key) {
			into = &afterCNI
		}
		if *into == nil {
			*into = map[string]string{}
		}
		(*into)[key] = value
	}
	return atCreate, afterCNI
}

// ResetByCNI reports whether a sysctl is one that is changed before CNI connects a
// sandbox, so that the pod's value must be set again afterwards: IPv6 is enabled then.
func ResetByCNI(key string) bool { return strings.HasSuffix(key, "disable_ipv6") }

// namesInterface reports whether key is net.<family>.<conf|neigh>.<interface>.…,
// with dots or slashes.
func namesInterface(key string) bool {
	parts := strings.Split(dottedSysctl(key), ".")
	if len(parts) < 5 || parts[0] != "net" || (parts[2] != "conf" && parts[2] != "neigh") {
		return false
	}
	switch parts[3] {
	case "all", "default", "lo":
		return false
	}
	return true
}

// dottedSysctl returns a sysctl's name with dots between its parts. The first
// separator decides the form; the other character then belongs to a part.
func dottedSysctl(key string) string {
	if i := strings.IndexAny(key, "./"); i < 0 || key[i] == '.' {
		return key
	}
	return strings.NewReplacer("/", ".", ".", "/").Replace(key)
}

// ResolvConf returns the content of a resolv.conf, nil for an empty configuration:
// the pod then gets the host's.
func ResolvConf(dns *runtimeapi.DNSConfig) []byte {
	var b strings.Builder
	if len(dns.GetSearches()) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(dns.GetSearches(), " "))
	}
	for _, server := range dns.GetServers() {
		fmt.Fprintf(&b, "nameserver %s\n", server)
	}
	if len(dns.GetOptions()) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(dns.GetOptions(), " "))
	}
	if b.Len() == 0 {
		return nil
	}
	return []byte(b.String())
}
