package engine

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/system"
	"github.com/docker/docker/api/types/versions"
)

// minAPIVersion is Docker 20.10's.
const minAPIVersion = "1.41"

// Capabilities are what one incarnation of the daemon can do, read by
// [Client.Refresh]. They are immutable.
type Capabilities struct {
	// APIVersion is the negotiated one: the lower of the daemon's and the client's.
	APIVersion string
	// EngineVersion is the daemon's own, such as 26.1.5+dfsg1.
	EngineVersion string
	// DaemonID is the daemon's identity; another one means another engine.
	DaemonID string

	CgroupDriver string // systemd, cgroupfs or none
	CgroupV2     bool

	Seccomp, AppArmor, SELinux bool
	// SeccompCustom: the daemon's default profile is a file of its operator's.
	SeccompCustom             bool
	UsernsRemap, Rootless     bool
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
	// CDISpecDirs are empty where the daemon does not inject CDI devices.
	CDISpecDirs []string
	// ContainerdAddress is the socket of the daemon's containerd, from API 1.46.
	ContainerdAddress string
	Warnings          []string
}

// Runtime is one OCI runtime that the daemon is configured with.
type Runtime struct {
	// Path or Type of the runtime: a binary such as runc, or a shim such as
	// io.containerd.runc.v2.
	Path, Type string
	// MountOptions that the runtime knows, from its OCI features; from API 1.44.
	MountOptions []string
}

// AtLeast tells whether the negotiated API version is v or later. It is false
// before the daemon is known.
func (c *Capabilities) AtLeast(v string) bool {
	return c != nil && versions.GreaterThanOrEqualTo(c.APIVersion, v)
}

// RecursiveReadOnly tells whether the runtime can make mounts read-only with
// everything below them.
func (r Runtime) RecursiveReadOnly() bool { return slices.Contains(r.MountOptions, "rro") }

// runcShim is the shim that Docker runs a binary with, and runc's own.
const runcShim = "io.containerd.runc.v2"

// RuncShim tells whether containerd runs this runtime with runc's shim, version
// 2, as it does all that are configured as a binary.
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
			// Docker 20.10 calls its own profile default, later ones builtin.
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
		}
	}
	for _, kv := range info.DriverStatus {
		if kv[0] == "driver-type" && kv[1] == "io.containerd.snapshotter.v1" {
			c.ContainerdStore = true
		}
	}
	for name, r := range info.Runtimes {
		c.Runtimes[name] = Runtime{Path: r.Path, Type: r.Type, MountOptions: mountOptions(r.Status)}
	}
	if info.Containerd != nil {
		c.ContainerdAddress = info.Containerd.Address
	}
	return c
}

// mountOptions reads the OCI features document that a runtime printed. A
// runtime that printed none, or something else, is known to have no options.
func mountOptions(status map[string]string) []string {
	var features struct {
		MountOptions []string `json:"mountOptions"`
	}
	if err := json.Unmarshal([]byte(status["org.opencontainers.runtime-spec.features"]), &features); err != nil {
		return nil
	}
	return features.MountOptions
}
