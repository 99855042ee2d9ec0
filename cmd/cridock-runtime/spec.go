package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/cridock/cridock/internal/seam"
)

// spec is an OCI config.json. It is no struct, so that fields which this program
// does not know are kept.
type spec map[string]any

const specName = "config.json"

// readSpec reads a bundle's configuration.
func readSpec(bundle string) (spec, error) {
	b, err := os.ReadFile(filepath.Join(bundle, specName)) //nolint:gosec // containerd names the bundle
	if err != nil {
		return nil, err
	}
	return decodeSpec(b)
}

func decodeSpec(text []byte) (spec, error) {
	s, err := decodeObject(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", specName, err)
	}
	return s, nil
}

func decodeObject(text []byte) (map[string]any, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber() // keeps large numbers as they are
	var o map[string]any
	if err := d.Decode(&o); err != nil {
		return nil, err
	}
	if o == nil {
		return nil, errors.New("no object")
	}
	return o, nil
}

// write replaces a bundle's configuration.
func (s spec) write(bundle string) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(bundle, specName+".*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(bundle, specName)) //nolint:gosec // likewise
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name())) //nolint:gosec // likewise
	}
	return nil
}

// object returns the object with this name in another; nil if there is none.
func object(in map[string]any, name string) map[string]any {
	o, _ := in[name].(map[string]any)
	return o
}

// objects returns the objects of a list.
func objects(in map[string]any, name string) ([]map[string]any, error) {
	list, ok := in[name].([]any)
	if !ok && in[name] != nil {
		return nil, fmt.Errorf("%s: %s is not a list", specName, name)
	}
	out := make([]map[string]any, len(list))
	for i, v := range list {
		if out[i], ok = v.(map[string]any); !ok {
			return nil, fmt.Errorf("%s: %s[%d] is not an object", specName, name, i)
		}
	}
	return out, nil
}

// rootPath returns the path of the root file system.
func (s spec) rootPath(bundle string) (string, error) {
	p, _ := object(s, "root")["path"].(string)
	if p == "" {
		return "", fmt.Errorf("%s: no root.path", specName)
	}
	if !filepath.IsAbs(p) {
		p = filepath.Join(bundle, p)
	}
	return p, nil
}

func (s spec) setRootPath(p string) { object(s, "root")["path"] = p }

// setUserNamespace puts the container into a user namespace: the one at join, or a
// new one if that is "". It refuses a container that shares a namespace with the
// host, whose resources would not belong to the user namespace.
func (s spec) setUserNamespace(u *seam.UserNamespace, join string) error {
	linux := object(s, "linux")
	namespaces, err := objects(linux, "namespaces")
	if err != nil {
		return err
	}
	var have []string
	for _, ns := range namespaces {
		kind, _ := ns["type"].(string)
		have = append(have, kind)
	}
	for _, kind := range []string{"mount", "network", "ipc", "pid"} {
		if !slices.Contains(have, kind) {
			return fmt.Errorf("the container uses the host's %s namespace, which excludes a user namespace", kind)
		}
	}
	if slices.Contains(have, "user") || linux["uidMappings"] != nil || linux["gidMappings"] != nil {
		return errors.New("the engine has put the container into a user namespace already (userns-remap)")
	}
	ns := map[string]any{"type": "user"}
	if join != "" {
		ns["path"] = join
	}
	linux["namespaces"] = append(linux["namespaces"].([]any), ns)
	linux["uidMappings"], linux["gidMappings"] = u.UIDs, u.GIDs
	s.limitPingGroups(u)
	return nil
}

const (
	pingGroups = "net.ipv4.ping_group_range"
	// allGroups is Docker's default value of that sysctl, all groups of the host.
	allGroups = "0 2147483647"
)

// limitPingGroups replaces Docker's default by all groups that the user namespace has
// in one piece: the kernel refuses others.
func (s spec) limitPingGroups(u *seam.UserNamespace) {
	sysctls := object(object(s, "linux"), "sysctl")
	if sysctls[pingGroups] != allGroups {
		return
	}
	for _, m := range u.GIDs {
		if m.ContainerID == 0 {
			sysctls[pingGroups] = "0 " + strconv.FormatUint(uint64(m.Size)-1, 10)
		}
	}
}

// bind is a bind mount of a container.
type bind struct {
	mount       map[string]any
	source      string
	destination string
	recursive   bool
}

// binds returns the bind mounts.
func (s spec) binds(bundle string) ([]bind, error) {
	mounts, err := objects(s, "mounts")
	if err != nil {
		return nil, err
	}
	var out []bind
	for _, m := range mounts {
		kind, _ := m["type"].(string)
		options, _ := m["options"].([]any)
		recursive := slices.Contains(options, any("rbind"))
		if kind != "bind" && !recursive && !slices.Contains(options, any("bind")) {
			continue
		}
		b := bind{mount: m, recursive: recursive}
		b.source, _ = m["source"].(string)
		if b.destination, _ = m["destination"].(string); b.source == "" || b.destination == "" {
			return nil, fmt.Errorf("%s: a bind mount without source or destination", specName)
		}
		b.destination = path.Clean(b.destination)
		if !filepath.IsAbs(b.source) {
			b.source = filepath.Join(bundle, b.source)
		}
		if m["uidMappings"] != nil || m["gidMappings"] != nil {
			return nil, fmt.Errorf("%s: the mount on %s is id-mapped already", specName, b.destination)
		}
		out = append(out, b)
	}
	return out, nil
}

// mapped returns which bind mounts to id-map, by their destinations. It is an error
// if a recorded mount is not there, or more than once.
func mapped(r *seam.Record, binds []bind) (map[string]bool, error) {
	count := map[string]int{}
	for _, b := range binds {
		count[b.destination]++
	}
	out := map[string]bool{}
	for _, d := range r.MappedMounts {
		if count[d] != 1 {
			return nil, fmt.Errorf("%d bind mounts on %s, want one to id-map", count[d], d)
		}
		out[d] = true
	}
	for _, d := range r.MappedFiles {
		if count[d] > 1 {
			return nil, fmt.Errorf("%d bind mounts on %s, want at most one to id-map", count[d], d)
		}
		out[d] = true
	}
	return out, nil
}
