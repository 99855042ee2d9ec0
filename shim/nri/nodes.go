package nri

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/nri/pkg/api"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/go-units"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"tags.cncf.io/container-device-interface/pkg/cdi"
)

// inContainer returns a clean path in the container.
func inContainer(field api.Field, p string) (string, error) {
	if !path.IsAbs(p) || path.Clean(p) == "/" || strings.ContainsRune(p, 0) {
		return "", refuse(field, p, "%q is not an absolute path in the container", p)
	}
	return path.Clean(p), nil
}

// own are mounts that every container has; Docker makes them.
var own = []string{"/dev", "/dev/mqueue", "/dev/pts", "/dev/shm", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/proc", "/sys", "/sys/fs/cgroup"}

func (x *adjuster) mounts() error {
	for _, m := range x.in.GetMounts() {
		target, removed := m.IsMarkedForRemoval()
		target, err := inContainer(api.Field_Mounts, target)
		if err != nil {
			return err
		}
		if removed {
			if slices.Contains(own, target) {
				return refuse(api.Field_Mounts, target, "Docker makes this mount in every container")
			}
			x.out.Unmount = append(x.out.Unmount, target)
			continue
		}
		out, err := dockerMount(m, target)
		if err != nil {
			return refuse(api.Field_Mounts, m.GetDestination(), "%v", err)
		}
		x.out.Mounts = append(x.out.Mounts, out)
	}
	return nil
}

// dockerMount returns a bind mount or a tmpfs.
func dockerMount(m *api.Mount, target string) (mount.Mount, error) {
	if strings.ContainsRune(m.GetSource(), 0) {
		return mount.Mount{}, fmt.Errorf("source %q contains a NUL", m.GetSource())
	}
	bind := m.GetType() == "bind" || slices.Contains(m.GetOptions(), "bind") || slices.Contains(m.GetOptions(), "rbind")
	switch {
	case bind && !path.IsAbs(m.GetSource()):
		return mount.Mount{}, fmt.Errorf("source %q is not an absolute path", m.GetSource())
	case bind:
		out := mount.Mount{Type: mount.TypeBind, Source: path.Clean(m.GetSource()), Target: target, BindOptions: &mount.BindOptions{NonRecursive: true}}
		return out, bindOptions(&out, m.GetOptions())
	case m.GetType() == "tmpfs":
		out := mount.Mount{Type: mount.TypeTmpfs, Target: target, TmpfsOptions: &mount.TmpfsOptions{}}
		return out, tmpfsOptions(&out, m.GetOptions())
	}
	return mount.Mount{}, fmt.Errorf("mounts of type %q do not exist in Docker; want bind or tmpfs", m.GetType())
}

// bindOptions sets the options that Docker has for a bind mount.
func bindOptions(out *mount.Mount, options []string) error {
	for _, option := range options {
		switch option {
		case "bind", "rw":
		case "rbind":
			out.BindOptions.NonRecursive = false
		case "ro":
			out.ReadOnly = true
		case "private", "rprivate", "shared", "rshared", "slave", "rslave":
			out.BindOptions.Propagation = mount.Propagation(option)
		default:
			return fmt.Errorf("option %q of a bind mount does not exist in Docker", option)
		}
	}
	return nil
}

// tmpfsOptions sets the options that Docker has for a tmpfs. It sets nosuid, nodev and
// noexec itself.
func tmpfsOptions(out *mount.Mount, options []string) error {
	for _, option := range options {
		name, value, _ := strings.Cut(option, "=")
		switch name {
		case "rw", "nosuid", "nodev", "noexec":
		case "ro":
			out.ReadOnly = true
		case "size":
			size, err := units.RAMInBytes(value)
			if err != nil || size <= 0 {
				return fmt.Errorf("%q is not a size", value)
			}
			out.TmpfsOptions.SizeBytes = size
		case "mode":
			mode, err := strconv.ParseUint(value, 8, 32)
			if err != nil || mode > 0o1777 {
				return fmt.Errorf("%q is not a mode", value)
			}
			out.TmpfsOptions.Mode = os.FileMode(mode)
		default:
			return fmt.Errorf("option %q of a tmpfs does not exist in Docker", option)
		}
	}
	return nil
}

func (x *adjuster) devices() error {
	for _, d := range x.linux().GetDevices() {
		target, removed := d.IsMarkedForRemoval()
		target, err := inContainer(api.Field_Devices, target)
		if err != nil {
			return err
		}
		if removed {
			x.out.RemoveDevices = append(x.out.RemoveDevices, target)
			continue
		}
		if !slices.Contains([]string{"b", "c", "u", "p"}, d.GetType()) {
			return refuse(api.Field_Devices, target, "%q is not the type of a device", d.GetType())
		}
		if host, err := x.node.Device(target); err == nil && host.is(d) {
			x.out.Devices = append(x.out.Devices, container.DeviceMapping{PathOnHost: target, PathInContainer: target, CgroupPermissions: "rwm"})
			continue
		}
		spec, err := x.inSpec(api.Field_Devices, target, "")
		if err != nil {
			return refuse(api.Field_Devices, target, "the host has no such device at the same path, and anything else needs %s", x.node.SeamUnmet)
		}
		device := d.ToOCI()
		device.Path = target
		spec.Devices = append(spec.Devices, device)
	}
	return nil
}

// is reports whether a device node of the host is what a plugin wants.
func (n DeviceNode) is(d *api.LinuxDevice) bool {
	kind := d.GetType()
	if kind == "u" {
		kind = "c"
	}
	return n.Type == kind && n.Major == d.GetMajor() && n.Minor == d.GetMinor() &&
		(d.FileMode == nil || d.FileMode.GetValue()&0o777 == n.Mode) &&
		(d.Uid == nil || d.Uid.GetValue() == n.UID) && (d.Gid == nil || d.Gid.GetValue() == n.GID)
}

// HostDevice returns the device node at a path of the host.
func HostDevice(path string) (DeviceNode, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return DeviceNode{}, err
	}
	kinds := map[uint32]string{unix.S_IFBLK: "b", unix.S_IFCHR: "c", unix.S_IFIFO: "p"}
	return DeviceNode{
		Type: kinds[st.Mode&unix.S_IFMT], Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev)),
		Mode: st.Mode & 0o777, UID: st.Uid, GID: st.Gid,
	}, nil
}

// at describes a node that a container has at a path.
func (n DeviceNode) at(path string) *api.LinuxDevice {
	return &api.LinuxDevice{
		Path: path, Type: n.Type, Major: n.Major, Minor: n.Minor,
		FileMode: api.FileMode(n.Mode), Uid: api.UInt32(n.UID), Gid: api.UInt32(n.GID),
	}
}

// addHostDevices adds the devices that a privileged container has: those of the host, but
// for the ones in directories that every container has for itself, and the console.
func addHostDevices(to *api.LinuxContainer) {
	has := map[string]bool{}
	for _, d := range to.Devices {
		has[d.GetPath()] = true
	}
	_ = filepath.WalkDir("/dev", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return nil //nolint:nilerr // it has just gone
		case entry.IsDir() && slices.Contains([]string{"pts", "shm", "fd", "mqueue"}, entry.Name()):
			return fs.SkipDir
		case entry.Type()&fs.ModeDevice == 0 || entry.Name() == "console" || has[path]:
			return nil
		}
		if node, err := HostDevice(path); err == nil {
			to.Devices = append(to.Devices, node.at(path))
		}
		return nil
	})
}

// injectCDI adds what CDI devices add to a container when an engine with CDI starts it, but
// for variables, which the container has been created with.
func injectCDI(out *api.Container, hc *container.HostConfig, specDirs []string) error {
	var names []string
	for _, r := range hc.DeviceRequests {
		if r.Driver == "cdi" {
			names = append(names, r.DeviceIDs...)
		}
	}
	if len(names) == 0 {
		return nil
	}
	cache, err := cdi.NewCache(cdi.WithSpecDirs(specDirs...), cdi.WithAutoRefresh(false))
	if err != nil {
		return err
	}
	spec := &specs.Spec{Process: &specs.Process{User: specs.User{UID: out.GetUser().GetUid(), GID: out.GetUser().GetGid()}}}
	if _, err := cache.InjectDevices(spec, names...); err != nil {
		return err
	}
	out.Mounts = append(out.Mounts, api.FromOCIMounts(spec.Mounts)...)
	out.Hooks = api.FromOCIHooks(spec.Hooks)
	if spec.Linux != nil {
		out.Linux.Devices = append(out.Linux.Devices, api.FromOCILinuxDevices(spec.Linux.Devices)...)
	}
	return nil
}

// deviceRules adds access to devices, in Docker's form.
func (x *adjuster) deviceRules(rules []*api.LinuxDeviceCgroup) error {
	for _, r := range rules {
		if err := x.onlyAtCreation(api.Field_Devices); err != nil {
			return err
		}
		kind := r.GetType()
		if kind == "" {
			kind = "a"
		}
		if !r.GetAllow() || !slices.Contains([]string{"a", "b", "c"}, kind) || r.GetAccess() == "" || strings.Trim(r.GetAccess(), "rwm") != "" {
			return refuse(api.Field_Devices, "", "Docker can only allow access to devices (r, w, m)")
		}
		x.out.DeviceRules = append(x.out.DeviceRules, fmt.Sprintf("%s %s:%s %s", kind, deviceNumber(r.GetMajor()), deviceNumber(r.GetMinor()), r.GetAccess()))
	}
	return nil
}

// deviceNumber returns a number, or * for all.
func deviceNumber(n *api.OptionalInt64) string {
	if n == nil || n.GetValue() < 0 {
		return "*"
	}
	return strconv.FormatInt(n.GetValue(), 10)
}

// namespaces has cridock-runtime replace, add and remove namespaces.
func (x *adjuster) namespaces() error {
	for _, ns := range x.linux().GetNamespaces() {
		kind, removed := ns.IsMarkedForRemoval()
		spec, err := x.inSpec(api.Field_Namespace, kind, "")
		if err != nil {
			return err
		}
		if removed {
			spec.RemoveNamespaces = append(spec.RemoveNamespaces, specs.LinuxNamespaceType(kind))
		} else {
			spec.Namespaces = append(spec.Namespaces, specs.LinuxNamespace{Type: specs.LinuxNamespaceType(kind), Path: ns.GetPath()})
		}
		if err := spec.Validate(); err != nil {
			return refuse(api.Field_Namespace, kind, "%v", err)
		}
	}
	return nil
}

// Versions of the OCI specification as of which runtimes apply a field.
const (
	specScheduling = "1.2.0" // runc 1.2
	specNetDevices = "1.3.0" // runc 1.4
)

func (x *adjuster) scheduling() error {
	l := x.linux()
	if p := l.GetIoPriority(); p != nil {
		spec, err := x.inSpec(api.Field_IoPriority, "", specScheduling)
		if err != nil {
			return err
		}
		spec.IOPriority = p.ToOCI()
	}
	if s := l.GetScheduler(); s != nil {
		spec, err := x.inSpec(api.Field_LinuxSched, "", specScheduling)
		if err != nil {
			return err
		}
		spec.Scheduler = s.ToOCI()
	}
	if m := l.GetMemoryPolicy(); m != nil {
		spec, err := x.inSpec(api.Field_MemoryPolicy, "", specNetDevices)
		if err != nil {
			return err
		}
		spec.MemoryPolicy = m.ToOCI()
	}
	return nil
}

func (x *adjuster) seccomp() error {
	p := x.linux().GetSeccompPolicy()
	if p == nil {
		return nil
	}
	spec, err := x.inSpec(api.Field_SeccompPolicy, "", "")
	if err != nil {
		return err
	}
	out := &specs.LinuxSeccomp{
		DefaultAction: specs.LinuxSeccompAction(p.GetDefaultAction()),
		ListenerPath:  p.GetListenerPath(), ListenerMetadata: p.GetListenerMetadata(),
		Syscalls: api.ToOCILinuxSyscalls(p.GetSyscalls()),
	}
	if e := p.GetDefaultErrno(); e != nil {
		code := uint(e.GetValue())
		out.DefaultErrnoRet = &code
	}
	for _, a := range p.GetArchitectures() {
		out.Architectures = append(out.Architectures, specs.Arch(a))
	}
	for _, f := range p.GetFlags() {
		out.Flags = append(out.Flags, specs.LinuxSeccompFlag(f))
	}
	spec.Seccomp = out
	if err := spec.Validate(); err != nil {
		return refuse(api.Field_SeccompPolicy, "", "%v", err)
	}
	return nil
}

func (x *adjuster) netDevices() error {
	for name, d := range x.linux().GetNetDevices() {
		if removed, ok := api.IsMarkedForRemoval(name); ok {
			_ = removed // no container of Docker's has any
			continue
		}
		spec, err := x.inSpec(api.Field_LinuxNetDevices, name, specNetDevices)
		if err != nil {
			return err
		}
		if spec.NetDevices == nil {
			spec.NetDevices = map[string]specs.LinuxNetDevice{}
		}
		spec.NetDevices[name] = d.ToOCI()
	}
	return nil
}

func (x *adjuster) rdt() error {
	class, r := x.linux().GetResources().GetRdtClass(), x.linux().GetRdt()
	// Without a class of the plugins' own, these remove the one that annotations name.
	x.out.NoRDTClass = class != nil || r.GetRemove() || r.GetClosId() != nil
	if class.GetValue() == "" && (r == nil || r.ClosId == nil && r.Schemata == nil && r.EnableMonitoring == nil) {
		return nil
	}
	field := api.Field_RdtClosID
	if r == nil {
		field = api.Field_RdtClass
	}
	spec, err := x.inSpec(field, "", "")
	if err != nil {
		return err
	}
	out := &specs.LinuxIntelRdt{ClosID: class.GetValue()}
	if r.GetClosId() != nil {
		out.ClosID = r.GetClosId().GetValue()
	}
	if s := r.GetSchemata().GetValue(); len(s) > 0 {
		if _, err := x.inSpec(api.Field_RdtSchemata, "", specNetDevices); err != nil {
			return err
		}
		out.Schemata = s
	}
	if m := r.GetEnableMonitoring().GetValue(); m {
		if _, err := x.inSpec(api.Field_RdtEnableMonitoring, "", specNetDevices); err != nil {
			return err
		}
		out.EnableMonitoring = true
	}
	spec.IntelRdt = out
	return nil
}
