// Package userns does cridock's side of what cridock-runtime changes, above all user
// namespaces per pod: it writes the records that cridock-runtime reads, finds out
// whether engine, kernel and file system are up to it, and checks that a started
// container is where it should be. It makes no mounts itself and knows neither
// Docker's API nor the CRI's.
package userns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/beneath"
	"github.com/cridock/cridock/internal/idmap"
	"github.com/cridock/cridock/internal/ocifeatures"
	"github.com/cridock/cridock/internal/seam"
)

// Records are the records of all containers in cridock's runtime directory. Its
// methods are safe for concurrent use on different containers.
type Records struct{ dir beneath.Root }

// New returns the records in a runtime directory. It makes nothing.
func New(runtimeDir string) *Records { return &Records{dir: beneath.Root(runtimeDir)} }

// Write writes a container's record, replacing an earlier one. For a container that
// joins its sandbox's user namespace, sandboxPID is the sandbox's process, else 0; it
// is an error if that process is not in a namespace with the record's mappings. Without
// a user namespace in the record it is not used.
func (r *Records) Write(record seam.Record, sandboxPID int) error {
	if sandboxPID != 0 && record.UserNamespace != nil {
		p, err := idmap.Describe(sandboxPID, "user")
		if err == nil {
			err = record.UserNamespace.CheckProcess(sandboxPID)
		}
		if err != nil {
			return fmt.Errorf("user namespace of the sandbox: %w", err)
		}
		u := *record.UserNamespace
		u.Join = &p
		record.UserNamespace = &u
	}
	text, err := record.Encode()
	if err != nil {
		return err
	}
	if err := r.dir.MkdirAll(seam.Records, 0o711); err != nil {
		return fmt.Errorf("directory of records for cridock-runtime: %w", err)
	}
	if err := r.dir.WriteFile(name(record.ID), text, 0o600); err != nil {
		return fmt.Errorf("record for cridock-runtime: %w", err)
	}
	return nil
}

// UTS describes the UTS namespace of a sandbox's process, for containers to join.
func UTS(sandboxPID int) (*seam.Process, error) {
	p, err := idmap.Describe(sandboxPID, "uts")
	if err != nil {
		return nil, err
	}
	return &p, nil
}

// SetResources replaces the limits in a container's record. A missing record is
// fs.ErrNotExist.
func (r *Records) SetResources(id string, limits *seam.Resources) error {
	record, err := seam.Dir(r.dir).Read(id)
	if err != nil {
		return fmt.Errorf("record for cridock-runtime: %w", err)
	}
	if record.Resources == nil && limits.Memory == nil && len(limits.Unified)+len(limits.Hugepages) == 0 {
		return nil
	}
	record.Resources = limits
	return r.Write(*record, 0)
}

// MoveExecs replaces the CPU of exec sessions in a container's record, if it has one. A
// missing record is success: the container has no exec sessions then.
func (r *Records) MoveExecs(id string, cpu int) error {
	record, err := seam.Dir(r.dir).Read(id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("record for cridock-runtime: %w", err)
	}
	if record.ExecCPU == nil || *record.ExecCPU == cpu {
		return nil
	}
	record.ExecCPU = &cpu
	return r.Write(*record, 0)
}

// Available reports whether there is a directory for records.
func (r *Records) Available() bool { return r.dir != "" }

// Remove removes a container's record. A missing one is success.
func (r *Records) Remove(id string) error {
	if !seam.IsID(id) {
		return nil // no record has such a name
	}
	if err := r.dir.Remove(name(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("record for cridock-runtime: %w", err)
	}
	return nil
}

// Collect removes the records of containers that do not exist, and what interrupted
// writes have left of them. list returns the IDs of all containers; it is called after
// the records are listed, and only if there are any: a container exists before its
// record.
func (r *Records) Collect(list func() (map[string]bool, error)) error {
	names, err := r.dir.Names(seam.Records)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || len(names) == 0 {
		return err
	}
	exists, err := list()
	if err != nil {
		return err
	}
	for _, n := range names {
		id, _, _ := strings.Cut(n, ".") // a draft has a longer name
		if exists[id] {
			continue
		}
		if rerr := r.dir.Remove(filepath.Join(seam.Records, n)); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, fmt.Errorf("record for cridock-runtime: %w", rerr))
		}
	}
	return err
}

func name(id string) string { return filepath.Join(seam.Records, seam.FileName(id)) }

// Check returns an error unless a process is in a user namespace with u's mappings.
// gone reports that the process does not exist.
func Check(u *seam.UserNamespace, pid int) (gone bool, err error) {
	err = u.CheckProcess(pid)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return true, nil
	}
	return false, err
}

// featuresTimeout bounds the wait for what a runtime supports.
const featuresTimeout = 10 * time.Second

// RecursiveReadOnly reports whether a runtime with these features, and the kernel, can
// make a mount and all mounts below it read-only.
func RecursiveReadOnly(f ocifeatures.Features) bool {
	// Only a kernel without the call does not look at the file descriptor.
	if err := unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); errors.Is(err, unix.ENOSYS) {
		return false
	}
	return slices.Contains(f.MountOptions, seam.RecursiveReadOnly)
}

// Features returns what a runtime, named as in Docker's configuration, says of itself;
// nothing if it can't. It starts the runtime.
func Features(ctx context.Context, path string, args []string) ocifeatures.Features {
	path, err := exec.LookPath(path)
	if err != nil {
		return ocifeatures.Features{} // Docker's PATH may have it, but that is not known
	}
	ctx, cancel := context.WithTimeout(ctx, featuresTimeout)
	defer cancel()
	features, err := ocifeatures.Ask(ctx, path, args)
	if err != nil {
		return ocifeatures.Features{}
	}
	return features
}

// Engine is what [Unmet] needs to know of the engine.
type Engine struct {
	// RootDir is its data directory.
	RootDir               string
	UsernsRemap, Rootless bool
}

// Unmet says what the node lacks for containers with user namespaces, besides
// cridock-runtime; "" if nothing. It tries the mounts that they need.
func (r *Records) Unmet(e Engine) string {
	switch {
	case r.dir == "":
		return "cridock has no runtime directory"
	case e.UsernsRemap:
		return "the engine maps all containers into one (userns-remap)"
	case e.Rootless:
		return "the engine is rootless"
	}
	if err := idmap.Probe(e.RootDir); err != nil {
		return fmt.Sprintf("id-mapped mounts of images fail in %s, they need Linux 5.19 and a file system such as ext4, xfs or btrfs: %v", e.RootDir, err)
	}
	return ""
}
