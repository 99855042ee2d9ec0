package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/idmap"
	"github.com/cridock/cridock/internal/seam"
)

// setDevices changes the device nodes. It is an error if one of them is not in the
// bundle.
func (s spec) setDevices(d *seam.Devices) error {
	linux, err := makeObject(s, "linux")
	if err != nil {
		return err
	}
	list, err := objects(linux, "devices")
	if err != nil {
		return err
	}
	have := map[string]map[string]any{}
	for _, device := range list {
		name, _ := device["path"].(string)
		have[path.Clean(name)] = device
	}
	kept := []any{}
	rules := []any{map[string]any{"allow": false, "access": "rwm"}}
	for _, n := range d.Nodes {
		device := have[n.Path]
		if device == nil {
			return fmt.Errorf("%s: no device %s", specName, n.Path)
		}
		if n.UID != nil {
			device["uid"] = *n.UID
		}
		if n.GID != nil {
			device["gid"] = *n.GID
		}
		kept = append(kept, device)
		rules = append(rules, map[string]any{"allow": true, "type": device["type"], "major": device["major"], "minor": device["minor"], "access": n.Access})
	}
	if !d.Exclusive {
		return nil
	}
	for _, r := range d.Rules {
		rules = append(rules, r)
	}
	resources, err := makeObject(linux, "resources")
	if err != nil {
		return err
	}
	linux["devices"], resources["devices"] = kept, rules
	return nil
}

// moveDevices makes nodes for those devices that the real runtime cannot: in a user
// namespace it mounts instead whatever the host has on a device's path in the container,
// with the host's owner.
func moveDevices(s spec, dir seam.Dir, r *seam.Record) error {
	linux := object(s, "linux")
	list, err := objects(linux, "devices")
	if err != nil {
		return err
	}
	left, nodes := []any{}, filepath.Join(dir.Mounts(), "devices")
	for i, d := range list {
		n, err := readDevice(d)
		if err != nil {
			return err
		}
		if !r.OwnsDevice(n.path) && n.onHost() {
			left = append(left, d)
			continue
		}
		if len(left) == i { // the first one
			if err := idmap.MountDevices(nodes); err != nil {
				return err
			}
		}
		source := filepath.Join(nodes, strconv.Itoa(i))
		if err := n.make(source, r.UserNamespace); err != nil {
			return fmt.Errorf("device %s: %w", n.path, err)
		}
		mounts, _ := s["mounts"].([]any)
		s["mounts"] = append(mounts, map[string]any{"type": "bind", "source": source, "destination": n.path, "options": []any{"bind"}})
	}
	if len(left) < len(list) {
		linux["devices"] = left
	}
	return nil
}

// deviceNode is a device of the bundle.
type deviceNode struct {
	path     string
	mode     uint32
	rdev     uint64
	uid, gid uint32
}

func readDevice(d map[string]any) (deviceNode, error) {
	text, err := json.Marshal(d)
	if err != nil {
		return deviceNode{}, err
	}
	var in struct {
		Type, Path   string
		Major, Minor uint32
		FileMode     *uint32
		UID, GID     uint32
	}
	if err := json.Unmarshal(text, &in); err != nil {
		return deviceNode{}, fmt.Errorf("%s: device: %w", specName, err)
	}
	kind, known := map[string]uint32{"c": unix.S_IFCHR, "u": unix.S_IFCHR, "b": unix.S_IFBLK, "p": unix.S_IFIFO}[in.Type]
	if !known || !path.IsAbs(in.Path) {
		return deviceNode{}, fmt.Errorf("%s: device %q of type %q", specName, in.Path, in.Type)
	}
	n := deviceNode{path: path.Clean(in.Path), mode: kind | 0o666, rdev: unix.Mkdev(in.Major, in.Minor), uid: in.UID, gid: in.GID}
	if in.FileMode != nil {
		n.mode = kind | *in.FileMode&0o777
	}
	return n, nil
}

// onHost reports whether the host has the same device on the same path.
func (n deviceNode) onHost() bool {
	var st unix.Stat_t
	return unix.Lstat(n.path, &st) == nil && st.Mode&unix.S_IFMT == n.mode&unix.S_IFMT && (st.Rdev == n.rdev || n.mode&unix.S_IFMT == unix.S_IFIFO)
}

// make makes the node, with its owner as u maps it, or the container's root.
func (n deviceNode) make(target string, u *seam.UserNamespace) error {
	if err := unix.Mknod(target, n.mode, int(n.rdev)); err != nil { //nolint:gosec // fits
		return &os.PathError{Op: "mknod", Path: target, Err: err}
	}
	if err := os.Lchown(target, hostID(u.UIDs, n.uid), hostID(u.GIDs, n.gid)); err != nil {
		return err
	}
	return os.Chmod(target, os.FileMode(n.mode&0o777)) //nolint:gosec // a path of our own; whatever the umask
}

// hostID returns the host's ID of a container's; that of root for one that has none.
func hostID(mappings []seam.Mapping, id uint32) int {
	for _, m := range mappings {
		if id >= m.ContainerID && id-m.ContainerID < m.Size {
			return int(m.HostID + id - m.ContainerID)
		}
	}
	return int(seam.Root(mappings))
}
