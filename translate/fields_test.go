package translate

import (
	"slices"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Fields of the CRI request messages and what becomes of them: "has an effect
// at …", "refused …", or "unused: why". TestEveryFieldIsAccountedFor fails when
// the CRI has a field that is not here, or no longer has one that is.
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
	// podResourceFields: the pod's cgroup is the kubelet's.
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
	idMappingFields = map[string]string{"host_id": "refused with its list", "container_id": "refused with its list", "length": "refused with its list"}
	namespaceFields = map[string]string{
		"network": "NetworkMode, UTSMode", "pid": "PidMode", "ipc": "IpcMode", "target_id": "PidMode; refused on sandboxes",
		"userns_options.mode": "refused but NODE",
	}
	imageFields = map[string]string{
		"image": "resolved by the caller", "annotations": "echoed in status", "user_specified_image": "echoed in status",
		"runtime_handler": "refused unless the sandbox's; echoed in status", "image_ref": "echoed in status",
	}
)

func sandboxFields() map[string]string {
	const sc = "linux.security_context."
	fields := map[string]string{
		"hostname": "Hostname", "log_directory": "log path label of containers",
		"dns_config.servers": "ResolvConf, CNI dns", "dns_config.searches": "ResolvConf, CNI dns", "dns_config.options": "ResolvConf, CNI dns",
		"port_mappings.protocol": "CNI portMappings, PortBindings", "port_mappings.container_port": "CNI portMappings, PortBindings",
		"port_mappings.host_port": "CNI portMappings, PortBindings", "port_mappings.host_ip": "CNI portMappings, PortBindings",
		"labels": "Labels, record", "annotations": "Labels, record, CNI bandwidth",
		"linux.cgroup_parent": "CgroupParent, CNI cgroupPath", "linux.sysctls": "Sysctls, InterfaceSysctls",
		sc + "readonly_rootfs": "ReadonlyRootfs", sc + "supplemental_groups": "GroupAdd",
		sc + "supplemental_groups_policy": "validated; the pause image has no groups to merge",
		sc + "privileged":                 "record: allows privileged containers", sc + "seccomp_profile_path": "SecurityOpt",
		"windows": "refused: a Linux node",
	}
	include(fields, "", metadataFields)
	include(fields, "linux.overhead.", podResourceFields)
	include(fields, "linux.resources.", podResourceFields)
	include(fields, sc+"namespace_options.", namespaceFields)
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
		"mounts.mount_options":   "CDI device by the caller, else refused",
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
	fields["mounts.image.runtime_handler"] = "unused: the engine has one image store; echoed in status"
	fields["mounts.image.image_ref"] = "answered in status: the ID of the mounted image"
	include(fields, "mounts.uidMappings.", idMappingFields)
	include(fields, "mounts.gidMappings.", idMappingFields)
	include(fields, "linux.resources.", resourceFields)
	include(fields, sc+"namespace_options.", namespaceFields)
	include(fields, sc+"namespace_options.userns_options.uids.", idMappingFields)
	include(fields, sc+"namespace_options.userns_options.gids.", idMappingFields)
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

// walk visits the path of every field that is no message. Windows' messages are
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

// TestEveryFieldIsKept sets every field, one at a time, and looks for a
// difference: an error, another Docker container, or other lists by CgroupFiles,
// ResolvConf, InterfaceSysctls or CNIRuntimeConf. The record of the request in
// the labels does not count.
func TestEveryFieldIsKept(t *testing.T) {
	// Fields whose effect depends on what the caller looks up or on others set.
	elsewhere := []string{
		"image.image", "image.annotations", "image.user_specified_image", "image.image_ref", "image.runtime_handler",
		"metadata", "labels", "annotations", "log_directory", "mounts", "devices", "envs", "port_mappings",
		"linux.overhead", "linux.resources", "linux.cgroup_parent", "CDI_devices",
		"linux.security_context.privileged", "linux.security_context.supplemental_groups_policy", "linux.security_context.namespace_options",
		"linux.security_context.run_as_user", "linux.security_context.run_as_group", "linux.security_context.run_as_username",
		"linux.security_context.supplemental_groups", "linux.security_context.seccomp", "linux.security_context.apparmor",
	}
	for name, tc := range map[string]struct {
		base   proto.Message
		effect func(proto.Message) string
	}{
		"PodSandboxConfig": {podConfig, func(m proto.Message) string { return sandboxEffect(t, m.(*runtimeapi.PodSandboxConfig)) }},
		"ContainerConfig":  {containerConfig, func(m proto.Message) string { return containerEffect(t, m.(*runtimeapi.ContainerConfig)) }},
	} {
		before := tc.effect(tc.base)
		walk(tc.base.ProtoReflect().Descriptor(), "", func(path string) {
			if slices.ContainsFunc(elsewhere, func(p string) bool { return path == p || strings.HasPrefix(path, p+".") }) {
				return
			}
			m := proto.Clone(tc.base)
			set(m.ProtoReflect(), strings.Split(path, "."))
			if tc.effect(m) == before {
				t.Errorf("%s.%s has no effect", name, path)
			}
		})
	}
}

func sandboxEffect(t *testing.T, cfg *runtimeapi.PodSandboxConfig) string {
	created, err := DockerSandbox(SandboxRequest{Config: cfg, ImageID: pauseID}, fullHost)
	if err != nil {
		return err.Error()
	}
	delete(created.Config.Labels, LabelConfig)
	_, later := InterfaceSysctls(cfg.GetLinux().GetSysctls())
	cni, err := CNIRuntimeConf(cfg, sandboxID, "")
	return string(indent(t, []any{created, string(ResolvConf(cfg.GetDnsConfig())), later, cni, err}))
}

func containerEffect(t *testing.T, cfg *runtimeapi.ContainerConfig) string {
	req := containerRequest(t)
	req.Config = cfg
	created, err := DockerContainer(req, fullHost)
	if err != nil {
		return err.Error()
	}
	delete(created.Config.Labels, LabelConfig)
	return string(indent(t, []any{created, CgroupFiles(cfg.GetLinux().GetResources(), fullHost)}))
}

// set gives the field at the path a value that is not its default.
func set(m protoreflect.Message, path []string) {
	field := m.Descriptor().Fields().ByName(protoreflect.Name(path[0]))
	switch {
	case field.IsMap():
		m.Mutable(field).Map().Set(protoreflect.ValueOfString("net.core.somaxconn").MapKey(), protoreflect.ValueOfString("9"))
	case field.IsList() && field.Message() != nil:
		element := m.Mutable(field).List().AppendMutable().Message()
		if len(path) > 1 {
			set(element, path[1:])
		}
	case field.IsList():
		m.Mutable(field).List().Append(someValue(field))
	case field.Message() != nil:
		if sub := m.Mutable(field).Message(); len(path) > 1 {
			set(sub, path[1:])
		}
	default:
		m.Set(field, someValue(field))
	}
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
