package translate

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/strslice"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"google.golang.org/protobuf/proto"

	"github.com/cridock/cridock/internal/seam"
)

const (
	// Docker's log is bounded even if the caller sets no bounds: its content is also
	// in the CRI log, which the kubelet rotates.
	defaultLogMaxSize = "16m"
	defaultLogMaxFile = 4

	cdiAnnotationPrefix = "cdi.k8s.io/"
)

// ContainerRequest is a CreateContainer request with what the caller looked up.
type ContainerRequest struct {
	Config *runtimeapi.ContainerConfig
	// SandboxConfig is the request's; it is used only if Sandbox.Config is nil.
	SandboxConfig *runtimeapi.PodSandboxConfig
	Sandbox       *Sandbox
	Image         Image
	// Mounts has the length and order of Config.Mounts.
	Mounts []ResolvedMount
	// Devices are Config.Devices with directories expanded; nil: use those as they are.
	Devices []container.DeviceMapping
	// CDI holds the edits of the CDI devices; nil for none. An engine with CDI makes
	// their devices and mounts itself.
	CDI *CDIEdits
	// SeccompProfile is the content of the file at [SeccompProfilePath].
	SeccompProfile []byte
	User           User
	// VolumeDirs are the directories of volumes that the image declares, by [VolumePaths];
	// Docker makes volumes of its own on other paths.
	VolumeDirs map[string]VolumeDir
	// Adjustment changes the request in the end; nil for none.
	Adjustment *Adjustment
	// Restored: the requested image is a checkpoint, and Image the one it is based on.
	Restored bool
}

// imageName returns the name to show for the image: see the function of this name.
func (r ContainerRequest) imageName() string {
	if r.Restored {
		return imageName("", r.Image)
	}
	return imageName(r.Config.GetImage().GetImage(), r.Image)
}

// CDIEdits holds what CDI devices add to a container.
type CDIEdits struct {
	Env     []string
	Devices []container.DeviceMapping
	Mounts  []mount.Mount
	// Hooks need cridock-runtime.
	Hooks []seam.Hook
}

// runtimeHandler returns the sandbox's: a container always runs with its pod's.
func (r ContainerRequest) runtimeHandler() string { return r.Sandbox.RuntimeHandler }

func (r ContainerRequest) sandboxMetadata() *runtimeapi.PodSandboxMetadata {
	if r.Sandbox.Metadata != nil {
		return r.Sandbox.Metadata
	}
	return r.SandboxConfig.GetMetadata()
}

// sandboxPrivileged reports whether the pod may have privileged containers. Docker
// does not report it for every adopted sandbox.
func (r ContainerRequest) sandboxPrivileged() bool {
	return r.Sandbox.Privileged || r.Sandbox.Config == nil && r.SandboxConfig.GetLinux().GetSecurityContext().GetPrivileged()
}

// DockerContainer returns the request to create a pod's container. It validates
// req as [ValidateContainerConfig] does, and against its sandbox.
func DockerContainer(req ContainerRequest, host Host) (*Create, error) {
	if err := ValidateContainerConfig(req.Config); err != nil {
		return nil, err
	}
	if err := validateInSandbox(req); err != nil {
		return nil, err
	}
	hostConfig, err := containerHostConfig(req, host)
	if err != nil {
		return nil, err
	}
	labels, err := recordContainer(req, host)
	if err != nil {
		return nil, err
	}
	cfg := req.Config
	config := &container.Config{
		User:        req.User.Docker,
		Tty:         cfg.GetTty(),
		OpenStdin:   cfg.GetStdin(),
		StdinOnce:   cfg.GetStdinOnce(),
		Env:         host.addBaseEnv(environment(cfg.GetEnvs(), req.CDI), req.Image),
		Entrypoint:  words(cfg.GetCommand()),
		Cmd:         words(cfg.GetArgs()),
		Healthcheck: noHealthcheck(),
		Image:       req.Image.ID,
		WorkingDir:  cfg.GetWorkingDir(),
		Labels:      labels,
		StopSignal:  containerStopSignal(cfg.GetStopSignal(), req.Image.StopSignal),
	}
	create := &Create{Name: ContainerName(cfg.GetMetadata(), req.sandboxMetadata()), Config: config, HostConfig: hostConfig}
	if err := create.enterUserNamespace(req.Sandbox.Namespaces, req.runtimeHandler(), host); err != nil {
		return nil, err
	}
	create.mapMounts(req)
	if req.CDI != nil && len(req.CDI.Hooks) > 0 && !host.CDI {
		create.useSeam(req.runtimeHandler(), host).Hooks = req.CDI.Hooks
	}
	if err := create.addBaseHooks(req.runtimeHandler(), host); err != nil {
		return nil, err
	}
	create.annotate(req.runtimeAnnotations(host), req.runtimeHandler(), host)
	create.addMountOptions(req, host)
	create.limitBeforeStart(cfg.GetLinux().GetResources(), req.runtimeHandler(), host)
	if err := create.adjustAndSet(req, host); err != nil {
		return nil, err
	}
	if err := create.declareVolumes(req, host); err != nil {
		return nil, err
	}
	if err := stampRequest(create); err != nil {
		return nil, err
	}
	create.keepVolumes(req)
	if req.Adjustment != nil {
		// A repeated request is recognised whatever the adjustment.
		create.Config.Labels[LabelRequest] = req.Adjustment.Request
	}
	host.Seal.stamp(create)
	return create, nil
}

// stampRequest labels a request to create a container with its own hash, to tell
// a repeated request from a different one of the same name.
func stampRequest(c *Create) error {
	b, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("container %s: %w", c.Name, err)
	}
	sum := sha256.Sum256(b)
	c.Config.Labels[LabelRequest] = hex.EncodeToString(sum[:10])
	return nil
}

// validateInSandbox checks a container's configuration against its sandbox and
// what the caller looked up.
func validateInSandbox(req ContainerRequest) error {
	const in = "linux.security_context."
	sc := req.Config.GetLinux().GetSecurityContext()
	ns := sc.GetNamespaceOptions()
	switch {
	case req.Sandbox == nil:
		return invalid("pod_sandbox_id", "no sandbox given")
	case !isFullID(req.Sandbox.ID):
		return invalid("pod_sandbox_id", "%q is not a container ID", req.Sandbox.ID)
	case req.sandboxMetadata() == nil:
		return invalid("sandbox_config.metadata", "nil")
	case req.Image.ID == "":
		return invalid("image.image", "no image ID found for %q", req.Config.GetImage().GetImage())
	case req.User.Docker == "":
		return invalid(in+"run_as_user", "not resolved")
	case sc.GetPrivileged() && !req.sandboxPrivileged():
		return invalid(in+"privileged", "the sandbox is not privileged")
	case isHost(ns.GetNetwork()) && !isHost(req.Sandbox.Namespaces.GetNetwork()):
		return invalid(in+"namespace_options.network", "the sandbox does not use the host's network")
	case isHost(ns.GetIpc()) && !isHost(req.Sandbox.Namespaces.GetIpc()):
		return invalid(in+"namespace_options.ipc", "the sandbox does not use the host's IPC namespace")
	}
	if handler := req.Config.GetImage().GetRuntimeHandler(); handler != "" && handler != req.runtimeHandler() {
		return invalid("image.runtime_handler", "%q differs from the sandbox's %q", handler, req.runtimeHandler())
	}
	return validateUsernsInSandbox(req)
}

func containerHostConfig(req ContainerRequest, host Host) (*container.HostConfig, error) {
	cfg := req.Config
	sc := cfg.GetLinux().GetSecurityContext()
	runtime, err := RuntimeHandler(req.runtimeHandler(), host)
	if err != nil {
		return nil, err
	}
	const field = "linux.resources"
	if why := host.seamUnmet(req.runtimeHandler()); why != "" && smallMemory(cfg.GetLinux().GetResources()) != nil {
		return nil, invalid(field+".memory_limit_in_bytes", "%d is below Docker's minimum of %d (6 MiB), which needs %s; or set a higher limit", cfg.GetLinux().GetResources().GetMemoryLimitInBytes(), minMemory, why)
	}
	resources, annotations, err := dockerResources(field, cfg.GetLinux().GetResources(), host)
	if err != nil {
		return nil, err
	}
	hc := baseHostConfig(host)
	hc.Resources = resources
	if err := limitBlockIO(&hc.Resources, req, host); err != nil {
		return nil, err
	}
	hc.Ulimits = host.ulimits()
	hc.CgroupParent = req.Sandbox.CgroupParent
	hc.UsernsMode = container.UsernsMode(req.Sandbox.UsernsMode) // the joined namespaces belong to the sandbox's
	hc.OomScoreAdj = max(int(cfg.GetLinux().GetResources().GetOomScoreAdj()), host.MinOOMScoreAdj)
	if hc.Annotations, err = containerAnnotations(req, annotations, host); err != nil {
		return nil, err
	}
	hc.LogConfig = logConfig(logPath(req), host)
	hc.Runtime = runtime
	if err := confine(hc, req, host); err != nil {
		return nil, err
	}
	joinNamespaces(hc, req.Sandbox, sc.GetNamespaceOptions())
	mounts, cdiMounts, err := dockerMounts(req, host)
	if err != nil {
		return nil, err
	}
	hc.Mounts = mounts
	if err := addDevices(hc, req, cdiMounts, host); err != nil {
		return nil, err
	}
	return hc, nil
}

// confine sets the restrictions on the container's process besides resources.
func confine(hc *container.HostConfig, req ContainerRequest, host Host) error {
	sc := req.Config.GetLinux().GetSecurityContext()
	opts, err := securityOpt(confinement{
		in:              "linux.security_context.",
		privileged:      sc.GetPrivileged(),
		noNewPrivileges: sc.GetNoNewPrivs(),
		selinux:         sc.GetSelinuxOptions(),
		seccomp:         sc.GetSeccomp(),
		seccompPath:     sc.GetSeccompProfilePath(),
		seccompProfile:  req.SeccompProfile,
		apparmor:        sc.GetApparmor(),
		apparmorProfile: sc.GetApparmorProfile(),
	}, host)
	if err != nil {
		return err
	}
	add, drop, err := capabilities(sc)
	if err != nil {
		return err
	}
	hc.SecurityOpt = opts
	hc.CapAdd, hc.CapDrop = add, drop
	hc.GroupAdd = req.User.GroupAdd
	hc.Privileged = sc.GetPrivileged()
	hc.ReadonlyRootfs = sc.GetReadonlyRootfs()
	// To Docker null means its default list and an empty list means none.
	hc.MaskedPaths, hc.ReadonlyPaths = []string{}, []string{}
	if sc.GetPrivileged() {
		hc.CgroupnsMode = container.CgroupnsModeHost
		return nil
	}
	hc.MaskedPaths = append(hc.MaskedPaths, sc.GetMaskedPaths()...)
	hc.ReadonlyPaths = append(hc.ReadonlyPaths, sc.GetReadonlyPaths()...)
	return nil
}

// joinNamespaces puts a container into its pod. It uses the full ID: Docker
// resolves a name only once and guesses at a short ID. There is no UTS namespace
// to join: Docker copies the hostname of the container whose network is joined.
func joinNamespaces(hc *container.HostConfig, sandbox *Sandbox, ns *runtimeapi.NamespaceOption) {
	join := "container:" + sandbox.ID
	hc.NetworkMode = container.NetworkMode(join)
	hc.IpcMode = container.IpcMode(join)
	if sandbox.HostNetwork {
		hc.UTSMode = "host"
	}
	switch ns.GetPid() {
	case runtimeapi.NamespaceMode_POD:
		hc.PidMode = container.PidMode(join)
	case runtimeapi.NamespaceMode_NODE:
		hc.PidMode = "host"
	case runtimeapi.NamespaceMode_TARGET:
		hc.PidMode = container.PidMode("container:" + ns.GetTargetId())
	}
}

// logPath returns the absolute path of the CRI log; "" if the CRI wants none.
func logPath(req ContainerRequest) string {
	directory := req.Sandbox.LogDirectory
	if directory == "" {
		directory = req.SandboxConfig.GetLogDirectory()
	}
	if directory == "" || req.Config.GetLogPath() == "" {
		return ""
	}
	return path.Join(directory, req.Config.GetLogPath())
}

// logConfig sets every option: Docker takes missing ones from the daemon's
// configuration, which may compress logs or drop lines.
func logConfig(logPath string, host Host) container.LogConfig {
	if logPath == "" {
		return container.LogConfig{Type: "none"}
	}
	size, files := host.LogMaxSize, host.LogMaxFile
	if size == "" {
		size = defaultLogMaxSize
	}
	if files <= 0 {
		files = defaultLogMaxFile
	}
	return container.LogConfig{Type: "json-file", Config: map[string]string{
		"max-size": size,
		"max-file": strconv.Itoa(files),
		"compress": "false",
		"mode":     "blocking",
	}}
}

// DockerDevice returns Docker's form of a CRI device. An empty container path
// means the host's, empty permissions mean "rwm". field names d in errors.
func DockerDevice(field string, d *runtimeapi.Device) (container.DeviceMapping, error) {
	out := container.DeviceMapping{
		PathOnHost:        d.GetHostPath(),
		PathInContainer:   d.GetContainerPath(),
		CgroupPermissions: d.GetPermissions(),
	}
	if !path.IsAbs(out.PathOnHost) {
		return out, invalid(field+".host_path", "%q is not an absolute path", out.PathOnHost)
	}
	if out.PathInContainer == "" {
		out.PathInContainer = out.PathOnHost
	}
	if !path.IsAbs(out.PathInContainer) {
		return out, invalid(field+".container_path", "%q is not an absolute path", out.PathInContainer)
	}
	if out.CgroupPermissions == "" {
		out.CgroupPermissions = "rwm"
	}
	if strings.Trim(out.CgroupPermissions, "rwm") != "" {
		return out, invalid(field+".permissions", "%q is not a combination of r, w and m", out.CgroupPermissions)
	}
	return out, nil
}

// CDIDevices lists the CDI devices a container requests in the field and in the
// older annotations cdi.k8s.io/…, without duplicates. A malformed name is
// ErrInvalidArgument.
func CDIDevices(cfg *runtimeapi.ContainerConfig) ([]string, error) {
	var names []string
	add := func(field, name string) error {
		kind, device, ok := strings.Cut(name, "=")
		vendor, class, ok2 := strings.Cut(kind, "/")
		if !ok || !ok2 || vendor == "" || class == "" || device == "" || unprintable(name) {
			return invalid(field, "%q is not vendor/class=device", name)
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
		return nil
	}
	for i, d := range cfg.GetCDIDevices() {
		if err := add("CDI_devices["+strconv.Itoa(i)+"].name", d.GetName()); err != nil {
			return nil, err
		}
	}
	for _, key := range sortedKeys(cfg.GetAnnotations()) {
		if !strings.HasPrefix(key, cdiAnnotationPrefix) {
			continue
		}
		for name := range strings.SplitSeq(cfg.GetAnnotations()[key], ",") {
			if err := add("annotations["+strconv.Quote(key)+"]", strings.TrimSpace(name)); err != nil {
				return nil, err
			}
		}
	}
	return names, nil
}

// addDevices sets device nodes and CDI devices, including those of mounts.
func addDevices(hc *container.HostConfig, req ContainerRequest, cdiMounts []string, host Host) error {
	hc.Devices = slices.Clone(req.Devices)
	if req.Devices == nil {
		for i, d := range req.Config.GetDevices() {
			device, err := DockerDevice("devices["+strconv.Itoa(i)+"]", d)
			if err != nil {
				return err
			}
			hc.Devices = append(hc.Devices, device)
		}
	}
	names, err := CDIDevices(req.Config)
	if err != nil {
		return err
	}
	if req.CDI != nil && !host.CDI {
		if why := host.seamUnmet(req.runtimeHandler()); why != "" && len(req.CDI.Hooks) > 0 {
			return unmet("CDI_devices", "one of %q has hooks, which need Docker 28.2, or 25.0 with features.cdi, or %s", names, why)
		}
		hc.Devices = append(hc.Devices, req.CDI.Devices...)
		hc.Mounts = append(hc.Mounts, req.CDI.Mounts...)
		names = nil
	}
	names = append(names, cdiMounts...)
	if len(names) == 0 {
		return nil
	}
	if !host.CDI {
		return unmet("CDI_devices", "this engine (%s) has no CDI: it is on by default from Docker 28.2, and available with features.cdi from 25.0", orUnknown(host.EngineVersion))
	}
	hc.DeviceRequests = []container.DeviceRequest{{Driver: "cdi", DeviceIDs: names}}
	return nil
}

// environment returns NAME=value strings. The last of equal names wins; programs
// differ in which one they would use.
func environment(envs []*runtimeapi.KeyValue, cdi *CDIEdits) []string {
	var out []string
	at := map[string]int{}
	set := func(name, text string) {
		if i, ok := at[name]; ok {
			out[i] = text
			return
		}
		at[name] = len(out)
		out = append(out, text)
	}
	for _, env := range envs {
		set(env.GetKey(), env.GetKey()+"="+string(env.GetValue()))
	}
	if cdi != nil {
		for _, text := range cdi.Env {
			name, _, _ := strings.Cut(text, "=")
			set(name, text)
		}
	}
	return out
}

// words returns nil for an empty list: the image's words then apply.
func words(list []string) strslice.StrSlice {
	if len(list) == 0 {
		return nil
	}
	return slices.Clone(list)
}

// recordContainer returns the labels, one of which holds the requested
// configuration. It omits the process: Docker has it, and it may hold secrets.
func recordContainer(req ContainerRequest, host Host) (map[string]string, error) {
	cfg := proto.CloneOf(req.Config)
	cfg.Envs, cfg.Command, cfg.Args = nil, nil, nil
	for i, m := range cfg.GetMounts() {
		if m.GetImage().GetImage() != "" {
			if id := req.Mounts[i].ImageID; id != "" {
				// The ID only: a tag may move to another image.
				m.Image.Image, m.Image.ImageRef = id, id
			}
		} else if source := req.Mounts[i].Source; source != "" {
			m.HostPath = source
		}
	}
	recorded, err := encodeRecord(record{
		RuntimeHandler: req.runtimeHandler(),
		ImageName:      req.imageName(),
		ImageRef:       req.Image.Ref,
		User:           &recordedUser{UID: req.User.UID, GID: req.User.GID, Groups: req.User.Groups},
		Restored:       req.Restored,
	}, cfg)
	if err != nil {
		return nil, err
	}
	internal := containerLabels(cfg.GetMetadata(), req.sandboxMetadata(), req.Sandbox.ID, logPath(req), recorded)
	return dockerLabels(cfg.GetLabels(), cfg.GetAnnotations(), internal), nil
}
