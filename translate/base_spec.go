package translate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/docker/docker/api/types/container"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/internal/seam"
)

// BaseSpec is what the operator adds to containers and sandboxes. Requests precede it,
// and so do images with their environment.
type BaseSpec struct {
	// Env, of the form NAME=value, and Ulimits are for containers only.
	Env     []string
	Ulimits []*container.Ulimit
	// Sysctls are set in each sandbox that has the namespace for them.
	Sysctls map[string]string
	// Hooks are for both; they need cridock-runtime.
	Hooks []seam.Hook
}

// ociSpec has the fields of an OCI specification that [ParseBaseSpec] accepts.
type ociSpec struct {
	OCIVersion string `json:"ociVersion"`
	Process    struct {
		Env     []string `json:"env"`
		Rlimits []struct {
			Type string `json:"type"`
			Hard uint64 `json:"hard"`
			Soft uint64 `json:"soft"`
		} `json:"rlimits"`
	} `json:"process"`
	Linux struct {
		Sysctl map[string]string `json:"sysctl"`
	} `json:"linux"`
	Hooks map[string][]struct {
		Path    string   `json:"path"`
		Args    []string `json:"args"`
		Env     []string `json:"env"`
		Timeout int      `json:"timeout"`
	} `json:"hooks"`
}

// ParseBaseSpec reads an OCI runtime specification with process.env, process.rlimits,
// linux.sysctl and hooks. Any other field is an error.
func ParseBaseSpec(text []byte) (*BaseSpec, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	var in ociSpec
	if err := d.Decode(&in); err != nil {
		return nil, fmt.Errorf("%w; only process.env, process.rlimits, linux.sysctl and hooks can be set", err)
	}
	if !json.Valid(text) {
		return nil, errors.New("something follows the JSON object")
	}
	out := &BaseSpec{Env: in.Process.Env, Sysctls: in.Linux.Sysctl}
	for _, env := range in.Process.Env {
		if name, _, ok := strings.Cut(env, "="); !ok || name == "" || strings.ContainsRune(env, 0) {
			return nil, fmt.Errorf("process.env: %q is not NAME=value", env)
		}
	}
	if err := out.readRlimits(in); err != nil {
		return nil, err
	}
	for _, key := range slices.Sorted(maps.Keys(out.Sysctls)) {
		if err := validateSysctl(key, out.Sysctls[key], nil); err != nil {
			return nil, err
		}
		if namesInterface(key) {
			return nil, fmt.Errorf("linux.sysctl: %s is a network interface's, which pods may not have", key)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(in.Hooks)) {
		for _, h := range in.Hooks[name] {
			out.Hooks = append(out.Hooks, seam.Hook{Name: name, Path: h.Path, Args: h.Args, Env: h.Env, Timeout: h.Timeout})
		}
	}
	return out, seam.ValidateHooks(out.Hooks)
}

// readRlimits converts limits to Docker's form, RLIMIT_NOFILE to nofile.
func (b *BaseSpec) readRlimits(in ociSpec) error {
	for _, l := range in.Process.Rlimits {
		limit := &container.Ulimit{Name: strings.ToLower(strings.TrimPrefix(l.Type, "RLIMIT_")), Soft: int64(l.Soft), Hard: int64(l.Hard)} //nolint:gosec // -1 is unlimited
		switch {
		case !strings.HasPrefix(l.Type, "RLIMIT_"):
			return fmt.Errorf("process.rlimits: %q is not RLIMIT_…", l.Type)
		case l.Soft > l.Hard:
			return fmt.Errorf("process.rlimits: %s: soft limit %d exceeds hard limit %d", l.Type, l.Soft, l.Hard)
		case slices.ContainsFunc(b.Ulimits, func(u *container.Ulimit) bool { return u.Name == limit.Name }):
			return fmt.Errorf("process.rlimits: %s is listed twice", l.Type)
		}
		b.Ulimits = append(b.Ulimits, limit)
	}
	return nil
}

// ulimits returns the limits of the settings: default-ulimits precedes the base.
func (h Host) ulimits() []*container.Ulimit {
	out := slices.Clone(h.Ulimits)
	if h.Base == nil {
		return out
	}
	for _, limit := range h.Base.Ulimits {
		if !slices.ContainsFunc(h.Ulimits, func(u *container.Ulimit) bool { return u.Name == limit.Name }) {
			out = append(out, limit)
		}
	}
	return out
}

// addBaseEnv returns a container's environment with what the base adds to it.
func (h Host) addBaseEnv(env []string, image Image) []string {
	if h.Base == nil {
		return env
	}
	var added []string
	for _, text := range h.Base.Env {
		name, _, _ := strings.Cut(text, "=")
		set := func(other string) bool { return strings.HasPrefix(other, name+"=") }
		if !slices.Contains(image.EnvNames, name) && !slices.ContainsFunc(env, set) && !slices.ContainsFunc(added, set) {
			added = append(added, text)
		}
	}
	return append(added, env...)
}

// SandboxSysctls returns a sandbox's sysctls: those that it requests, and those of the
// base that it has the namespaces for. The caller must not change them.
func (h Host) SandboxSysctls(cfg *runtimeapi.PodSandboxConfig) map[string]string {
	if h.Base == nil {
		return cfg.GetLinux().GetSysctls()
	}
	requested := map[string]bool{}
	for key := range cfg.GetLinux().GetSysctls() {
		requested[dottedSysctl(key)] = true
	}
	out := maps.Clone(cfg.GetLinux().GetSysctls())
	for key, value := range h.Base.Sysctls {
		if requested[dottedSysctl(key)] || validateSysctl(key, value, sandboxNamespaces(cfg)) != nil {
			continue
		}
		if out == nil {
			out = map[string]string{}
		}
		out[key] = value
	}
	return out
}

// addBaseHooks has cridock-runtime add the base's hooks.
func (c *Create) addBaseHooks(handler string, host Host) error {
	if host.Base == nil || len(host.Base.Hooks) == 0 {
		return nil
	}
	if why := host.seamUnmet(handler); why != "" {
		return unmet("runtime_handler", "base-runtime-spec has hooks, which need %s", why)
	}
	r := c.useSeam(handler, host)
	r.Hooks = append(slices.Clone(host.Base.Hooks), r.Hooks...)
	return nil
}
