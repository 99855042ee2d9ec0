package state

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/beneath"
	"github.com/cridock/cridock/translate"
)

// The files of an object; see the package comment.
const (
	ResolvConf  = "resolv.conf"
	Resources   = "resources.json"
	LogPosition = "log-position"
	Checkpoint  = "checkpoint" // a directory
	NRI         = "nri.json"   // what plugins wanted of a container, in the end
)

// NRIMounts returns the subdirectory, in the directory of the sandbox, of the container
// with a Docker name.
func NRIMounts(container string) string { return "nri-mounts-" + translate.ShortHash(container) }

const (
	volumesDir = "volumes"
	keptVolume = "kept" // a file with the name of the directory that is in use
)

const (
	sandboxesDir  = "sandboxes"
	containersDir = "containers"
)

// Store is the root directory. Its methods may be called concurrently; callers that
// change the same object need a lock of their own.
type Store struct {
	root   beneath.Root
	opened time.Time
}

// New returns the store in a directory, which is created when it is first needed.
func New(dir string) *Store { return &Store{root: beneath.Root(dir), opened: time.Now()} }

// Sandbox returns the directory of the sandbox with a Docker name, existing or not.
func (s *Store) Sandbox(name string) Dir {
	return Dir{root: s.root, name: filepath.Join(sandboxesDir, translate.ShortHash(name))}
}

// Linked returns where a path leads if it is a link in one of the directories, and the
// path otherwise.
func (s *Store) Linked(path string) string {
	if name, ok := s.root.Rel(path); ok {
		if target, err := s.root.Readlink(name); err == nil {
			return target
		}
	}
	return path
}

// Container returns the directory of the container with an ID, existing or not.
func (s *Store) Container(id string) Dir {
	// Not filepath.Join, which would turn "../x" into a clean name, which is not
	// refused.
	return Dir{root: s.root, name: containersDir + "/" + id}
}

// ContainersWith lists the IDs of the containers that have a file. With an error the
// list is incomplete.
func (s *Store) ContainersWith(file string) ([]string, error) {
	ids, err := s.names(containersDir)
	return slices.DeleteFunc(ids, func(id string) bool {
		_, err := s.root.Lstat(filepath.Join(containersDir, id, file))
		return errors.Is(err, fs.ErrNotExist)
	}), err
}

// Live lists all objects that exist in Docker.
type Live struct {
	Sandboxes  []string // Docker names
	Containers []string // IDs
}

// Sweep removes the directories of all other objects. It spares those last modified
// since New: an object may have its directory before it is visible in Docker.
func (s *Store) Sweep(live Live) error {
	keep := make(map[string]bool, len(live.Sandboxes)+len(live.Containers))
	for _, name := range live.Sandboxes {
		keep[s.Sandbox(name).name] = true
	}
	for _, id := range live.Containers {
		keep[s.Container(id).name] = true
	}
	return errors.Join(s.sweep(sandboxesDir, keep), s.sweep(containersDir, keep))
}

func (s *Store) sweep(parent string, keep map[string]bool) error {
	names, err := s.names(parent)
	for _, base := range names {
		name := filepath.Join(parent, base)
		if info, serr := s.root.Lstat(name); serr == nil && info.ModTime().Before(s.opened) && !keep[name] {
			err = errors.Join(err, Dir{root: s.root, name: name}.RemoveAll())
		}
	}
	return err
}

// names lists a directory; a missing one is empty.
func (s *Store) names(dir string) ([]string, error) {
	names, err := s.root.Names(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return names, err
}

// Dir is the directory of one object. Reading never creates it.
type Dir struct {
	root beneath.Root
	name string // relative to root
}

// Path returns the absolute path of a file, existing or not.
func (d Dir) Path(file string) string { return d.root.Path(d.name + "/" + file) }

// Create creates the directory and reports whether it did not exist before.
func (d Dir) Create() (created bool, err error) {
	if err := d.root.MkdirAll(filepath.Dir(d.name), 0o755); err != nil {
		return false, err
	}
	err = d.root.Mkdir(d.name, 0o755)
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	return err == nil, err
}

// Read returns the content of a file; a missing one is fs.ErrNotExist.
func (d Dir) Read(file string) ([]byte, error) {
	return d.root.ReadFile(d.name + "/" + file)
}

// Write atomically replaces a file. It creates the directory.
func (d Dir) Write(file string, content []byte, perm fs.FileMode) error {
	if _, err := d.Create(); err != nil {
		return err
	}
	return d.root.WriteFile(d.name+"/"+file, content, perm)
}

// Mkdir creates an empty subdirectory for root alone, in place of an existing one.
func (d Dir) Mkdir(file string) error {
	if err := d.Remove(file); err != nil {
		return err
	}
	return d.root.MkdirAll(d.name+"/"+file, 0o700)
}

// Link makes a link to target in a subdirectory for root alone, which it creates, or
// replaces it.
func (d Dir) Link(subdirectory, file, target string) error {
	if err := d.root.MkdirAll(d.name+"/"+subdirectory, 0o700); err != nil {
		return err
	}
	return d.root.Symlink(target, d.name+"/"+subdirectory+"/"+file)
}

// Remove removes a file or subdirectory; a missing one is success.
func (d Dir) Remove(file string) error { return d.root.RemoveAll(d.name + "/" + file) }

// RemoveAll removes the directory; a missing one is success. It is an error if something
// is mounted in a volume.
func (d Dir) RemoveAll() error {
	if _, err := d.root.Lstat(d.name + "/" + volumesDir); err == nil {
		if err := checkUnmounted(d.Path(volumesDir)); err != nil {
			return err
		}
	}
	return d.root.RemoveAll(d.name)
}

// Release removes the directory of an object that is gone, a missing one is success;
// but a checkpoint in progress stays, and the directory with it. Who takes the
// checkpoint removes that, and then calls Release again.
func (d Dir) Release() error {
	names, err := d.root.Names(d.name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, name := range names {
		if name != Checkpoint {
			err = errors.Join(err, d.Remove(name))
		}
	}
	if err != nil || slices.Contains(names, Checkpoint) {
		return err
	}
	err = d.root.Remove(d.name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTEMPTY) {
		return nil // released by another caller, or a checkpoint has just begun
	}
	return err
}
