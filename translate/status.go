package translate

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/go-connections/nat"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/internal/seam"
)

// Reasons of containers that have exited.
const (
	reasonOOMKilled   = "OOMKilled"
	reasonCompleted   = "Completed"
	reasonError       = "Error"
	reasonStartFailed = "ContainerCannotRun"

	// exitStartFailed is the exit code of a container that could not be started, if
	// Docker reports none.
	exitStartFailed = 128
)

// Sandbox is a pod sandbox as read from Docker. Times are Unix nanoseconds, 0
// when unset.
type Sandbox struct {
	ID string
	// Name is Docker's, without the slash.
	Name     string
	Metadata *runtimeapi.PodSandboxMetadata

	CreatedAt, StartedAt, FinishedAt int64
	// Running: the pause process is running. Whether the sandbox is ready also
	// depends on its network.
	Running bool
	Pid     int
	// DockerStatus is State.Status: created, running, paused, restarting,
	// removing, exited or dead.
	DockerStatus string

	Labels, Annotations map[string]string
	// RuntimeHandler is the requested one, "" for the default.
	RuntimeHandler string
	// Config is the requested configuration; nil for adopted sandboxes.
	Config       *runtimeapi.PodSandboxConfig
	Namespaces   *runtimeapi.NamespaceOption
	HostNetwork  bool
	NetworkMode  string
	CgroupParent string
	// UsernsMode is Docker's: "host" for a pod outside the daemon's user namespace,
	// "" for others.
	UsernsMode string
	// LogDirectory is "" for adopted sandboxes.
	LogDirectory string
	Privileged   bool
	// PortMappings are the ones requested for an adopted sandbox; for others they are
	// in Config.
	PortMappings []*runtimeapi.PortMapping
	// DockerIPs are the addresses on Docker's networks, IPv4 first.
	DockerIPs []string
	ImageID   string
	// ResolvConfPath is the file that Docker binds over /etc/resolv.conf.
	ResolvConfPath string
	// NetNSPath is Docker's own path of the network namespace while running.
	NetNSPath string

	encoded encodedSandbox
}

// Container is a container of a pod as read from Docker. Times are Unix
// nanoseconds, 0 when unset.
type Container struct {
	ID string
	// Name is Docker's, without the slash.
	Name      string
	SandboxID string
	Metadata  *runtimeapi.ContainerMetadata
	// SandboxMetadata is the pod's, without the sandbox's attempt.
	SandboxMetadata *runtimeapi.PodSandboxMetadata

	Labels, Annotations map[string]string

	State                            runtimeapi.ContainerState
	CreatedAt, StartedAt, FinishedAt int64
	ExitCode                         int32
	Reason, Message                  string
	OOMKilled                        bool
	// StartFailed: the container never ran because its start failed.
	StartFailed bool
	Pid         int
	// DockerStatus is as in [Sandbox].
	DockerStatus string

	// Image is the requested ImageSpec with a human-readable name.
	Image *runtimeapi.ImageSpec
	// ImageID is the image's [Image].ID, ImageRef its [Image].Ref at creation.
	ImageID, ImageRef string

	// Mounts are the requested ones with symbolic links followed.
	Mounts []*runtimeapi.Mount
	// Volumes are the paths in the container of volumes that Docker made because the
	// image asks for them.
	Volumes []string
	// LogPath is the path of the CRI log, DockerLogPath that of Docker's own.
	LogPath, DockerLogPath string
	// LogDriver is Docker's: json-file, or none if there is no log.
	LogDriver             string
	TTY, Stdin, StdinOnce bool
	// StopSignal has Docker's form, "" for SIGTERM.
	StopSignal string
	// Resources are the limits in force.
	Resources *runtimeapi.LinuxContainerResources
	// User is nil if unknown, for adopted containers.
	User *runtimeapi.ContainerUser
	// Config is the requested configuration without environment, command and
	// arguments; nil for adopted containers.
	Config         *runtimeapi.ContainerConfig
	RuntimeHandler string
	// Restored: it is started from a checkpoint.
	Restored bool
	// Seam: cridock-runtime changes it.
	Seam         bool
	CgroupParent string
	Privileged   bool
	PidMode      string
	// Driver is the graph driver, or the snapshotter.
	Driver string
	// UpperDir is the directory of the writable layer; "" if Docker does not report
	// it.
	UpperDir string

	encoded encodedContainer
}

// ReadSandbox reads GET /containers/{id}/json of a sandbox. image is the image it
// was created from, nil if that is gone; it is not used if [NeedsImage] returns
// false. A container that is not a sandbox is ErrNotFound; an incomplete response or
// an unreadable record is ErrDataLoss; a record of another version is
// ErrFailedPrecondition.
func ReadSandbox(in container.InspectResponse, image *Image, host Host) (*Sandbox, error) {
	if err := checkInspect(in, KindSandbox); err != nil {
		return nil, err
	}
	state, hc := in.State, in.HostConfig
	out := &Sandbox{
		ID:             in.ID,
		Name:           strings.TrimPrefix(in.Name, "/"),
		CreatedAt:      unixNano(in.Created),
		StartedAt:      unixNano(state.StartedAt),
		FinishedAt:     unixNano(state.FinishedAt),
		Running:        state.Running,
		Pid:            state.Pid,
		DockerStatus:   state.Status,
		NetworkMode:    string(hc.NetworkMode),
		HostNetwork:    hc.NetworkMode.IsHost(),
		CgroupParent:   hc.CgroupParent,
		UsernsMode:     string(hc.UsernsMode),
		ImageID:        in.Image,
		ResolvConfPath: in.ResolvConfPath,
		DockerIPs:      dockerIPs(in.NetworkSettings),
	}
	if in.NetworkSettings != nil {
		out.NetNSPath = in.NetworkSettings.SandboxKey
	}
	if !host.Seal.made(in) {
		if err := adoptSandbox(out, in, image, host); err != nil {
			return nil, err
		}
		return out.encode(), nil
	}
	cfg := new(runtimeapi.PodSandboxConfig)
	rec, err := decodeRecord(in.Config.Labels, cfg)
	if err != nil {
		return nil, fmt.Errorf("sandbox %s: %w", in.ID, err)
	}
	out.Config = cfg
	out.Metadata = cfg.GetMetadata()
	out.Labels, out.Annotations = orEmpty(cfg.GetLabels()), orEmpty(cfg.GetAnnotations())
	out.RuntimeHandler = rec.RuntimeHandler
	out.LogDirectory = cfg.GetLogDirectory()
	out.Privileged = cfg.GetLinux().GetSecurityContext().GetPrivileged()
	if out.Namespaces = sandboxNamespaces(cfg); out.Namespaces == nil {
		out.Namespaces = &runtimeapi.NamespaceOption{}
	}
	return out.encode(), nil
}

// adoptSandbox fills in what an adopted sandbox has in Docker.
func adoptSandbox(out *Sandbox, in container.InspectResponse, image *Image, host Host) error {
	labels, name, err := creatorLabels(in, image)
	if err != nil {
		return err
	}
	out.Labels, out.Annotations = criLabels(labels, KindSandbox)
	out.Metadata = podMetadata(labels, name)
	out.Metadata.Attempt = name.Attempt
	out.RuntimeHandler = adoptedHandler(in.HostConfig.Runtime, host)
	out.Privileged = in.HostConfig.Privileged
	out.PortMappings = adoptedPorts(in.HostConfig.PortBindings)
	out.Namespaces = &runtimeapi.NamespaceOption{
		Network: hostMode(in.HostConfig.NetworkMode.IsHost(), runtimeapi.NamespaceMode_POD),
		Pid:     hostMode(in.HostConfig.PidMode.IsHost(), runtimeapi.NamespaceMode_CONTAINER),
		Ipc:     hostMode(in.HostConfig.IpcMode.IsHost(), runtimeapi.NamespaceMode_POD),
	}
	return nil
}

// adoptedPorts returns the requested host ports. dockershim and cri-dockerd leave
// them in Docker's settings even if CNI, and not Docker, publishes them.
func adoptedPorts(bindings nat.PortMap) []*runtimeapi.PortMapping {
	var out []*runtimeapi.PortMapping
	for _, port := range sortedKeys(bindings) {
		protocol, known := runtimeapi.Protocol_value[strings.ToUpper(port.Proto())]
		for _, b := range bindings[port] {
			hostPort, err := strconv.ParseUint(b.HostPort, 10, 16)
			if err != nil || hostPort == 0 || !known {
				continue
			}
			out = append(out, &runtimeapi.PortMapping{
				Protocol: runtimeapi.Protocol(protocol), ContainerPort: int32(port.Int()), HostPort: int32(hostPort), HostIp: b.HostIP, //nolint:gosec // a port, 0 if Docker's is none
			})
		}
	}
	return out
}

func hostMode(host bool, otherwise runtimeapi.NamespaceMode) runtimeapi.NamespaceMode {
	if host {
		return runtimeapi.NamespaceMode_NODE
	}
	return otherwise
}

// adoptedHandler returns the handler that must have been requested. The default
// runtime becomes "" even if it was requested by name, so that the kubelet's ""
// stays "".
func adoptedHandler(runtime string, host Host) string {
	if runtime == host.DefaultRuntime {
		return ""
	}
	return runtime
}

// podMetadata returns a pod's identity from labels, else from a Docker name.
func podMetadata(labels map[string]string, name Name) *runtimeapi.PodSandboxMetadata {
	pick := func(key, fallback string) string {
		if v, ok := labels[key]; ok {
			return v
		}
		return fallback
	}
	return &runtimeapi.PodSandboxMetadata{
		Name:      pick(LabelPodName, name.Pod),
		Namespace: pick(LabelPodNamespace, name.Namespace),
		Uid:       pick(LabelPodUID, name.UID),
	}
}

// ReadContainer reads GET /containers/{id}/json of a pod's container, with the
// image and the errors of [ReadSandbox].
func ReadContainer(in container.InspectResponse, image *Image, host Host) (*Container, error) {
	if err := checkInspect(in, KindContainer); err != nil {
		return nil, err
	}
	hc := in.HostConfig
	out := &Container{
		ID:            in.ID,
		Name:          strings.TrimPrefix(in.Name, "/"),
		DockerLogPath: in.LogPath,
		LogDriver:     hc.LogConfig.Type,
		TTY:           in.Config.Tty,
		Stdin:         in.Config.OpenStdin,
		StdinOnce:     in.Config.StdinOnce,
		StopSignal:    in.Config.StopSignal,
		ImageID:       in.Image,
		CgroupParent:  hc.CgroupParent,
		Seam:          hc.Runtime == seam.RuntimeName,
		Privileged:    hc.Privileged,
		PidMode:       string(hc.PidMode),
		Driver:        in.Driver,
		UpperDir:      in.GraphDriver.Data["UpperDir"],
	}
	for _, m := range in.Mounts {
		if m.Type == mount.TypeVolume {
			out.Volumes = append(out.Volumes, m.Destination)
		}
	}
	readState(out, in)
	read := adoptContainer
	if host.Seal.made(in) {
		read = readOwnContainer
	}
	if err := read(out, in, image, host); err != nil {
		return nil, err
	}
	return out.encode(), nil
}

// readOwnContainer fills in the requested configuration from the record.
func readOwnContainer(out *Container, in container.InspectResponse, _ *Image, _ Host) error {
	cfg, labels := new(runtimeapi.ContainerConfig), in.Config.Labels
	rec, err := decodeRecord(labels, cfg)
	if err != nil {
		return fmt.Errorf("container %s: %w", in.ID, err)
	}
	if err := ValidateCgroupFiles("linux.resources", cfg.GetLinux().GetResources()); err != nil {
		// Not a bad request: no create would have accepted this.
		return fmt.Errorf("container %s: label %s: %w: %s", in.ID, LabelConfig, errdefs.ErrDataLoss, err.Error())
	}
	name, _ := ParseName(in.Name)
	out.SandboxID = labels[LabelSandboxID]
	out.SandboxMetadata = podMetadata(labels, name)
	out.LogPath = labels[LabelLogPath]
	out.Resources = currentResources(cfg.GetLinux().GetResources(), in.HostConfig)
	out.Config = cfg
	out.Metadata = cfg.GetMetadata()
	out.Labels, out.Annotations = orEmpty(cfg.GetLabels()), orEmpty(cfg.GetAnnotations())
	out.Mounts = cfg.GetMounts()
	out.RuntimeHandler = rec.RuntimeHandler
	out.ImageRef, out.Restored = rec.ImageRef, rec.Restored
	out.Image = &runtimeapi.ImageSpec{
		Image:              rec.ImageName,
		Annotations:        cfg.GetImage().GetAnnotations(),
		UserSpecifiedImage: cfg.GetImage().GetUserSpecifiedImage(),
		RuntimeHandler:     cfg.GetImage().GetRuntimeHandler(),
		ImageRef:           cfg.GetImage().GetImageRef(),
	}
	if rec.User != nil {
		out.User = &runtimeapi.ContainerUser{Linux: &runtimeapi.LinuxContainerUser{
			Uid: rec.User.UID, Gid: rec.User.GID, SupplementalGroups: rec.User.Groups,
		}}
	}
	return nil
}

// adoptContainer fills in what an adopted container has in Docker.
func adoptContainer(out *Container, in container.InspectResponse, image *Image, host Host) error {
	labels, name, err := creatorLabels(in, image)
	if err != nil {
		return err
	}
	if out.SandboxID = labels[LabelSandboxID]; !isFullID(out.SandboxID) {
		return notPodMember(in)
	}
	out.SandboxMetadata = podMetadata(labels, name)
	out.LogPath = adoptedLogPath(labels[LabelLogPath], image, host)
	out.Resources = currentResources(nil, in.HostConfig)
	out.Labels, out.Annotations = criLabels(labels, KindContainer)
	out.Metadata = &runtimeapi.ContainerMetadata{Name: name.Container, Attempt: name.Attempt}
	if label, ok := labels[LabelContainerName]; ok {
		out.Metadata.Name = label
	}
	out.RuntimeHandler = adoptedHandler(in.HostConfig.Runtime, host)
	out.ImageRef = in.Image
	out.Image = &runtimeapi.ImageSpec{Image: in.Config.Image}
	if ref, err := NormalizeImage(in.Config.Image); err == nil && ref.ID == "" && ref.Digest != "" {
		out.ImageRef = ref.String()
	}
	out.Mounts = adoptedMounts(in.HostConfig)
	return nil
}

// adoptedMounts returns the requested mounts. Docker's own list of mounts would add
// volumes that nobody requested.
func adoptedMounts(hc *container.HostConfig) []*runtimeapi.Mount {
	var out []*runtimeapi.Mount
	for _, bind := range hc.Binds {
		parts := strings.Split(bind, ":")
		if len(parts) < 2 {
			continue
		}
		m := &runtimeapi.Mount{HostPath: parts[0], ContainerPath: parts[1]}
		if len(parts) > 2 {
			for option := range strings.SplitSeq(parts[2], ",") {
				switch option {
				case "ro":
					m.Readonly = true
				case "z", "Z":
					m.SelinuxRelabel = true
				default:
					m.Propagation = max(m.Propagation, criPropagation(option))
				}
			}
		}
		out = append(out, m)
	}
	for _, m := range hc.Mounts {
		if m.Type == mount.TypeVolume && m.Source == "" {
			continue
		}
		mount := &runtimeapi.Mount{HostPath: m.Source, ContainerPath: m.Target, Readonly: m.ReadOnly}
		if m.BindOptions != nil {
			mount.Propagation = criPropagation(string(m.BindOptions.Propagation))
			mount.RecursiveReadOnly = m.BindOptions.ReadOnlyForceRecursive
		}
		out = append(out, mount)
	}
	return out
}

func criPropagation(docker string) runtimeapi.MountPropagation {
	switch docker {
	case "rshared", "shared":
		return runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
	case "rslave", "slave":
		return runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
	}
	return runtimeapi.MountPropagation_PROPAGATION_PRIVATE
}

// readState converts Docker's state, exit code and times to the CRI's.
func readState(out *Container, in container.InspectResponse) {
	state := in.State
	out.DockerStatus = state.Status
	out.CreatedAt = unixNano(in.Created)
	out.State = containerState(state)
	if out.State == runtimeapi.ContainerState_CONTAINER_CREATED {
		return
	}
	out.StartedAt = unixNano(state.StartedAt)
	if out.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
		out.Pid = state.Pid
		return
	}
	out.FinishedAt = unixNano(state.FinishedAt)
	out.ExitCode = int32(state.ExitCode) //nolint:gosec // an exit code
	out.OOMKilled = state.OOMKilled
	out.StartFailed = startFailed(state)
	out.Message = state.Error
	if out.StartFailed {
		// Docker does not report when; the creation time is the only one.
		out.StartedAt, out.FinishedAt = out.CreatedAt, out.CreatedAt
		if out.ExitCode == 0 {
			out.ExitCode = exitStartFailed
		}
	}
	if out.FinishedAt == 0 {
		// It is being removed without ever having run.
		out.FinishedAt = out.CreatedAt
	}
	// dockerd records a start when the runtime has returned, but an exit at the time
	// it happened: a short run could finish before it started. The start must not
	// change, since it tells one run from the next.
	out.FinishedAt = max(out.FinishedAt, out.StartedAt)
	out.Reason = exitReason(out)
}

// containerState uses only machine-readable fields. A container whose start failed
// stays "created" in Docker; in the CRI it has exited.
func containerState(state *container.State) runtimeapi.ContainerState {
	switch state.Status {
	case container.StateCreated:
		if startFailed(state) {
			return runtimeapi.ContainerState_CONTAINER_EXITED
		}
		return runtimeapi.ContainerState_CONTAINER_CREATED
	case container.StateRunning, container.StatePaused, container.StateRestarting:
		return runtimeapi.ContainerState_CONTAINER_RUNNING
	case container.StateExited, container.StateRemoving, container.StateDead:
		return runtimeapi.ContainerState_CONTAINER_EXITED
	}
	return runtimeapi.ContainerState_CONTAINER_UNKNOWN
}

// startFailed reports whether the start failed. Docker keeps the error of a failed
// start even after a later one succeeded, so it counts only if the container has
// never run.
func startFailed(state *container.State) bool {
	return state.Status != container.StateRunning && unixNano(state.StartedAt) == 0 &&
		(state.ExitCode != 0 || state.Error != "")
}

func exitReason(c *Container) string {
	switch {
	case c.OOMKilled:
		return reasonOOMKilled
	case c.StartFailed:
		return reasonStartFailed
	case c.ExitCode == 0:
		return reasonCompleted
	}
	return reasonError
}

// checkInspect checks that a response is complete and of a pod member of that kind.
func checkInspect(in container.InspectResponse, kind Kind) error {
	if in.ContainerJSONBase == nil || in.State == nil || in.HostConfig == nil || in.Config == nil {
		return fmt.Errorf("container: %w: Docker's response lacks state or configuration", errdefs.ErrDataLoss)
	}
	if got, ok := IsKubernetes(in.Config.Labels, in.Name); !ok || got != kind {
		return notPodMember(in)
	}
	return nil
}

func notPodMember(in container.InspectResponse) error {
	return fmt.Errorf("container %s: %w: not part of a pod, or of another kind", in.ID, errdefs.ErrNotFound)
}

// unixNano parses Docker's times; the zero time and malformed ones are 0.
func unixNano(text string) int64 {
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil || t.Year() < 1970 {
		return 0
	}
	return t.UnixNano()
}

// dockerIPs lists addresses on Docker's networks, IPv4 before IPv6, by network
// name. API 1.52 removed the address at the top level of the settings.
func dockerIPs(settings *container.NetworkSettings) []string {
	if settings == nil {
		return nil
	}
	var v4, v6 []string
	for _, name := range sortedKeys(settings.Networks) {
		endpoint := settings.Networks[name]
		if endpoint == nil {
			continue
		}
		if isIP(endpoint.IPAddress) {
			v4 = append(v4, endpoint.IPAddress)
		}
		if isIP(endpoint.GlobalIPv6Address) {
			v6 = append(v6, endpoint.GlobalIPv6Address)
		}
	}
	return append(v4, v6...)
}

func isIP(text string) bool {
	_, err := netip.ParseAddr(text)
	return err == nil
}

// CRISandbox returns the list item. Like the other CRI… messages of this file it
// shares memory with s and must not be changed. ready means that the sandbox is
// Running and its network is set up.
func CRISandbox(s *Sandbox, ready bool) *runtimeapi.PodSandbox {
	return &runtimeapi.PodSandbox{
		Id:             s.ID,
		Metadata:       s.Metadata,
		State:          sandboxState(ready),
		CreatedAt:      s.CreatedAt,
		Labels:         s.Labels,
		Annotations:    s.Annotations,
		RuntimeHandler: s.RuntimeHandler,
	}
}

// CRISandboxStatus returns the status. ips are the pod's addresses, primary
// first; they are shown only if the sandbox is ready and has its own network.
func CRISandboxStatus(s *Sandbox, ready bool, ips []string) *runtimeapi.PodSandboxStatus {
	out := &runtimeapi.PodSandboxStatus{
		Id:             s.ID,
		Metadata:       s.Metadata,
		State:          sandboxState(ready),
		CreatedAt:      s.CreatedAt,
		Network:        &runtimeapi.PodSandboxNetworkStatus{},
		Linux:          &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{Options: s.Namespaces}},
		Labels:         s.Labels,
		Annotations:    s.Annotations,
		RuntimeHandler: s.RuntimeHandler,
	}
	if !ready || s.HostNetwork || len(ips) == 0 {
		return out
	}
	out.Network.Ip = ips[0]
	for _, ip := range ips[1:] {
		out.Network.AdditionalIps = append(out.Network.AdditionalIps, &runtimeapi.PodIP{Ip: ip})
	}
	return out
}

func sandboxState(ready bool) runtimeapi.PodSandboxState {
	if ready {
		return runtimeapi.PodSandboxState_SANDBOX_READY
	}
	return runtimeapi.PodSandboxState_SANDBOX_NOTREADY
}

// CRIContainer returns the list item; it agrees with [CRIContainerStatus].
func CRIContainer(c *Container) *runtimeapi.Container {
	return &runtimeapi.Container{
		Id:           c.ID,
		PodSandboxId: c.SandboxID,
		Metadata:     c.Metadata,
		Image:        c.Image,
		ImageRef:     c.ImageRef,
		ImageId:      c.ImageID,
		State:        c.State,
		CreatedAt:    c.CreatedAt,
		Labels:       c.Labels,
		Annotations:  c.Annotations,
	}
}

// CRIContainerStatus returns the status.
func CRIContainerStatus(c *Container) *runtimeapi.ContainerStatus {
	return &runtimeapi.ContainerStatus{
		Id:          c.ID,
		Metadata:    c.Metadata,
		State:       c.State,
		CreatedAt:   c.CreatedAt,
		StartedAt:   c.StartedAt,
		FinishedAt:  c.FinishedAt,
		ExitCode:    c.ExitCode,
		Image:       c.Image,
		ImageRef:    c.ImageRef,
		ImageId:     c.ImageID,
		Reason:      c.Reason,
		Message:     c.Message,
		Labels:      c.Labels,
		Annotations: c.Annotations,
		Mounts:      c.Mounts,
		LogPath:     c.LogPath,
		Resources:   &runtimeapi.ContainerResources{Linux: c.Resources},
		User:        c.User,
		StopSignal:  CRISignal(c.StopSignal),
	}
}

// MatchSandbox reports whether a filter selects a sandbox; nil selects all. The
// filter's ID may be a prefix.
func MatchSandbox(s *Sandbox, ready bool, f *runtimeapi.PodSandboxFilter) bool {
	if state := f.GetState(); state != nil && state.GetState() != sandboxState(ready) {
		return false
	}
	return strings.HasPrefix(s.ID, f.GetId()) && matchLabels(s.Labels, f.GetLabelSelector())
}

// MatchContainer reports whether a filter selects a container; nil selects all.
// The filter's IDs may be prefixes.
func MatchContainer(c *Container, f *runtimeapi.ContainerFilter) bool {
	if state := f.GetState(); state != nil && state.GetState() != c.State {
		return false
	}
	return strings.HasPrefix(c.ID, f.GetId()) &&
		strings.HasPrefix(c.SandboxID, f.GetPodSandboxId()) &&
		matchLabels(c.Labels, f.GetLabelSelector())
}

// matchLabels reports whether labels has every label of selector with exactly its
// value.
func matchLabels(labels, selector map[string]string) bool {
	for key, value := range selector {
		if has, ok := labels[key]; !ok || has != value {
			return false
		}
	}
	return true
}

func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

// KnownConfig returns what is known of a sandbox's configuration: only a part of it
// if another adapter created the sandbox.
func (s *Sandbox) KnownConfig() *runtimeapi.PodSandboxConfig {
	if s.Config != nil {
		return s.Config
	}
	return &runtimeapi.PodSandboxConfig{Metadata: s.Metadata, Labels: s.Labels, Annotations: s.Annotations, PortMappings: s.PortMappings}
}
