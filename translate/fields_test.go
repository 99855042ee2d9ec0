package translate

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// The fields of the CRI's configurations and their effects.
// TestEveryFieldIsAccountedFor fails if a field of the CRI is not listed here or
// a listed one does not exist; TestEveryFieldIsKept fails if an entry is wrong.
// Package shim checks the fields of requests.
var (
	metadataFields = map[string]string{
		"metadata.name": "Docker name, label, record", "metadata.uid": "Docker name, label, record",
		"metadata.namespace": "Docker name, label, record", "metadata.attempt": "Docker name, record",
	}
	resourceFields = map[string]string{
		"cpu_period": "CpuPeriod", "cpu_quota": "CpuQuota", "cpu_shares": "CpuShares",
		"memory_limit_in_bytes": "Memory", "oom_score_adj": "OomScoreAdj", "cpuset_cpus": "CpusetCpus", "cpuset_mems": "CpusetMems",
		"hugepage_limits.page_size": "CgroupFiles", "hugepage_limits.limit": "CgroupFiles",
		"unified": "MemorySwap, PidsLimit, Cpuset…, systemd annotations, CgroupFiles", "memory_swap_limit_in_bytes": "MemorySwap",
	}
	// podResourceFields concern the cgroup of the pod, which the kubelet owns.
	podResourceFields = map[string]string{
		"cpu_period": "annotation for VM runtimes, record", "cpu_quota": "annotation for VM runtimes, record",
		"cpu_shares": "annotation for VM runtimes, record", "memory_limit_in_bytes": "annotation for VM runtimes, record",
		"oom_score_adj": "unused: the kubelet owns the pod's cgroup; kept in the record", "cpuset_cpus": "unused: as oom_score_adj",
		"cpuset_mems": "unused: as oom_score_adj", "hugepage_limits.page_size": "unused: as oom_score_adj",
		"hugepage_limits.limit": "unused: as oom_score_adj", "unified": "unused: as oom_score_adj",
		"memory_swap_limit_in_bytes": "unused: as oom_score_adj",
	}
	profileFields   = map[string]string{"profile_type": "SecurityOpt", "localhost_ref": "SecurityOpt, by the caller's look-up"}
	selinuxFields   = map[string]string{"user": "SecurityOpt", "role": "SecurityOpt", "type": "SecurityOpt", "level": "SecurityOpt"}
	idFields        = map[string]string{"value": "User"}
	idMappingFields = map[string]string{"host_id": "UserNamespace", "container_id": "refused unless 0", "length": "UserNamespace"}
	// samePodFields are those of a container.
	samePodFields   = map[string]string{"host_id": "refused unless the sandbox's", "container_id": "refused unless the sandbox's", "length": "refused unless the sandbox's"}
	namespaceFields = map[string]string{
		"network": "NetworkMode, UTSMode", "pid": "PidMode", "ipc": "IpcMode", "target_id": "PidMode",
		"userns_options.mode": "refused without mappings",
	}
	imageFields = map[string]string{
		"image": "Image, by the caller's look-up", "annotations": "echoed in status", "user_specified_image": "echoed in status",
		"runtime_handler": "refused unless the sandbox's; echoed in status", "image_ref": "echoed in status",
	}
)

func sandboxFields() map[string]string {
	const sc = "linux.security_context."
	fields := map[string]string{
		"hostname": "Hostname", "log_directory": "record: the directory of the containers' logs",
		"dns_config.servers": "ResolvConf, CNI dns", "dns_config.searches": "ResolvConf, CNI dns", "dns_config.options": "ResolvConf, CNI dns",
		"port_mappings.protocol": "CNI portMappings, PortBindings", "port_mappings.container_port": "CNI portMappings, PortBindings",
		"port_mappings.host_port": "CNI portMappings, PortBindings", "port_mappings.host_ip": "CNI portMappings, PortBindings",
		"labels": "Labels, record", "annotations": "Labels, record, CNI bandwidth, ShmSize",
		"linux.cgroup_parent": "CgroupParent, CNI cgroupPath", "linux.sysctls": "Sysctls, InterfaceSysctls",
		sc + "readonly_rootfs": "ReadonlyRootfs", sc + "supplemental_groups": "GroupAdd",
		sc + "supplemental_groups_policy": "unused: the pause image has no groups to merge",
		sc + "privileged":                 "SecurityOpt; allows privileged containers", sc + "seccomp_profile_path": "SecurityOpt",
		"windows": "refused: a Linux node",
	}
	include(fields, "", metadataFields)
	include(fields, "linux.overhead.", podResourceFields)
	include(fields, "linux.resources.", podResourceFields)
	include(fields, sc+"namespace_options.", namespaceFields)
	fields[sc+"namespace_options.target_id"] = "refused: a sandbox joins no container"
	include(fields, sc+"namespace_options.userns_options.uids.", idMappingFields)
	include(fields, sc+"namespace_options.userns_options.gids.", idMappingFields)
	include(fields, sc+"selinux_options.", selinuxFields)
	include(fields, sc+"run_as_user.", idFields)
	include(fields, sc+"run_as_group.", idFields)
	include(fields, sc+"seccomp.", profileFields)
	include(fields, sc+"apparmor.", profileFields)
	return fields
}

func containerFields() map[string]string {
	const sc = "linux.security_context."
	fields := map[string]string{
		"metadata.name": "Docker name, label, record", "metadata.attempt": "Docker name, record",
		"command": "Entrypoint", "args": "Cmd", "working_dir": "WorkingDir", "envs.key": "Env", "envs.value": "Env",
		"mounts.container_path": "Mounts", "mounts.host_path": "Mounts", "mounts.readonly": "Mounts",
		"mounts.selinux_relabel": "done by the caller on the host: Docker's mounts have no such option",
		"mounts.propagation":     "Mounts", "mounts.recursive_read_only": "Mounts", "mounts.image_sub_path": "Mounts",
		"mounts.mount_options":   "DeviceRequests: a CDI device of the caller's",
		"devices.container_path": "Devices", "devices.host_path": "Devices", "devices.permissions": "Devices",
		"labels": "Labels, record", "annotations": "Labels, record, CDI devices", "log_path": "label, LogConfig",
		"stdin": "OpenStdin", "stdin_once": "StdinOnce", "tty": "Tty", "CDI_devices.name": "DeviceRequests", "stop_signal": "StopSignal",
		sc + "capabilities.add_capabilities": "CapAdd", sc + "capabilities.drop_capabilities": "CapDrop",
		sc + "capabilities.add_ambient_capabilities": "refused", sc + "privileged": "Privileged", sc + "run_as_username": "User",
		sc + "readonly_rootfs": "ReadonlyRootfs", sc + "supplemental_groups": "GroupAdd", sc + "supplemental_groups_policy": "GroupAdd",
		sc + "no_new_privs": "SecurityOpt", sc + "masked_paths": "MaskedPaths", sc + "readonly_paths": "ReadonlyPaths",
		sc + "apparmor_profile": "SecurityOpt", sc + "seccomp_profile_path": "SecurityOpt",
		"windows": "refused: a Linux node",
	}
	include(fields, "image.", imageFields)
	include(fields, "mounts.image.", imageFields)
	fields["mounts.image.image"] = "Mounts, by the caller's look-up"
	fields["mounts.image.runtime_handler"] = "echoed in status: the engine has one image store"
	fields["mounts.image.image_ref"] = "unused: the status has the ID of the mounted image"
	include(fields, "mounts.uidMappings.", samePodFields)
	include(fields, "mounts.gidMappings.", samePodFields)
	include(fields, "linux.resources.", resourceFields)
	include(fields, sc+"namespace_options.", namespaceFields)
	for _, kind := range []string{"network", "ipc"} {
		fields[sc+"namespace_options."+kind] = "refused unless the sandbox's: a container is in its pod's"
	}
	include(fields, sc+"namespace_options.userns_options.uids.", samePodFields)
	include(fields, sc+"namespace_options.userns_options.gids.", samePodFields)
	include(fields, sc+"selinux_options.", selinuxFields)
	include(fields, sc+"run_as_user.", idFields)
	include(fields, sc+"run_as_group.", idFields)
	include(fields, sc+"seccomp.", profileFields)
	include(fields, sc+"apparmor.", profileFields)
	return fields
}

func include(into map[string]string, prefix string, fields map[string]string) {
	for name, what := range fields {
		into[prefix+name] = what
	}
}

func TestEveryFieldIsAccountedFor(t *testing.T) {
	for name, tc := range map[string]struct {
		message   proto.Message
		accounted map[string]string
	}{
		"PodSandboxConfig": {new(runtimeapi.PodSandboxConfig), sandboxFields()},
		"ContainerConfig":  {new(runtimeapi.ContainerConfig), containerFields()},
	} {
		t.Run(name, func(t *testing.T) {
			var found []string
			walk(tc.message.ProtoReflect().Descriptor(), "", func(path string) { found = append(found, path) })
			for _, path := range found {
				if tc.accounted[path] == "" {
					t.Errorf("%s.%s: say what becomes of it", name, path)
				}
			}
			for path := range tc.accounted {
				if !slices.Contains(found, path) {
					t.Errorf("%s.%s is not in the CRI any more", name, path)
				}
			}
		})
	}
}

// walk visits the path of every field that is not a message. Windows messages are
// refused as a whole.
func walk(m protoreflect.MessageDescriptor, prefix string, visit func(path string)) {
	for i := range m.Fields().Len() {
		field := m.Fields().Get(i)
		path := prefix + string(field.Name())
		if field.Message() == nil || field.IsMap() || strings.HasPrefix(string(field.Message().Name()), "Windows") {
			visit(path)
			continue
		}
		walk(field.Message(), path+".", visit)
	}
}

// example is a valid request in which one field at a time is changed, and its
// effect.
type example struct {
	message   proto.Message
	accounted map[string]string
	// effect returns what Docker, the kernel and CNI get (engine), and what the
	// status shows. Neither includes the record of the request in a label.
	effect func(*testing.T, proto.Message) (engine, status string, err error)
}

// TestEveryFieldIsKept sets every field, one at a time, and compares the effect
// with its entry. "refused": the request fails. "echoed" or "record": the status
// differs and the engine's part does not. "unused": neither does. "done by the
// caller": not visible here. Anything else: the engine's part differs.
func TestEveryFieldIsKept(t *testing.T) {
	for name, tc := range map[string]example{
		"PodSandboxConfig": {exampleSandbox(), sandboxFields(), sandboxEffect},
		"ContainerConfig":  {exampleContainer(), containerFields(), containerEffect},
	} {
		walk(tc.message.ProtoReflect().Descriptor(), "", func(path string) {
			t.Run(name+"."+path, func(t *testing.T) { tc.check(t, path) })
		})
	}
}

func (tc example) check(t *testing.T, path string) {
	base := proto.Clone(tc.message)
	if prepare := exampleContext[path]; prepare != nil {
		prepare(base)
	}
	engine, status, err := tc.effect(t, base)
	if err != nil {
		t.Fatalf("the example is refused: %v", err)
	}
	changed := proto.Clone(base)
	set(changed.ProtoReflect(), path, strings.Split(path, "."))
	if proto.Equal(base, changed) {
		t.Fatal("the field was not changed")
	}
	engineNow, statusNow, err := tc.effect(t, changed)
	account := tc.accounted[path]
	is := func(word string) bool { return strings.HasPrefix(account, word) }
	switch {
	case is("refused"):
		if !errdefs.IsInvalidArgument(err) && !errdefs.IsFailedPrecondition(err) {
			t.Errorf("it is not refused (%v)", err)
		}
	case err != nil:
		t.Errorf("it is refused: %v", err)
	case is("done by the caller"):
	case is("unused"):
		if engineNow != engine || statusNow != status {
			t.Error("it has an effect")
		}
	case is("echoed"), is("record"):
		if statusNow == status || engineNow != engine {
			t.Errorf("in the status: %v, in the engine: %v; want it in the status alone", statusNow != status, engineNow != engine)
		}
	case engineNow == engine:
		t.Error("it has no effect")
	}
}

// exampleHost supports everything that a request may ask for.
var exampleHost = func() Host {
	h := fullHost
	h.Annotations, h.CDI, h.MountOptions, h.AppArmor, h.SELinux = true, true, true, true, true
	h.Runtimes = map[string]RuntimeFeatures{"runc": {RecursiveReadOnly: true, Seam: true}, "crun": {RecursiveReadOnly: true, Seam: true}, "cridock": {}}
	h.SeamRuntime = "cridock"
	return h
}()

// exampleSandbox and exampleContainer have an element in every list of messages,
// so that each of its fields can be set alone.
func exampleSandbox() *runtimeapi.PodSandboxConfig {
	cfg := proto.CloneOf(podConfig)
	cfg.PortMappings = []*runtimeapi.PortMapping{{ContainerPort: 80, HostPort: 8080}}
	cfg.Linux = &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{RunAsUser: &runtimeapi.Int64Value{Value: 1000}}}
	return cfg
}

func exampleContainer() *runtimeapi.ContainerConfig {
	cfg := proto.CloneOf(containerConfig)
	cfg.Mounts = []*runtimeapi.Mount{{ContainerPath: "/a", HostPath: "/host"}}
	cfg.Devices = []*runtimeapi.Device{{HostPath: "/dev/null"}}
	cfg.CDIDevices = []*runtimeapi.CDIDevice{{Name: "vendor.com/class=device"}}
	cfg.Linux.Resources.HugepageLimits = []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 2 * mib}}
	cfg.Linux.SecurityContext = &runtimeapi.LinuxContainerSecurityContext{RunAsUser: &runtimeapi.Int64Value{Value: 1000}}
	return cfg
}

const otherID = "0f00000000000000000000000000000000000000000000000000000000000000"

// exampleValues are values of fields that do not accept any value; the others get
// someValue. The value of a map is a key and a value.
var exampleValues = map[string]any{
	"hostname": "other", "dns_config.servers": "10.0.0.9", "port_mappings.host_ip": "10.0.0.9", "linux.sysctls": [2]string{"net.core.somaxconn", "9"},
	"CDI_devices.name": "vendor.com/class=other", "log_path": "other.log", "mounts.mount_options": "noexec", "devices.permissions": "r",
	"image.image": "web:2", "mounts.image.image": "other", "mounts.image_sub_path": "sub",
	"linux.overhead.unified":                                       [2]string{"memory.high", "9000000"},
	"linux.resources.unified":                                      [2]string{"memory.high", "9000000"},
	"linux.resources.memory_limit_in_bytes":                        int64(32 * mib),
	"linux.resources.memory_swap_limit_in_bytes":                   int64(128 * mib),
	"linux.resources.hugepage_limits.page_size":                    "1GB",
	"linux.resources.oom_score_adj":                                int64(9),
	"linux.security_context.seccomp_profile_path":                  "localhost//profile.json",
	"linux.security_context.apparmor_profile":                      "localhost/profile",
	"linux.security_context.run_as_username":                       "app",
	"linux.security_context.namespace_options.target_id":           otherID,
	"linux.security_context.capabilities.add_capabilities":         "NET_ADMIN",
	"linux.security_context.capabilities.drop_capabilities":        "NET_RAW",
	"linux.security_context.namespace_options.network":             runtimeapi.NamespaceMode_NODE,
	"linux.security_context.namespace_options.pid":                 runtimeapi.NamespaceMode_NODE,
	"linux.security_context.namespace_options.ipc":                 runtimeapi.NamespaceMode_NODE,
	"linux.security_context.seccomp.profile_type":                  runtimeapi.SecurityProfile_Unconfined,
	"linux.security_context.apparmor.profile_type":                 runtimeapi.SecurityProfile_Unconfined,
	"linux.security_context.supplemental_groups_policy":            runtimeapi.SupplementalGroupsPolicy_Strict,
	"linux.security_context.namespace_options.userns_options.mode": runtimeapi.NamespaceMode_POD,
}

// exampleContext sets what else must be requested for a field to have an effect.
var exampleContext = map[string]func(proto.Message){
	"linux.security_context.seccomp.profile_type": security(map[string]any{"seccomp": &runtimeapi.SecurityProfile{}}),
	"linux.security_context.seccomp.localhost_ref": security(map[string]any{"seccomp": &runtimeapi.SecurityProfile{
		ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "/profile.json"}}),
	"linux.security_context.apparmor.localhost_ref": security(map[string]any{"apparmor": &runtimeapi.SecurityProfile{
		ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "profile"}}),
	"linux.security_context.run_as_username": security(map[string]any{"run_as_user": nil}),
	"linux.security_context.namespace_options.target_id": func(m proto.Message) {
		if cfg, ok := m.(*runtimeapi.ContainerConfig); ok {
			cfg.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_TARGET, TargetId: containerID}
		}
	},
	"linux.security_context.namespace_options.userns_options.uids.host_id":      inUserNamespace,
	"linux.security_context.namespace_options.userns_options.uids.container_id": inUserNamespace,
	"linux.security_context.namespace_options.userns_options.uids.length":       inUserNamespace,
	"linux.security_context.namespace_options.userns_options.gids.host_id":      inUserNamespace,
	"linux.security_context.namespace_options.userns_options.gids.container_id": inUserNamespace,
	"linux.security_context.namespace_options.userns_options.gids.length":       inUserNamespace,
	"mounts.recursive_read_only":        func(m proto.Message) { m.(*runtimeapi.ContainerConfig).Mounts[0].Readonly = true },
	"mounts.image_sub_path":             ofImage,
	"mounts.image.image":                ofImage,
	"mounts.image.annotations":          ofImage,
	"mounts.image.user_specified_image": ofImage,
	"mounts.image.runtime_handler":      ofImage,
	"mounts.image.image_ref":            ofImage,
}

// inUserNamespace gives a sandbox a user namespace.
func inUserNamespace(m proto.Message) {
	if cfg, ok := m.(*runtimeapi.PodSandboxConfig); ok {
		cfg.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{UsernsOptions: usernsOptions(100000)}
	}
}

// security sets fields of the security context; nil clears one.
func security(fields map[string]any) func(proto.Message) {
	return func(m proto.Message) {
		sc := m.ProtoReflect()
		for _, name := range []protoreflect.Name{"linux", "security_context"} {
			sc = sc.Mutable(sc.Descriptor().Fields().ByName(name)).Message()
		}
		for name, value := range fields {
			field := sc.Descriptor().Fields().ByName(protoreflect.Name(name))
			if value == nil {
				sc.Clear(field)
			} else {
				sc.Set(field, protoreflect.ValueOfMessage(value.(proto.Message).ProtoReflect()))
			}
		}
	}
}

// ofImage makes the first mount an image mount.
func ofImage(m proto.Message) {
	m.(*runtimeapi.ContainerConfig).Mounts[0] = &runtimeapi.Mount{ContainerPath: "/i", Readonly: true, Image: &runtimeapi.ImageSpec{Image: "data"}}
}

// fileOf returns a stand-in for the content of a profile's file.
func fileOf(t *testing.T, p *runtimeapi.SecurityProfile, deprecated string) []byte {
	t.Helper()
	path, err := SeccompProfilePath(p, deprecated, "")
	if err != nil || path == "" {
		return nil
	}
	return []byte(strconv.Quote(path))
}

// createExampleSandbox returns what is created for a request, and what is read back.
func createExampleSandbox(t *testing.T, cfg *runtimeapi.PodSandboxConfig) (*Create, *Sandbox, error) {
	t.Helper()
	sc := cfg.GetLinux().GetSecurityContext()
	created, err := DockerSandbox(SandboxRequest{
		Config: cfg, RuntimeHandler: "crun", ImageID: pauseID, SeccompProfile: fileOf(t, sc.GetSeccomp(), sc.GetSeccompProfilePath()),
	}, exampleHost)
	if err != nil {
		return nil, nil, err
	}
	s, err := ReadSandbox(inspect(created, sandboxID), nil, exampleHost)
	return created, s, err
}

func sandboxEffect(t *testing.T, m proto.Message) (engine, status string, err error) {
	t.Helper()
	cfg := m.(*runtimeapi.PodSandboxConfig)
	created, s, err := createExampleSandbox(t, cfg)
	if err != nil {
		return "", "", err
	}
	shown := CRISandboxStatus(s, true, nil)
	s.Config = nil
	status = string(indent(t, []any{shown, s}))
	dropProofs(created)
	_, later := InterfaceSysctls(cfg.GetLinux().GetSysctls())
	cni, err := CNIRuntimeConf(cfg, sandboxID, "")
	return string(indent(t, []any{created, string(ResolvConf(cfg.GetDnsConfig())), later, cni})), status, err
}

// createExampleContainer is like createExampleSandbox.
func createExampleContainer(t *testing.T, cfg *runtimeapi.ContainerConfig) (*Create, *Container, error) {
	t.Helper()
	sc := cfg.GetLinux().GetSecurityContext()
	req := containerRequest(t)
	req.Sandbox.Privileged = true
	req.Config, req.Mounts = cfg, make([]ResolvedMount, len(cfg.GetMounts()))
	for i, m := range cfg.GetMounts() {
		if image := m.GetImage().GetImage(); image != "" {
			req.Mounts[i].ImageID = "sha256:" + image
		}
		if len(m.GetMountOptions()) > 0 {
			req.Mounts[i].CDIDevice = "cridock.io/mounts=example"
		}
	}
	req.Image.ID = "sha256:" + cfg.GetImage().GetImage()
	req.SeccompProfile = fileOf(t, sc.GetSeccomp(), sc.GetSeccompProfilePath())
	var err error
	if req.User, err = ResolveUser(sc, "", []byte(testPasswd), []byte(testGroup)); err != nil {
		return nil, nil, err
	}
	created, err := DockerContainer(req, exampleHost)
	if err != nil {
		return nil, nil, err
	}
	c, err := ReadContainer(inspect(created, containerID), nil, exampleHost)
	return created, c, err
}

func containerEffect(t *testing.T, m proto.Message) (engine, status string, err error) {
	t.Helper()
	cfg := m.(*runtimeapi.ContainerConfig)
	created, c, err := createExampleContainer(t, cfg)
	if err != nil {
		return "", "", err
	}
	status = string(indent(t, CRIContainerStatus(c)))
	dropProofs(created)
	return string(indent(t, []any{created, CgroupFiles(cfg.GetLinux().GetResources(), exampleHost)})), status, nil
}

// set changes the value of the field at a path, in the first element of a list if
// it has one.
func set(m protoreflect.Message, name string, path []string) {
	field := m.Descriptor().Fields().ByName(protoreflect.Name(path[0]))
	switch {
	case field.IsMap():
		pair, ok := exampleValues[name].([2]string)
		if !ok {
			pair = [2]string{"key", "value"}
		}
		m.Mutable(field).Map().Set(protoreflect.ValueOfString(pair[0]).MapKey(), protoreflect.ValueOfString(pair[1]))
	case field.IsList() && field.Message() != nil:
		list := m.Mutable(field).List()
		if list.Len() == 0 {
			list.AppendMutable()
		}
		set(list.Get(0).Message(), name, path[1:])
	case field.IsList():
		m.Mutable(field).List().Append(exampleValue(name, field))
	case field.Message() != nil:
		if sub := m.Mutable(field).Message(); len(path) > 1 {
			set(sub, name, path[1:])
		}
	default:
		m.Set(field, exampleValue(name, field))
	}
}

func exampleValue(name string, field protoreflect.FieldDescriptor) protoreflect.Value {
	switch v := exampleValues[name].(type) {
	case nil:
		return someValue(field)
	case protoreflect.Enum:
		return protoreflect.ValueOfEnum(v.Number())
	default:
		return protoreflect.ValueOf(v)
	}
}

// neverFilled lists the fields of responses that are always empty, and why.
var neverFilled = map[string]string{
	"ContainerStatus.resources.windows":                                          "a Linux node",
	"ContainerStatus.mounts.uidMappings.container_id":                            "always 0",
	"ContainerStatus.mounts.gidMappings.container_id":                            "always 0",
	"PodSandboxStatus.linux.namespaces.options.userns_options.uids.container_id": "always 0",
	"PodSandboxStatus.linux.namespaces.options.userns_options.gids.container_id": "always 0",
	"PodSandboxStatus.linux.namespaces.options.target_id":                        "refused",
	"RuntimeFeatures.user_namespaces_host_network":                               "refused",
	"Image.spec.annotations":                                                     "Docker keeps none",
	"Image.spec.image_ref":                                                       "the ID is in id and in spec.image",
	"Image.spec.user_specified_image":                                            "of a request; an image has had many",
	"Image.spec.runtime_handler":                                                 "Docker has one image store for all runtimes",
}

// TestEveryStatusFieldIsFilled builds the responses for everything that can be
// requested, and checks that each of their fields is set in at least one.
func TestEveryStatusFieldIsFilled(t *testing.T) {
	answers := []proto.Message{
		CRIImage(Image{ID: imageID, RepoTags: []string{"a:1"}, RepoDigests: []string{"a@" + digest}, Size: 1, User: "app"}, true),
		CRIImage(Image{User: "1000"}, false), CRIRuntimeFeatures(exampleHost),
	}
	for _, h := range CRIRuntimeHandlers(exampleHost) {
		answers = append(answers, h)
	}
	ofHost := exampleSandbox()
	ofHost.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{UsernsOptions: &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_NODE}}
	ofPod := exampleSandbox()
	ofPod.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{UsernsOptions: usernsOptions(100000)}
	_, own, err := createExampleSandbox(t, ofPod)
	if err != nil {
		t.Fatal(err)
	}
	answers = append(answers, CRISandboxStatus(own, true, nil))
	if _, mapped := createInUserNamespace(t); mapped != nil {
		answers = append(answers, CRIContainerStatus(mapped))
	}
	eachExample(ofHost, func(m proto.Message) {
		if _, s, err := createExampleSandbox(t, m.(*runtimeapi.PodSandboxConfig)); err == nil {
			answers = append(answers, CRISandboxStatus(s, true, []string{"10.0.0.2", "fd00::2"}), CRISandboxStatus(s, false, nil), CRISandbox(s, false))
		}
	})
	ofHandler := exampleContainer()
	ofHandler.Image.RuntimeHandler = "crun"
	eachExample(ofHandler, func(m proto.Message) {
		created, c, err := createExampleContainer(t, m.(*runtimeapi.ContainerConfig))
		if err != nil {
			return
		}
		answers = append(answers, CRIContainerStatus(c), CRIContainer(c))
		over := inspect(created, containerID)
		over.State = &container.State{Status: container.StateExited, ExitCode: 3, Error: "why", StartedAt: "2026-03-01T10:00:01Z", FinishedAt: "2026-03-01T10:00:02Z"}
		if c, err = ReadContainer(over, nil, exampleHost); err != nil {
			t.Fatal(err)
		}
		answers = append(answers, CRIContainerStatus(c), CRIContainer(c))
	})
	filled := map[string]bool{}
	for _, m := range answers {
		name := string(m.ProtoReflect().Descriptor().Name())
		walk(m.ProtoReflect().Descriptor(), "", func(path string) {
			filled[name+"."+path] = filled[name+"."+path] || has(m.ProtoReflect(), strings.Split(path, "."))
		})
	}
	said := map[string]bool{}
	for field, ok := range filled {
		excuse := ""
		for prefix := range neverFilled {
			if field == prefix || strings.HasPrefix(field, prefix+".") {
				excuse, said[prefix] = prefix, true
			}
		}
		if !ok && excuse == "" {
			t.Errorf("%s is never filled; fill it or say why", field)
		} else if ok && excuse != "" {
			t.Errorf("%s is filled, and said to be empty", field)
		}
	}
	for field := range neverFilled {
		if !said[field] {
			t.Errorf("%s is not in the CRI", field)
		}
	}
}

// eachExample calls f with the message, and with each of its fields changed.
func eachExample(m proto.Message, f func(proto.Message)) {
	f(m)
	walk(m.ProtoReflect().Descriptor(), "", func(path string) {
		changed := proto.Clone(m)
		if prepare := exampleContext[path]; prepare != nil {
			prepare(changed)
		}
		set(changed.ProtoReflect(), path, strings.Split(path, "."))
		f(changed)
	})
}

// has reports whether the field at a path is set, in any element of lists.
func has(m protoreflect.Message, path []string) bool {
	field := m.Descriptor().Fields().ByName(protoreflect.Name(path[0]))
	switch {
	case !m.Has(field):
		return false
	case len(path) == 1:
		return true
	case field.IsList():
		for i := range m.Get(field).List().Len() {
			if has(m.Get(field).List().Get(i).Message(), path[1:]) {
				return true
			}
		}
		return false
	}
	return has(m.Get(field).Message(), path[1:])
}

func someValue(field protoreflect.FieldDescriptor) protoreflect.Value {
	switch field.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(1)
	case protoreflect.StringKind:
		return protoreflect.ValueOfString("/x")
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte("x"))
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(2000)
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(2000)
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(2000)
	}
	return protoreflect.ValueOfInt64(2000)
}
