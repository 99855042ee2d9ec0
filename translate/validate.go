package translate

import (
	"fmt"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// maxHostname is Linux's HOST_NAME_MAX.
	maxHostname = 64
	maxPort     = 65535
)

// ValidateSandboxConfig checks a RunPodSandbox configuration as far as possible
// without node and engine. Call it before creating anything. Every error is
// ErrInvalidArgument and names the field.
func ValidateSandboxConfig(cfg *runtimeapi.PodSandboxConfig) error {
	if cfg == nil {
		return invalid("config", "nil")
	}
	if cfg.GetWindows() != nil {
		return invalid("windows", "this is a Linux node")
	}
	if err := validateSandboxMetadata(cfg.GetMetadata()); err != nil {
		return err
	}
	if err := validateHostname(cfg.GetHostname()); err != nil {
		return err
	}
	if dir := cfg.GetLogDirectory(); dir != "" && !path.IsAbs(dir) {
		return invalid("log_directory", "%q is not an absolute path", dir)
	}
	if err := validateKeys(cfg.GetLabels(), cfg.GetAnnotations()); err != nil {
		return err
	}
	if err := validateDNS(cfg.GetDnsConfig()); err != nil {
		return err
	}
	for i, m := range cfg.GetPortMappings() {
		if err := validatePortMapping(fmt.Sprintf("port_mappings[%d]", i), m); err != nil {
			return err
		}
	}
	if _, err := podShmSize(cfg); err != nil {
		return err
	}
	return validateLinuxSandbox(cfg.GetLinux())
}

func validateSandboxMetadata(m *runtimeapi.PodSandboxMetadata) error {
	if m == nil {
		return invalid("metadata", "nil")
	}
	if m.GetName() == "" {
		return invalid("metadata.name", "empty")
	}
	for field, value := range map[string]string{"name": m.GetName(), "namespace": m.GetNamespace(), "uid": m.GetUid()} {
		// CNI_ARGS is separated by semicolons: one in a name would forge arguments.
		if unprintable(value) || strings.Contains(value, ";") {
			return invalid("metadata."+field, "%q contains a character not allowed in Kubernetes names", value)
		}
	}
	return nil
}

func validateHostname(name string) error {
	if len(name) > maxHostname {
		return invalid("hostname", "%d bytes long; Linux allows %d", len(name), maxHostname)
	}
	if unprintable(name) || strings.ContainsAny(name, " /") {
		return invalid("hostname", "%q contains a character not allowed in hostnames", name)
	}
	return nil
}

// validateKeys refuses keys that can't be Docker label keys.
func validateKeys(labels, annotations map[string]string) error {
	if _, ok := labels[""]; ok {
		return invalid("labels", "a key is empty")
	}
	if _, ok := annotations[""]; ok {
		return invalid("annotations", "a key is empty")
	}
	return nil
}

func validateDNS(dns *runtimeapi.DNSConfig) error {
	for i, server := range dns.GetServers() {
		// ParseAddr accepts any text as a zone.
		if _, err := netip.ParseAddr(server); err != nil || !singleWord(server) {
			return invalid(fmt.Sprintf("dns_config.servers[%d]", i), "%q is not an IP address", server)
		}
	}
	for field, words := range map[string][]string{"searches": dns.GetSearches(), "options": dns.GetOptions()} {
		for i, word := range words {
			if !singleWord(word) {
				return invalid(fmt.Sprintf("dns_config.%s[%d]", field, i), "%q is not a single word", word)
			}
		}
	}
	return nil
}

// singleWord reports whether s is one printable word. A line break would add lines
// to resolv.conf.
func singleWord(s string) bool {
	return s != "" && !unprintable(s) && !strings.Contains(s, " ")
}

func validatePortMapping(field string, m *runtimeapi.PortMapping) error {
	if m == nil {
		return invalid(field, "nil")
	}
	if _, ok := runtimeapi.Protocol_name[int32(m.GetProtocol())]; !ok {
		return invalid(field+".protocol", "unknown protocol %d", m.GetProtocol())
	}
	if p := m.GetHostPort(); p < 0 || p > maxPort {
		return invalid(field+".host_port", "%d is not a port", p)
	}
	if p := m.GetContainerPort(); p < 0 || p > maxPort || (p == 0 && m.GetHostPort() > 0) {
		return invalid(field+".container_port", "%d is not a port", p)
	}
	if ip := m.GetHostIp(); ip != "" {
		if _, err := netip.ParseAddr(ip); err != nil {
			return invalid(field+".host_ip", "%q is not an IP address", ip)
		}
	}
	return nil
}

func validateLinuxSandbox(linux *runtimeapi.LinuxPodSandboxConfig) error {
	if slices.Contains(strings.Split(linux.GetCgroupParent(), "/"), "..") {
		return invalid("linux.cgroup_parent", "%q contains \"..\"", linux.GetCgroupParent())
	}
	sc := linux.GetSecurityContext()
	if err := validateSandboxSecurity(sc); err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(linux.GetSysctls())) {
		if err := validateSysctl(key, linux.GetSysctls()[key], sc.GetNamespaceOptions()); err != nil {
			return err
		}
	}
	return nil
}

func validateSandboxSecurity(sc *runtimeapi.LinuxSandboxSecurityContext) error {
	const in = "linux.security_context."
	ns := sc.GetNamespaceOptions()
	for field, mode := range map[string]runtimeapi.NamespaceMode{"network": ns.GetNetwork(), "pid": ns.GetPid(), "ipc": ns.GetIpc()} {
		if _, ok := runtimeapi.NamespaceMode_name[int32(mode)]; !ok || mode == runtimeapi.NamespaceMode_TARGET {
			return invalid(in+"namespace_options."+field, "a sandbox can't have mode %s", mode)
		}
	}
	if ns.GetTargetId() != "" {
		return invalid(in+"namespace_options.target_id", "a sandbox can't join a container")
	}
	if err := validateSandboxUserns(in, ns); err != nil {
		return err
	}
	if sc.GetRunAsGroup() != nil && sc.GetRunAsUser() == nil {
		return invalid(in+"run_as_group", "set without run_as_user")
	}
	if err := validateIDs(in, sc.GetRunAsUser(), sc.GetRunAsGroup(), sc.GetSupplementalGroups(), sc.GetSupplementalGroupsPolicy()); err != nil {
		return err
	}
	if err := validateSELinux(in, sc.GetSelinuxOptions()); err != nil {
		return err
	}
	if _, err := SeccompProfilePath(sc.GetSeccomp(), sc.GetSeccompProfilePath(), ""); err != nil {
		return err
	}
	_, err := apparmorRequest(sc.GetApparmor(), "")
	return err
}

// ipcSysctls are the sysctls of the IPC namespace besides fs.mqueue.*.
var ipcSysctls = []string{
	"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem",
	"kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced",
}

// validateSysctl refuses sysctls that would change the node: those without a
// namespace, and those of a namespace the pod shares with the host.
func validateSysctl(key, value string, ns *runtimeapi.NamespaceOption) error {
	field := fmt.Sprintf("linux.sysctls[%q]", key)
	name := dottedSysctl(key)
	if strings.ContainsAny(value, "\x00\n") {
		return invalid(field, "value contains a control character")
	}
	switch {
	case strings.Contains(key, "..") || strings.Contains(key, "//") || unprintable(name) || strings.Contains(name, " "):
		return invalid(field, "not the name of a sysctl")
	case strings.HasPrefix(name, "net."):
		if isHost(ns.GetNetwork()) {
			return invalid(field, "not allowed with the host's network")
		}
	case strings.HasPrefix(name, "fs.mqueue."), slices.Contains(ipcSysctls, name):
		if isHost(ns.GetIpc()) {
			return invalid(field, "not allowed with the host's IPC namespace")
		}
	case name == "kernel.domainname":
		if isHost(ns.GetNetwork()) {
			return invalid(field, "not allowed with the host's network and hostname")
		}
	default:
		return invalid(field, "not namespaced: it would change the node")
	}
	return nil
}

// ValidateContainerConfig checks a CreateContainer configuration as far as possible
// without node, engine and sandbox, by the rules of [ValidateSandboxConfig].
func ValidateContainerConfig(cfg *runtimeapi.ContainerConfig) error {
	switch {
	case cfg == nil:
		return invalid("config", "nil")
	case cfg.GetWindows() != nil:
		return invalid("windows", "this is a Linux node")
	case cfg.GetMetadata() == nil:
		return invalid("metadata", "nil")
	case cfg.GetMetadata().GetName() == "":
		return invalid("metadata.name", "empty")
	case unprintable(cfg.GetMetadata().GetName()):
		return invalid("metadata.name", "%q contains a control character", cfg.GetMetadata().GetName())
	case cfg.GetImage().GetImage() == "":
		return invalid("image.image", "empty")
	case cfg.GetWorkingDir() != "" && !path.IsAbs(cfg.GetWorkingDir()):
		return invalid("working_dir", "%q is not an absolute path", cfg.GetWorkingDir())
	}
	if err := validateLogPath(cfg.GetLogPath()); err != nil {
		return err
	}
	if err := validateKeys(cfg.GetLabels(), cfg.GetAnnotations()); err != nil {
		return err
	}
	if err := validateProcess(cfg); err != nil {
		return err
	}
	for i, m := range cfg.GetMounts() {
		if err := validateMount(fmt.Sprintf("mounts[%d]", i), m); err != nil {
			return err
		}
	}
	for i, d := range cfg.GetDevices() {
		if _, err := DockerDevice(fmt.Sprintf("devices[%d]", i), d); err != nil {
			return err
		}
	}
	if _, err := CDIDevices(cfg); err != nil {
		return err
	}
	if err := validateResources("linux.resources", cfg.GetLinux().GetResources()); err != nil {
		return err
	}
	return validateContainerSecurity(cfg.GetLinux().GetSecurityContext())
}

func validateLogPath(p string) error {
	if path.IsAbs(p) || slices.Contains(strings.Split(p, "/"), "..") || strings.ContainsRune(p, 0) {
		return invalid("log_path", "%q must be relative to the sandbox's log_directory and must not contain \"..\"", p)
	}
	return nil
}

// validateProcess checks the process: C strings can't contain NUL, and Docker's
// JSON takes only UTF-8. Errors don't quote values, which may be secret.
func validateProcess(cfg *runtimeapi.ContainerConfig) error {
	for field, words := range map[string][]string{"command": cfg.GetCommand(), "args": cfg.GetArgs()} {
		for i, word := range words {
			if strings.ContainsRune(word, 0) || !utf8.ValidString(word) {
				return invalid(fmt.Sprintf("%s[%d]", field, i), "contains a NUL or is not UTF-8")
			}
		}
	}
	for i, env := range cfg.GetEnvs() {
		switch {
		case env.GetKey() == "" || strings.ContainsAny(env.GetKey(), "=\x00"):
			return invalid(fmt.Sprintf("envs[%d].key", i), "%q is not a variable's name", env.GetKey())
		case slices.Contains(env.GetValue(), 0):
			return invalid(fmt.Sprintf("envs[%d].value", i), "contains a NUL")
		case !utf8.Valid(env.GetValue()):
			return invalid(fmt.Sprintf("envs[%d].value", i), "is not UTF-8, as Docker requires")
		}
	}
	if _, ok := runtimeapi.Signal_name[int32(cfg.GetStopSignal())]; !ok {
		return invalid("stop_signal", "unknown signal %d", cfg.GetStopSignal())
	}
	return nil
}

func validateContainerSecurity(sc *runtimeapi.LinuxContainerSecurityContext) error {
	const in = "linux.security_context."
	if err := validateUser(sc); err != nil {
		return err
	}
	if err := validateContainerNamespaces(in, sc.GetNamespaceOptions()); err != nil {
		return err
	}
	if err := validateSELinux(in, sc.GetSelinuxOptions()); err != nil {
		return err
	}
	if _, _, err := capabilities(sc); err != nil {
		return err
	}
	for field, paths := range map[string][]string{"masked_paths": sc.GetMaskedPaths(), "readonly_paths": sc.GetReadonlyPaths()} {
		for i, p := range paths {
			if !path.IsAbs(p) {
				return invalid(fmt.Sprintf("%s%s[%d]", in, field, i), "%q is not an absolute path", p)
			}
		}
	}
	if _, err := SeccompProfilePath(sc.GetSeccomp(), sc.GetSeccompProfilePath(), ""); err != nil {
		return err
	}
	_, err := apparmorRequest(sc.GetApparmor(), sc.GetApparmorProfile())
	return err
}

func validateContainerNamespaces(in string, ns *runtimeapi.NamespaceOption) error {
	in += "namespace_options."
	for field, mode := range map[string]runtimeapi.NamespaceMode{"network": ns.GetNetwork(), "ipc": ns.GetIpc()} {
		if mode != runtimeapi.NamespaceMode_POD && !isHost(mode) {
			return invalid(in+field, "mode %s: a container shares its pod's namespace", mode)
		}
	}
	if _, ok := runtimeapi.NamespaceMode_name[int32(ns.GetPid())]; !ok {
		return invalid(in+"pid", "unknown mode %d", ns.GetPid())
	}
	if target := ns.GetPid() == runtimeapi.NamespaceMode_TARGET; target && !isFullID(ns.GetTargetId()) {
		return invalid(in+"target_id", "%q is not a container ID", ns.GetTargetId())
	} else if !target && ns.GetTargetId() != "" {
		return invalid(in+"target_id", "set with pid mode %s", ns.GetPid())
	}
	return validateUserns(strings.TrimSuffix(in, "namespace_options."), ns.GetUsernsOptions())
}

// isFullID reports whether id is a full Docker container ID. Nothing else may reach
// a Docker URL: a name or short prefix could refer to someone else's container.
func isFullID(id string) bool {
	return len(id) == 64 && isHex(id)
}

func isHex(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'f')
	})
}

func unprintable(s string) bool {
	return !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl)
}
