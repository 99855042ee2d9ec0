package seam

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// DefaultDir is cridock's default runtime directory.
const DefaultDir Dir = "/run/cridock"

// Dir is cridock's runtime directory, which holds the records and the mount points
// of cridock-runtime.
type Dir string

const (
	// Records is the directory of the records below a [Dir].
	Records = "oci"
	// suffix ends the name of a record's file.
	suffix = ".json"
)

// Mounts returns the directory in which cridock-runtime mounts what a container
// sees, in a mount namespace of its own.
func (d Dir) Mounts() string { return filepath.Join(string(d), "mnt") }

// RootFS returns where the root file system of containers is mounted in there. The
// directory must exist on the host too: the real runtime changes to it for each
// exec.
func (d Dir) RootFS() string { return filepath.Join(d.Mounts(), "rootfs") }

// RecordPath returns the path of a container's record.
func (d Dir) RecordPath(id string) string { return filepath.Join(string(d), Records, FileName(id)) }

// FileName returns the name of a container's record in [Records].
func FileName(id string) string { return id + suffix }

// Read reads a container's record. It refuses one that another user could have
// written. A missing record is fs.ErrNotExist.
func (d Dir) Read(id string) (*Record, error) {
	if !IsID(id) {
		return nil, fmt.Errorf("record: %q is not a container ID", id)
	}
	path := d.RecordPath(id)
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0) //nolint:gosec // the name is an ID
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 || int(st.Uid) != os.Geteuid() || st.Nlink != 1 {
		return nil, fmt.Errorf("%s: %w: not a private file of this user", path, fs.ErrPermission)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxRecord+1))
	if err != nil {
		return nil, err
	}
	r, err := Decode(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if r.ID != id {
		return nil, fmt.Errorf("%s is the record of container %s", path, r.ID)
	}
	return r, nil
}
