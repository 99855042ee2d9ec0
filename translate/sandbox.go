package translate

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/go-connections/nat"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// sandboxOOMScoreAdj keeps the kernel from killing a pause process, and with
	// it a pod, while anything else is left to kill.
	sandboxOOMScoreAdj = -998
	// sandboxCPUShares is the least the kernel knows: a pause process sleeps.
	sandboxCPUShares = 2
	// shmSize is Docker's usual size of /dev/shm, made independent of the daemon.
	shmSize = 64 << 20

	// shimGroupAnnotation makes containerd's runc shim serve all containers with
	// the same value from one process.
	shimGroupAnnotation = "io.containerd.runc.v2.group"
)

// Create is one POST /containers/create.
type Create struct {
	Name       string
	Config     *container.Config
	HostConfig *container.HostConfig
	Networking *network.NetworkingConfig
}

// SandboxRequest is a RunPodSandbox request with what the caller looked up.
type SandboxRequest struct {
	Config         *runtimeapi.PodSandboxConfig
	RuntimeHandler string
	// ImageID is the pause image's ID.
	ImageID string
	// ResolvConf is the file on the host to bind on /etc/resolv.conf; "" for none.
	// Containers that join the sandbox inherit it.
	ResolvConf string
	// Network is "" when CNI connects the pod, else the Docker network to use.
	Network string
	// SeccompProfile is the content of the file [SeccompProfilePath] names.
	SeccompProfile []byte
}

// DockerSandbox gives the container that holds a pod's namespaces. The request
// is validated as by [ValidateSandboxConfig]. Sysctls of interfaces that CNI
// makes later are left out, see [InterfaceSysctls].
func DockerSandbox(req SandboxRequest, host Host) (*Create, error) {
	cfg := req.Config
	if err := ValidateSandboxConfig(cfg); err != nil {
		return nil, err
	}
	if req.ImageID == "" {
		return nil, invalid("image", "no ID of the sandbox image given")
	}
	rec := record{RuntimeHandler: req.RuntimeHandler}
	recorded, err := encodeRecord(rec, cfg)
	if err != nil {
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
		// With the host's network the host's name shows too; Docker refuses another.
		config.Hostname = cfg.GetHostname()
	}
	publishPorts(req, config, hostConfig)
	create := &Create{Name: SandboxName(cfg.GetMetadata()), Config: config, HostConfig: hostConfig}
	host.Seal.stamp(create)
	return create, nil
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
	sysctls, _ := InterfaceSysctls(linux.GetSysctls())
	_, groups := sandboxUser(sc)
	hc := baseHostConfig(host)
	hc.LogConfig = container.LogConfig{Type: "none"}
	hc.NetworkMode = sandboxNetworkMode(req)
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
	hc.Sysctls = sysctls
	hc.Runtime = runtime
	hc.OomScoreAdj = max(sandboxOOMScoreAdj, host.MinOOMScoreAdj)
	hc.CPUShares = sandboxCPUShares
	hc.CgroupParent = parent
	hc.Annotations = sandboxAnnotations(req, host)
	hc.Mounts = resolvConfMount(req.ResolvConf, host)
	return hc, nil
}

// baseHostConfig is what sandboxes and containers share: everything that would
// otherwise follow the daemon's defaults.
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

// sandboxUsernsMode says which pods are left out of the user namespace that the
// daemon maps all containers into: those that could not do there what they are
// to do, as Docker refuses them. Others are in it, whatever the CRI says of user
// namespaces: an image's files have owners of that namespace.
func sandboxUsernsMode(sc *runtimeapi.LinuxSandboxSecurityContext, host Host) container.UsernsMode {
	ns := sc.GetNamespaceOptions()
	if host.UsernsRemap && (sc.GetPrivileged() || isHost(ns.GetNetwork()) || isHost(ns.GetPid()) || isHost(ns.GetIpc())) {
		return "host"
	}
	return ""
}

// noHealthcheck turns an image's HEALTHCHECK off: probing is the kubelet's.
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

// publishPorts lets Docker publish host ports when the pod is on one of its
// networks; otherwise that is CNI's.
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

// resolvConfMount binds a file on /etc/resolv.conf. Docker then takes that file
// for the sandbox's own and gives it to every container that joins the
// sandbox's network, which no rewriting afterwards would survive.
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

// cgroupParent gives Docker's CgroupParent: under systemd the slice alone, as
// systemd knows where it is.
func cgroupParent(parent string, host Host) (string, error) {
	if parent == "" || host.CgroupDriver != "systemd" {
		return parent, nil
	}
	slice := path.Base(parent)
	if !strings.HasSuffix(slice, ".slice") || slice == ".slice" {
		return "", invalid("linux.cgroup_parent", "%q does not end in a systemd slice; the engine's cgroup driver is systemd: give the kubelet the same", parent)
	}
	return slice, nil
}

// shimGroup is the same for a sandbox and its containers. A sandbox's ID isn't
// known before it is created, so the value comes from its metadata.
func shimGroup(m *runtimeapi.PodSandboxMetadata) string {
	sum := sha256.Sum256([]byte(SandboxName(m)))
	return "pod-" + hex.EncodeToString(sum[:16])
}

// sandboxAnnotations are for the OCI runtime: shim grouping, and the pod's size
// under the names runtimes with virtual machines read.
func sandboxAnnotations(req SandboxRequest, host Host) map[string]string {
	if !host.Annotations {
		return nil
	}
	annotations := map[string]string{}
	if shimGrouping(req.RuntimeHandler, host) {
		annotations[shimGroupAnnotation] = shimGroup(req.Config.GetMetadata())
	}
	resources, overhead := req.Config.GetLinux().GetResources(), req.Config.GetLinux().GetOverhead()
	for name, value := range map[string]int64{
		"cpu-period": max(resources.GetCpuPeriod(), overhead.GetCpuPeriod()),
		"cpu-quota":  resources.GetCpuQuota() + overhead.GetCpuQuota(),
		"cpu-shares": resources.GetCpuShares() + overhead.GetCpuShares(),
		"memory":     resources.GetMemoryLimitInBytes() + overhead.GetMemoryLimitInBytes(),
	} {
		if value > 0 {
			annotations["io.kubernetes.cri.sandbox-"+name] = strconv.FormatInt(value, 10)
		}
	}
	if len(annotations) == 0 {
		return nil
	}
	return annotations
}

// InterfaceSysctls splits sysctls into those a sandbox can be created with and
// those of network interfaces that exist only after CNI has run; these must be
// written in the sandbox's network namespace then. nil maps stand for none.
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

// namesInterface recognises net.<family>.<conf|neigh>.<interface>.…, and the
// form with slashes.
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

// dottedSysctl writes a sysctl's name with dots between its parts. The first
// separator says which form it has; the other one then belongs to a part.
func dottedSysctl(key string) string {
	if i := strings.IndexAny(key, "./"); i < 0 || key[i] == '.' {
		return key
	}
	return strings.NewReplacer("/", ".", ".", "/").Replace(key)
}

// ResolvConf writes a resolv.conf. nil for a configuration that says nothing:
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
