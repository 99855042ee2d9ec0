package nri

import (
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/nri/pkg/api"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/translate"
)

// PodDetails are what a [translate.Sandbox] does not have.
type PodDetails struct {
	// Config is the pod's configuration with updates; nil for the sandbox's own.
	Config *runtimeapi.PodSandboxConfig
	IPs    []string
	// NetNS is the path of the pod's network namespace; "" for the host's, or if it is gone.
	NetNS string
	// SystemdCgroup: parents of control groups are slices.
	SystemdCgroup bool
}

// Pod describes a sandbox to plugins.
func Pod(sb *translate.Sandbox, d PodDetails) *api.PodSandbox {
	cfg := d.Config
	if cfg == nil {
		cfg = sb.Config
	}
	linux := cfg.GetLinux()
	return &api.PodSandbox{
		Id: sb.ID, Name: sb.Metadata.GetName(), Uid: sb.Metadata.GetUid(), Namespace: sb.Metadata.GetNamespace(),
		Labels: maps.Clone(sb.Labels), Annotations: podAnnotations(sb), RuntimeHandler: sb.RuntimeHandler,
		Pid: uint32(max(sb.Pid, 0)), Ips: slices.Clone(d.IPs), //nolint:gosec // a PID
		Linux: &api.LinuxPodSandbox{
			PodOverhead: FromCRI(linux.GetOverhead()), PodResources: FromCRI(linux.GetResources()),
			CgroupParent: linux.GetCgroupParent(), CgroupsPath: cgroupsPath(sb.CgroupParent, sb.ID, d.SystemdCgroup),
			Namespaces: podNamespaces(sb, d.NetNS),
		},
	}
}

// criPrefix precedes the annotations by which other runtimes tell what a pod or
// container is.
const criPrefix = "io.kubernetes.cri."

// podAnnotations returns the pod's annotations and those by which other runtimes tell
// what it is.
func podAnnotations(sb *translate.Sandbox) map[string]string {
	out := map[string]string{
		criPrefix + "container-type": "sandbox", criPrefix + "sandbox-id": sb.ID, criPrefix + "sandbox-name": sb.Metadata.GetName(),
		criPrefix + "sandbox-namespace": sb.Metadata.GetNamespace(), criPrefix + "sandbox-uid": sb.Metadata.GetUid(),
		criPrefix + "sandbox-log-directory": sb.LogDirectory,
	}
	if r := sb.Config.GetLinux().GetResources(); r != nil {
		for name, value := range map[string]int64{
			"cpu-period": r.GetCpuPeriod(), "cpu-quota": r.GetCpuQuota(), "cpu-shares": r.GetCpuShares(), "memory": r.GetMemoryLimitInBytes(),
		} {
			out[criPrefix+"sandbox-"+name] = strconv.FormatInt(value, 10)
		}
	}
	maps.Copy(out, sb.Annotations)
	return out
}

// UnknownPod describes a pod of which only the ID is left.
func UnknownPod(id string) *api.PodSandbox { return &api.PodSandbox{Id: id} }

func podNamespaces(sb *translate.Sandbox, netns string) []*api.LinuxNamespace {
	var out []*api.LinuxNamespace
	add := func(kind, path string, host bool) {
		if !host {
			out = append(out, &api.LinuxNamespace{Type: kind, Path: path})
		}
	}
	isHost := func(m runtimeapi.NamespaceMode) bool { return m == runtimeapi.NamespaceMode_NODE }
	add("mount", "", false)
	add("pid", "", isHost(sb.Namespaces.GetPid()))
	add("ipc", "", isHost(sb.Namespaces.GetIpc()))
	add("uts", "", sb.HostNetwork)
	add("network", netns, sb.HostNetwork || netns == "")
	return out
}

// cgroupsPath returns the path in the form of the OCI specification.
func cgroupsPath(parent, id string, systemd bool) string {
	switch {
	case systemd && parent == "":
		return "system.slice:docker:" + id
	case systemd:
		return parent + ":docker:" + id
	case parent == "":
		return "/docker/" + id
	}
	return path.Join("/", parent, id)
}

// ContainerDetails are what a [translate.Container] does not have.
type ContainerDetails struct {
	// Docker is Docker's description; nil if the container is gone.
	Docker *container.InspectResponse
	// Adjustment is what plugins wanted at the creation; nil for nothing.
	Adjustment *api.ContainerAdjustment
	// CDISpecDirs are those of an engine that injects CDI devices itself.
	CDISpecDirs []string
	// HostDevices: a privileged container has all of the host's devices.
	HostDevices bool
	// SystemdCgroup: parents of control groups are slices.
	SystemdCgroup bool
}

// Container describes a container to plugins. sb is its sandbox, nil if that is gone. With
// an error, CDI devices are missing from the description.
func Container(c *translate.Container, sb *translate.Sandbox, d ContainerDetails) (*api.Container, error) {
	out := &api.Container{
		Id: c.ID, PodSandboxId: c.SandboxID, Name: c.Metadata.GetName(), State: stateOf(c),
		Labels: maps.Clone(c.Labels), Annotations: annotationsOf(c), Pid: uint32(max(c.Pid, 0)), //nolint:gosec // a PID
		CreatedAt: c.CreatedAt, StartedAt: c.StartedAt, FinishedAt: c.FinishedAt, ExitCode: c.ExitCode,
		StatusReason: c.Reason, StatusMessage: c.Message,
		Image: &api.Image{Name: c.Image.GetImage(), Digest: c.ImageRef[strings.LastIndex(c.ImageRef, "@")+1:], ConfigDigest: c.ImageID},
		Linux: &api.LinuxContainer{
			Resources: setResources(c.Resources), OomScoreAdj: api.Int(int(c.Resources.GetOomScoreAdj())), CgroupsPath: cgroupsPath(c.CgroupParent, c.ID, d.SystemdCgroup),
			Namespaces: namespacesOf(c, sb), SeccompProfile: seccompProfile(c.Config),
		},
	}
	if u := c.User.GetLinux(); u != nil {
		out.User = &api.User{Uid: uint32(u.GetUid()), Gid: uint32(u.GetGid())} //nolint:gosec // IDs
		for _, g := range u.GetSupplementalGroups() {
			out.User.AdditionalGids = append(out.User.AdditionalGids, uint32(g)) //nolint:gosec // an ID
		}
	}
	if names, err := translate.CDIDevices(c.Config); err == nil {
		for _, name := range names {
			out.CDIDevices = append(out.CDIDevices, &api.CDIDevice{Name: name})
		}
	}
	if class := translate.RDTClass(c, sb); class != "" {
		out.Linux.Rdt = &api.LinuxRdt{ClosId: api.String(class)}
	}
	var err error
	if in := d.Docker; in != nil && in.ContainerJSONBase != nil && in.Config != nil && in.HostConfig != nil {
		addDocker(out, in, sb)
		if in.HostConfig.Privileged && d.HostDevices {
			addHostDevices(out.Linux)
		}
		err = injectCDI(out, in.HostConfig, d.CDISpecDirs)
	}
	addAnswer(out, d.Adjustment)
	return out, err
}

// setResources returns a container's resources without those that are not limited.
func setResources(r *runtimeapi.LinuxContainerResources) *api.LinuxResources {
	if r == nil {
		r = &runtimeapi.LinuxContainerResources{}
	}
	out := FromCRI(r)
	if out.Cpu.GetShares().GetValue() == 0 {
		out.Cpu.Shares = nil
	}
	if out.Cpu.GetQuota().GetValue() == 0 {
		out.Cpu.Quota = nil
	}
	if out.Cpu.GetPeriod().GetValue() == 0 {
		out.Cpu.Period = nil
	}
	if out.Memory.GetLimit().GetValue() == 0 {
		out.Memory.Limit = nil
	}
	return out
}

// addDocker adds what only Docker knows.
func addDocker(out *api.Container, in *container.InspectResponse, sb *translate.Sandbox) {
	hc := in.HostConfig
	if in.Path != "" {
		out.Args = append([]string{in.Path}, in.Args...)
	}
	out.Env = environment(in.Config, sb)
	out.Mounts = mountsOf(in, sb)
	// A volume can take the place of one of Docker's own.
	own := slices.DeleteFunc(ownMounts(hc.Privileged), func(m *api.Mount) bool {
		return slices.ContainsFunc(out.Mounts, func(o *api.Mount) bool { return o.GetDestination() == m.GetDestination() })
	})
	out.Mounts = append(own, out.Mounts...)
	for _, d := range hc.Devices {
		if node, err := HostDevice(d.PathOnHost); err == nil {
			out.Linux.Devices = append(out.Linux.Devices, node.at(d.PathInContainer))
		}
	}
	for _, u := range hc.Ulimits {
		out.Rlimits = append(out.Rlimits, &api.POSIXRlimit{Type: rlimitPrefix + strings.ToUpper(u.Name), Soft: uint64(u.Soft), Hard: uint64(u.Hard)})
	}
	if p := hc.PidsLimit; p != nil && *p > 0 {
		out.Linux.Resources.Pids = &api.LinuxPids{Limit: *p}
	}
	if hc.MemoryReservation > 0 {
		out.Linux.Resources.Memory.Reservation = api.Int64(hc.MemoryReservation)
	}
	out.Linux.Sysctl = maps.Clone(hc.Sysctls)
	for key, value := range hc.Annotations {
		if key == translate.ShimGroupAnnotation {
			continue // of the container's shim
		}
		if out.Annotations == nil {
			out.Annotations = map[string]string{}
		}
		out.Annotations[key] = value
	}
}

// environment returns the variables that a container has, with those that Docker adds at
// its start.
func environment(cfg *container.Config, sb *translate.Sandbox) []string {
	own := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	if name := hostname(sb); name != "" {
		own = append(own, "HOSTNAME="+name)
	}
	if cfg.Tty {
		own = append(own, "TERM=xterm")
	}
	set := map[string]bool{}
	for _, text := range cfg.Env {
		name, _, _ := strings.Cut(text, "=")
		set[name] = true // or removed, without a value
	}
	isSet := func(text string) bool {
		name, _, ok := strings.Cut(text, "=")
		return !ok || set[name]
	}
	return append(slices.DeleteFunc(own, isSet), slices.DeleteFunc(slices.Clone(cfg.Env), func(text string) bool { return !strings.Contains(text, "=") })...)
}

// hostname returns that of a pod's containers; "" if it is not known.
func hostname(sb *translate.Sandbox) string {
	switch {
	case sb == nil:
		return ""
	case sb.HostNetwork:
		name, _ := os.Hostname()
		return name
	}
	return sb.Config.GetHostname()
}

// ownMounts are those that Docker makes in every container.
func ownMounts(privileged bool) []*api.Mount {
	access := "ro"
	if privileged {
		access = "rw"
	}
	return []*api.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", access}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{access, "nosuid", "noexec", "nodev"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
	}
}

// sandboxFiles are mounts of the pod's files: where they are mounted, and where they are
// in Docker's directory of the sandbox. Docker tells of a container's at its start.
var sandboxFiles = []struct{ target, name string }{
	{"/etc/resolv.conf", "resolv.conf"}, {"/etc/hostname", "hostname"}, {"/etc/hosts", "hosts"}, {"/dev/shm", "mounts/shm"},
}

func mountsOf(in *container.InspectResponse, sb *translate.Sandbox) []*api.Mount {
	var out []*api.Mount
	if sb != nil && sb.ResolvConfPath != "" {
		for _, f := range sandboxFiles {
			source := path.Join(path.Dir(sb.ResolvConfPath), f.name)
			if f.target == "/dev/shm" && sb.Namespaces.GetIpc() == runtimeapi.NamespaceMode_NODE {
				source = f.target
			}
			if !slices.ContainsFunc(in.Mounts, func(m container.MountPoint) bool { return m.Destination == f.target }) {
				out = append(out, &api.Mount{Destination: f.target, Type: "bind", Source: source, Options: []string{"rbind", "rprivate", "rw"}})
			}
		}
	}
	for _, m := range in.Mounts {
		if m.Type == mount.TypeTmpfs {
			continue // HostConfig tells more
		}
		options := []string{"rbind"}
		if m.Propagation != "" {
			options = append(options, string(m.Propagation))
		}
		if m.RW {
			options = append(options, "rw")
		} else {
			options = append(options, "ro")
		}
		out = append(out, &api.Mount{Destination: m.Destination, Type: "bind", Source: m.Source, Options: options})
	}
	for _, m := range in.HostConfig.Mounts {
		if m.Type == mount.TypeTmpfs {
			out = append(out, &api.Mount{Destination: m.Target, Type: "tmpfs", Source: "tmpfs", Options: sizeAndMode(m.TmpfsOptions)})
		}
	}
	return out
}

func sizeAndMode(o *mount.TmpfsOptions) []string {
	var out []string
	if o != nil && o.SizeBytes > 0 {
		out = append(out, fmt.Sprintf("size=%d", o.SizeBytes))
	}
	if o != nil && o.Mode != 0 {
		out = append(out, fmt.Sprintf("mode=%o", o.Mode))
	}
	return out
}

// addAnswer adds what plugins wanted at the creation and Docker does not know.
func addAnswer(out *api.Container, answer *api.ContainerAdjustment) {
	if answer == nil {
		return
	}
	out.Hooks = (&api.Hooks{}).Append(out.Hooks).Append(proto.CloneOf(answer.GetHooks())).Hooks()
	for key, value := range answer.GetAnnotations() {
		if name, removed := api.IsMarkedForRemoval(key); removed {
			delete(out.Annotations, name)
		} else {
			if out.Annotations == nil {
				out.Annotations = map[string]string{}
			}
			out.Annotations[key] = value
		}
	}
	l, to := answer.GetLinux(), out.Linux
	to.IoPriority, to.Scheduler, to.SeccompPolicy, to.NetDevices = l.GetIoPriority(), l.GetScheduler(), l.GetSeccompPolicy(), l.GetNetDevices()
	to.Rdt = rdtOf(to.Rdt, l)
	for _, ns := range l.GetNamespaces() {
		kind, removed := ns.IsMarkedForRemoval()
		to.Namespaces = slices.DeleteFunc(to.Namespaces, func(n *api.LinuxNamespace) bool { return n.GetType() == kind })
		if !removed {
			to.Namespaces = append(to.Namespaces, ns)
		}
	}
	for _, d := range l.GetDevices() {
		if target, removed := d.IsMarkedForRemoval(); !removed && !slices.ContainsFunc(to.Devices, func(n *api.LinuxDevice) bool { return n.GetPath() == target }) {
			to.Devices = append(to.Devices, d)
		}
	}
}

// rdtOf returns the RDT class of a container whose annotations name the one in named,
// nil for none, as plugins have changed it.
func rdtOf(named *api.LinuxRdt, l *api.LinuxContainerAdjustment) *api.LinuxRdt {
	class, r := l.GetResources().GetRdtClass(), l.GetRdt()
	out := &api.LinuxRdt{Schemata: r.GetSchemata(), EnableMonitoring: r.GetEnableMonitoring()}
	switch {
	case r.GetClosId() != nil:
		out.ClosId = r.GetClosId()
	case class.GetValue() != "":
		out.ClosId = class
	case class == nil && !r.GetRemove():
		out.ClosId = named.GetClosId()
	}
	if proto.Equal(out, &api.LinuxRdt{}) {
		return nil
	}
	return out
}

func stateOf(c *translate.Container) api.ContainerState {
	switch {
	case c.DockerStatus == container.StatePaused:
		return api.ContainerState_CONTAINER_PAUSED
	case c.State == runtimeapi.ContainerState_CONTAINER_CREATED:
		return api.ContainerState_CONTAINER_CREATED
	case c.State == runtimeapi.ContainerState_CONTAINER_RUNNING:
		return api.ContainerState_CONTAINER_RUNNING
	case c.State == runtimeapi.ContainerState_CONTAINER_EXITED:
		return api.ContainerState_CONTAINER_STOPPED
	}
	return api.ContainerState_CONTAINER_UNKNOWN
}

// annotationsOf returns the container's annotations and those by which other runtimes
// tell what it is.
func annotationsOf(c *translate.Container) map[string]string {
	out := map[string]string{
		criPrefix + "container-type": "container", criPrefix + "container-name": c.Metadata.GetName(), criPrefix + "image-name": c.Image.GetImage(),
		criPrefix + "sandbox-id": c.SandboxID, criPrefix + "sandbox-name": c.SandboxMetadata.GetName(),
		criPrefix + "sandbox-namespace": c.SandboxMetadata.GetNamespace(), criPrefix + "sandbox-uid": c.SandboxMetadata.GetUid(),
	}
	maps.Copy(out, c.Annotations)
	return out
}

// namespacesOf returns the namespaces that are not the host's, those of the pod with
// their paths.
func namespacesOf(c *translate.Container, sb *translate.Sandbox) []*api.LinuxNamespace {
	out := []*api.LinuxNamespace{{Type: "mount"}}
	add := func(kind, file string, shared bool) {
		ns := &api.LinuxNamespace{Type: kind}
		if shared && sb != nil && sb.Pid > 0 {
			ns.Path = fmt.Sprintf("/proc/%d/ns/%s", sb.Pid, file)
		}
		out = append(out, ns)
	}
	host := sb != nil && sb.HostNetwork
	if !host {
		add("network", "net", true)
		add("uts", "uts", true)
	}
	if sb == nil || sb.Namespaces.GetIpc() != runtimeapi.NamespaceMode_NODE {
		add("ipc", "ipc", true)
	}
	if c.PidMode != "host" {
		add("pid", "pid", strings.HasPrefix(c.PidMode, "container:"))
	}
	return out
}

func seccompProfile(cfg *runtimeapi.ContainerConfig) *api.SecurityProfile {
	p := cfg.GetLinux().GetSecurityContext().GetSeccomp()
	if p == nil {
		return nil
	}
	return &api.SecurityProfile{ProfileType: api.SecurityProfile_ProfileType(p.GetProfileType()), LocalhostRef: p.GetLocalhostRef()}
}

// Encode returns an answer as it is stored; [Decode] reads it.
func (a *Answer) Encode() ([]byte, error) { return protojson.Marshal(compact(a.adjust)) }

// Decode returns the adjustment that was stored for a container.
func Decode(document []byte) (*api.ContainerAdjustment, error) {
	out := &api.ContainerAdjustment{}
	return out, protojson.Unmarshal(document, out)
}

// Renamed returns first with the ID of now, and what depends on it; now if first is nil.
func Renamed(first, now *api.Container) *api.Container {
	if first == nil {
		return now
	}
	out := proto.CloneOf(first)
	out.Id, out.CreatedAt = now.GetId(), now.GetCreatedAt()
	out.Linux.CgroupsPath = strings.ReplaceAll(out.Linux.CgroupsPath, first.GetId(), out.Id)
	for _, m := range out.Mounts {
		m.Source = strings.ReplaceAll(m.Source, first.GetId(), out.Id)
	}
	return out
}
