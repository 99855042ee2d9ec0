package engine

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/registry"
	"github.com/docker/docker/api/types/system"
	"github.com/docker/docker/api/types/versions"
)

// minAPIVersion is Docker 20.10's.
const minAPIVersion = "1.41"

// Capabilities describe what the running daemon can do, as read by
// [Client.Refresh]. They are immutable.
type Capabilities struct {
	// APIVersion is the negotiated version: the lower of the daemon's and the
	// client's.
	APIVersion string
	// EngineVersion is the daemon's version, such as 26.1.5+dfsg1.
	EngineVersion string
	// DaemonID identifies the daemon; a different ID means a different engine.
	DaemonID string

	CgroupDriver string // systemd, cgroupfs or none
	CgroupV2     bool

	Seccomp, AppArmor, SELinux bool
	// SeccompCustom: the daemon's default profile is a file set by its operator.
	SeccompCustom         bool
	UsernsRemap, Rootless bool
	// NoNewPrivileges: the daemon sets no_new_privs in all containers. Reported since
	// Docker 23.
	NoNewPrivileges           bool
	Experimental, LiveRestore bool

	// DefaultRuntime is the name that an empty runtime stands for.
	DefaultRuntime string
	Runtimes       map[string]Runtime

	// StorageDriver is overlay2, or the snapshotter's name with ContainerdStore.
	StorageDriver   string
	ContainerdStore bool
	RootDir         string
	LoggingDriver   string
	KernelVersion   string
	Architecture    string // Go's names: amd64, arm64
	// CDISpecDirs is empty if the daemon does not inject CDI devices.
	CDISpecDirs []string
	// ContainerdAddress is the socket of the daemon's containerd, since API 1.46.
	ContainerdAddress string
	// InsecureRegistries are hosts and networks to which the daemon connects without
	// verified TLS; Docker's default is loopback alone.
	InsecureRegistries []string
	Warnings           []string
}

// Runtime is one OCI runtime in the daemon's configuration.
type Runtime struct {
	// Path is a binary such as runc, Type a shim such as io.containerd.runc.v2.
	Path, Type string
	// Args precede the arguments of each call of the binary.
	Args []string
	// MountOptions are those the runtime supports, from its OCI features; since API
	// 1.44.
	MountOptions []string
}

// AtLeast reports whether the negotiated API version is v or later; false before
// the first Refresh.
func (c *Capabilities) AtLeast(v string) bool {
	return c != nil && versions.GreaterThanOrEqualTo(c.APIVersion, v)
}

// EngineAtLeast reports whether the daemon's version is v or later; false before the
// first Refresh, and if its major version is not a number. Use it only for what the API
// version does not tell.
func (c *Capabilities) EngineAtLeast(v string) bool {
	return c != nil && versions.GreaterThanOrEqualTo(c.EngineVersion, v)
}

// RecursiveReadOnly reports whether the runtime can make mounts and all their
// submounts read-only.
func (r Runtime) RecursiveReadOnly() bool { return slices.Contains(r.MountOptions, "rro") }

// runcShim is runc's own shim; Docker also uses it for runtimes given as a binary.
const runcShim = "io.containerd.runc.v2"

// RuncShim reports whether containerd runs this runtime with version 2 of runc's
// shim, as it does for all runtimes configured as a binary.
func (r Runtime) RuncShim() bool { return r.Type == runcShim || r.Type == "" && r.Path != "" }

func capabilities(api string, v types.Version, info system.Info) *Capabilities {
	c := &Capabilities{
		APIVersion: api, EngineVersion: v.Version, DaemonID: info.ID,
		CgroupDriver: info.CgroupDriver, CgroupV2: info.CgroupVersion == "2",
		Experimental: info.ExperimentalBuild, LiveRestore: info.LiveRestoreEnabled,
		DefaultRuntime: info.DefaultRuntime, Runtimes: map[string]Runtime{},
		StorageDriver: info.Driver, RootDir: info.DockerRootDir, LoggingDriver: info.LoggingDriver,
		KernelVersion: info.KernelVersion, Architecture: v.Arch,
		CDISpecDirs: info.CDISpecDirs, Warnings: info.Warnings,
	}
	for _, o := range info.SecurityOptions {
		// Each is name=seccomp,profile=builtin or the like.
		name, rest, _ := strings.Cut(strings.TrimPrefix(o, "name="), ",")
		switch name {
		case "seccomp":
			// Docker 20.10 calls its own profile default, later releases builtin.
			c.Seccomp = true
			c.SeccompCustom = !slices.Contains([]string{"", "default", "builtin", "unconfined"}, strings.TrimPrefix(rest, "profile="))
		case "apparmor":
			c.AppArmor = true
		case "selinux":
			c.SELinux = true
		case "userns":
			c.UsernsRemap = true
		case "rootless":
			c.Rootless = true
		case "no-new-privileges":
			c.NoNewPrivileges = true
		}
	}
	for _, kv := range info.DriverStatus {
		if kv[0] == "driver-type" && kv[1] == "io.containerd.snapshotter.v1" {
			c.ContainerdStore = true
		}
	}
	c.InsecureRegistries = insecureRegistries(info.RegistryConfig)
	for name, r := range info.Runtimes {
		c.Runtimes[name] = Runtime{Path: r.Path, Type: r.Type, Args: r.Args, MountOptions: mountOptions(r.Status)}
	}
	if info.Containerd != nil {
		c.ContainerdAddress = info.Containerd.Address
	}
	return c
}

// insecureRegistries returns the hosts and networks without TLS, sorted.
func insecureRegistries(c *registry.ServiceConfig) []string {
	if c == nil {
		return nil
	}
	var found []string
	for _, cidr := range c.InsecureRegistryCIDRs {
		found = append(found, cidr.String())
	}
	for host, index := range c.IndexConfigs {
		if index != nil && !index.Secure {
			found = append(found, host)
		}
	}
	slices.Sort(found)
	return found
}

// mountOptions reads the OCI features document that a runtime printed; nil if it
// printed none or something else.
func mountOptions(status map[string]string) []string {
	var features struct {
		MountOptions []string `json:"mountOptions"`
	}
	if err := json.Unmarshal([]byte(status["org.opencontainers.runtime-spec.features"]), &features); err != nil {
		return nil
	}
	return features.MountOptions
}
