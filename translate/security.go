package translate

import (
	"encoding/json"
	"path"
	"slices"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// confinement holds what the security contexts of sandboxes and containers have in
// common.
type confinement struct {
	in              string // field path of the security context, with a trailing dot
	privileged      bool
	noNewPrivileges bool
	selinux         *runtimeapi.SELinuxOption
	seccomp         *runtimeapi.SecurityProfile
	seccompPath     string // deprecated form
	seccompProfile  []byte
	apparmor        *runtimeapi.SecurityProfile
	apparmorProfile string // deprecated form
}

// securityOpt builds Docker's SecurityOpt. Every option that Docker has a value for
// is explicit, so that the daemon's defaults do not matter.
func securityOpt(c confinement, host Host) ([]string, error) {
	opts := []string{"no-new-privileges=false"}
	if c.noNewPrivileges {
		opts[0] = "no-new-privileges=true"
	}
	opts = append(opts, selinuxOpts(c.selinux)...)
	seccomp, err := seccompOpt(c, host)
	if err != nil {
		return nil, err
	}
	apparmor, err := apparmorOpt(c, host)
	if err != nil {
		return nil, err
	}
	for _, opt := range []string{seccomp, apparmor} {
		if opt != "" {
			opts = append(opts, opt)
		}
	}
	return opts, nil
}

// selinuxOpts returns the label options of the parts that are set. Without any,
// Docker uses the label of the container whose IPC namespace is joined. An engine
// without SELinux ignores them.
func selinuxOpts(o *runtimeapi.SELinuxOption) []string {
	var opts []string
	for _, part := range []struct{ name, value string }{
		{"user", o.GetUser()}, {"role", o.GetRole()}, {"type", o.GetType()}, {"level", o.GetLevel()},
	} {
		if part.value != "" {
			opts = append(opts, "label="+part.name+":"+part.value)
		}
	}
	return opts
}

func validateSELinux(in string, o *runtimeapi.SELinuxOption) error {
	for name, value := range map[string]string{"user": o.GetUser(), "role": o.GetRole(), "type": o.GetType(), "level": o.GetLevel()} {
		if strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			return invalid(in+"selinux_options."+name, "%q is not part of an SELinux label", value)
		}
	}
	return nil
}

// SeccompProfilePath returns the path on the node of the file whose content a
// request needs as its SeccompProfile; "" if it needs none. profile decides if it
// is set, else deprecated (seccomp_profile_path). standard is the file of
// RuntimeDefault, "" for the engine's profile. A relative path or an unknown form
// is ErrInvalidArgument.
func SeccompProfilePath(profile *runtimeapi.SecurityProfile, deprecated, standard string) (string, error) {
	profile, err := seccompRequest(profile, deprecated)
	if err != nil {
		return "", err
	}
	switch profile.GetProfileType() {
	case runtimeapi.SecurityProfile_RuntimeDefault:
		return standard, nil
	case runtimeapi.SecurityProfile_Unconfined:
		return "", nil
	}
	file := profile.GetLocalhostRef()
	if !path.IsAbs(file) {
		return "", invalid("linux.security_context.seccomp.localhost_ref", "%q is not an absolute path", file)
	}
	return path.Clean(file), nil
}

// seccompRequest merges the two ways to request a profile. Without either the
// container is unconfined, as the CRI specifies.
func seccompRequest(profile *runtimeapi.SecurityProfile, deprecated string) (*runtimeapi.SecurityProfile, error) {
	if profile != nil {
		if err := validateProfile("linux.security_context.seccomp", profile); err != nil {
			return nil, err
		}
		return profile, nil
	}
	switch deprecated {
	case "", "unconfined":
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}, nil
	case "runtime/default", "docker/default":
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}, nil
	}
	file, ok := strings.CutPrefix(deprecated, localhostPrefix)
	if !ok {
		return nil, invalid("linux.security_context.seccomp_profile_path", "unknown profile %q", deprecated)
	}
	return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: file}, nil
}

const localhostPrefix = "localhost/"

func validateProfile(field string, p *runtimeapi.SecurityProfile) error {
	if _, ok := runtimeapi.SecurityProfile_ProfileType_name[int32(p.GetProfileType())]; !ok {
		return invalid(field+".profile_type", "unknown type %d", p.GetProfileType())
	}
	local := p.GetProfileType() == runtimeapi.SecurityProfile_Localhost
	if local && p.GetLocalhostRef() == "" {
		return invalid(field+".localhost_ref", "empty with profile_type Localhost")
	}
	if !local && p.GetLocalhostRef() != "" {
		return invalid(field+".localhost_ref", "%q set with profile_type %s", p.GetLocalhostRef(), p.GetProfileType())
	}
	return nil
}

func seccompOpt(c confinement, host Host) (string, error) {
	profile, err := seccompRequest(c.seccomp, c.seccompPath)
	if err != nil {
		return "", err
	}
	if c.privileged || profile.GetProfileType() == runtimeapi.SecurityProfile_Unconfined {
		return "seccomp=unconfined", nil
	}
	if !host.Seccomp {
		return "", unmet(c.in+"seccomp", "this engine has no seccomp; it supports only Unconfined")
	}
	if profile.GetProfileType() == runtimeapi.SecurityProfile_RuntimeDefault && len(c.seccompProfile) == 0 {
		return defaultSeccompOpt(host), nil
	}
	switch {
	case json.Valid(c.seccompProfile):
		return "seccomp=" + string(c.seccompProfile), nil
	case profile.GetProfileType() == runtimeapi.SecurityProfile_RuntimeDefault:
		return "", unmet(c.in+"seccomp", "the file set with seccomp-default-profile is not JSON")
	}
	return "", invalid(c.in+"seccomp.localhost_ref", "%q is empty or not JSON", profile.GetLocalhostRef())
}

// defaultSeccompOpt selects the profile that the operator set in the engine, else
// Docker's own, even if the engine's default is unconfined.
func defaultSeccompOpt(host Host) string {
	if host.SeccompBuiltin && !host.SeccompCustom {
		return "seccomp=builtin"
	}
	return ""
}

// AppArmorProfile returns the profile that must be loaded on the node for the
// request; "" if none. The arguments are as in [SeccompProfilePath].
func AppArmorProfile(profile *runtimeapi.SecurityProfile, deprecated string) (string, error) {
	profile, err := apparmorRequest(profile, deprecated)
	if err != nil || profile.GetProfileType() != runtimeapi.SecurityProfile_Localhost {
		return "", err
	}
	return strings.TrimPrefix(profile.GetLocalhostRef(), localhostPrefix), nil
}

func apparmorRequest(profile *runtimeapi.SecurityProfile, deprecated string) (*runtimeapi.SecurityProfile, error) {
	if profile != nil {
		if err := validateProfile("linux.security_context.apparmor", profile); err != nil {
			return nil, err
		}
		return profile, nil
	}
	switch deprecated {
	case "", "runtime/default":
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}, nil
	case "unconfined":
		return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}, nil
	}
	name, ok := strings.CutPrefix(deprecated, localhostPrefix)
	if !ok || name == "" {
		return nil, invalid("linux.security_context.apparmor_profile", "unknown profile %q", deprecated)
	}
	return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: name}, nil
}

func apparmorOpt(c confinement, host Host) (string, error) {
	profile, err := apparmorRequest(c.apparmor, c.apparmorProfile)
	if err != nil {
		return "", err
	}
	name := strings.TrimPrefix(profile.GetLocalhostRef(), localhostPrefix)
	switch profile.GetProfileType() {
	case runtimeapi.SecurityProfile_Localhost:
		if !host.AppArmor {
			return "", unmet(c.in+"apparmor", "profile %q can't be applied: AppArmor is off on this node", name)
		}
		return "apparmor=" + name, nil
	case runtimeapi.SecurityProfile_Unconfined:
		if host.AppArmor {
			return "apparmor=unconfined", nil
		}
	}
	// Docker applies docker-default itself, and no profile to privileged containers.
	return "", nil
}

// capabilities returns Docker's lists. Dropping wins over adding, as in other
// runtimes; in Docker adding would win. Privileged containers have all.
func capabilities(sc *runtimeapi.LinuxContainerSecurityContext) (add, drop []string, err error) {
	caps := sc.GetCapabilities()
	if len(caps.GetAddAmbientCapabilities()) > 0 {
		return nil, nil, invalid("linux.security_context.capabilities.add_ambient_capabilities",
			"Docker has no ambient capabilities; use file capabilities in the image instead")
	}
	if sc.GetPrivileged() {
		return nil, nil, nil
	}
	drop = capabilityNames(caps.GetDropCapabilities())
	for _, name := range capabilityNames(caps.GetAddCapabilities()) {
		if !slices.Contains(drop, name) {
			add = append(add, name)
		}
	}
	return add, drop, nil
}

// capabilityNames returns names in Docker's form: CAP_NET_ADMIN, and ALL.
func capabilityNames(names []string) []string {
	var out []string
	for _, name := range names {
		name = strings.ToUpper(name)
		if name != "ALL" && !strings.HasPrefix(name, "CAP_") {
			name = "CAP_" + name
		}
		if !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
}
