package state

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/cridock/cridock/internal/mountinfo"
)

// Volume is a directory below that of a sandbox that becomes a volume of a container.
type Volume struct {
	// Path is absolute.
	Path string
	// Kept: [Dir.KeepVolume] was called for it. Otherwise it is new and empty.
	Kept bool

	key, name string
}

// Volume returns the volume with a key, a plain name: the kept one, or else a new one. A
// volume of the same key that was not kept may be incomplete, or still be filled for a
// call that was given up; nothing uses it again. owner has the new one.
func (d Dir) Volume(key string, owner Owner) (Volume, error) {
	in := volumesDir + "/" + key
	name, err := d.Read(in + "/" + keptVolume)
	if err == nil {
		_, err = d.root.Lstat(d.name + "/" + in + "/" + string(name))
	}
	if err == nil {
		return Volume{Path: d.Path(in + "/" + string(name)), Kept: true, key: key, name: string(name)}, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return Volume{}, err
	}
	if _, err := d.Create(); err != nil {
		return Volume{}, err
	}
	// Other users of the host don't get in.
	if err := d.root.MkdirAll(d.name+"/"+in, 0o700); err != nil {
		return Volume{}, err
	}
	v := Volume{key: key, name: rand.Text()}
	v.Path = d.Path(in + "/" + v.name)
	if err := d.root.Mkdir(d.name+"/"+in+"/"+v.name, 0o755); err != nil {
		return Volume{}, err
	}
	return v, os.Lchown(v.Path, owner.UID, owner.GID)
}

// Owner is a user and group of the host.
type Owner struct{ UID, GID int }

// KeepVolume has later calls of Volume return a volume, and removes what other calls with
// its key have left.
func (d Dir) KeepVolume(v Volume) error {
	in := volumesDir + "/" + v.key
	if err := d.Write(in+"/"+keptVolume, []byte(v.name), 0o600); err != nil {
		return err
	}
	names, err := d.root.Names(d.name + "/" + in)
	for _, name := range names {
		if name != v.name && name != keptVolume {
			err = errors.Join(err, d.Remove(in+"/"+name))
		}
	}
	return err
}

// RemoveVolume removes a volume that no container has.
func (d Dir) RemoveVolume(v Volume) error {
	if err := checkUnmounted(v.Path); err != nil {
		return err
	}
	return d.Remove(volumesDir + "/" + v.key + "/" + v.name)
}

// checkUnmounted returns an error if something is mounted below a directory, which
// removing that would empty.
func checkUnmounted(path string) error {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		if m, ok := mountinfo.Parse(line); ok && (m.Point == path || strings.HasPrefix(m.Point, path+"/")) {
			return fmt.Errorf("%s: not removed while something is mounted on %s", path, m.Point)
		}
	}
	return nil
}
