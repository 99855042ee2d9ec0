package imagevolume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	securejoin "github.com/cyphar/filepath-securejoin"
	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/beneath"
)

// noLayer is the empty directory placed below an image's layers: the kernel needs
// at least two lower directories. Keys do not begin with a dot.
const noLayer = ".empty"

// maxOptions is the limit of mount(2) for options: a page less the final zero.
const maxOptions = 4095

// key is the format of an owner and a name: the beginning of a hash. Nothing else
// becomes a path.
var key = regexp.MustCompile("^[0-9a-f]{20}$")

// Store keeps mounts below one directory. A mount has an owner and a name, 20
// hexadecimal digits each; others are errdefs.ErrInvalidArgument. Calls for
// different owners may run in parallel, those for one owner must not.
type Store struct {
	dir beneath.Root

	mu  sync.Mutex
	own map[string]bool // owners that this process has mounted for
}

// New returns a store below an absolute directory. It does not touch the disk.
func New(dir string) *Store { return &Store{dir: beneath.Root(dir), own: map[string]bool{}} }

// Mount mounts layers, uppermost first, and returns the path. made is false if the
// mount already existed. A missing layer is errdefs.ErrNotFound. Only root can
// reach the mount by its path, and set-user-ID bits in it have no effect.
func (s *Store) Mount(owner, name string, layers []string) (path string, made bool, err error) {
	if !key.MatchString(owner) || !key.MatchString(name) {
		return "", false, fmt.Errorf("image volume %q of %q: %w: not a hash", name, owner, errdefs.ErrInvalidArgument)
	}
	s.mu.Lock()
	s.own[owner] = true
	s.mu.Unlock()
	if err := s.Add(owner); err != nil {
		return "", false, err
	}
	name = filepath.Join(owner, name)
	path = s.dir.Path(name)
	if err := s.dir.MkdirAll(name, 0o700); err != nil {
		return "", false, err
	}
	if mounted, err := isMount(s.dir, name); err != nil || mounted {
		return path, false, err
	}
	target, err := s.dir.OpenDir(name)
	if err != nil {
		return "", false, err
	}
	defer func() { _ = target.Close() }()
	if err := overlay(target, append(slices.Clone(layers), s.dir.Path(noLayer))); err != nil {
		return "", false, fmt.Errorf("mount %d image layers on %s: %w", len(layers), path, err)
	}
	return path, true, nil
}

// Add adds an owner without mounts: Has is true for it until Unmount.
func (s *Store) Add(owner string) error {
	if !key.MatchString(owner) {
		return fmt.Errorf("image volumes of %q: %w: not a hash", owner, errdefs.ErrInvalidArgument)
	}
	s.mu.Lock()
	err := s.prepareLocked()
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("image volume directory %s: %w", s.dir, err)
	}
	return s.dir.MkdirAll(owner, 0o700)
}

// prepareLocked mounts the store's own file system. An engine with user namespaces needs
// no access to it from there: its runtime (runc 1.1) opens what it mounts before
// it enters them.
func (s *Store) prepareLocked() error {
	if !filepath.IsAbs(string(s.dir)) {
		return fmt.Errorf("%w: not absolute", errdefs.ErrInvalidArgument)
	}
	above, base := beneath.Root(filepath.Dir(string(s.dir))), filepath.Base(string(s.dir))
	if err := above.MkdirAll(base, 0o700); err != nil {
		return err
	}
	mounted, err := isMount(above, base)
	if err != nil {
		return err
	}
	if !mounted {
		dir, err := above.OpenDir(base)
		if err != nil {
			return err
		}
		defer func() { _ = dir.Close() }()
		if err := unix.Mount("tmpfs", procPath(dir), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=700,size=4m"); err != nil {
			return err
		}
	}
	// A tmpfs mounted by an earlier cridock was accessible to all users.
	if err := os.Chmod(string(s.dir), 0o700); err != nil { //nolint:gosec // a directory, to be entered by root
		return err
	}
	return s.dir.MkdirAll(noLayer, 0o755)
}

// overlay mounts directories, uppermost first, as one read-only directory.
func overlay(target *os.File, layers []string) error {
	// By descriptor: the paths of many layers do not fit into one page, and may
	// contain colons, which separate them.
	lower := make([]string, len(layers))
	for i, layer := range layers {
		fd, err := unix.Open(layer, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("layer %s: %w", layer, errdefs.ErrNotFound)
		}
		if err != nil {
			return fmt.Errorf("layer %s: %w", layer, err)
		}
		defer func() { _ = unix.Close(fd) }()
		lower[i] = "/proc/self/fd/" + strconv.Itoa(fd)
	}
	options := "lowerdir=" + strings.Join(lower, ":")
	if len(options) > maxOptions {
		return fmt.Errorf("%w: more layers than the kernel accepts", errdefs.ErrOutOfRange)
	}
	return unix.Mount("overlay", procPath(target), "overlay", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV, options)
}

// Has reports whether there is anything to unmount for an owner.
func (s *Store) Has(owner string) bool {
	if !key.MatchString(owner) {
		return false
	}
	_, err := s.dir.Lstat(owner)
	return err == nil
}

// Unmount removes all mounts of an owner; an owner without mounts is success.
// Containers that use the mounts keep them.
func (s *Store) Unmount(owner string) error {
	if !key.MatchString(owner) {
		return fmt.Errorf("image volumes of %q: %w: not a hash", owner, errdefs.ErrInvalidArgument)
	}
	names, err := s.dir.Names(owner)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, name := range names {
		err = errors.Join(err, s.unmount(filepath.Join(owner, name)))
	}
	if err == nil {
		err = s.dir.Remove(owner)
	}
	if err != nil {
		return fmt.Errorf("image volumes of %s: %w", owner, err)
	}
	return nil
}

func (s *Store) unmount(name string) error {
	for {
		mounted, err := isMount(s.dir, name)
		if err != nil {
			return err
		}
		if !mounted {
			return s.dir.Remove(name) // fails if it is not empty
		}
		dir, err := s.dir.OpenDir(name)
		if err != nil {
			return err
		}
		// Detached, as others may use it; this process has it open itself.
		err = errors.Join(unix.Unmount(procPath(dir), unix.MNT_DETACH), dir.Close())
		if err != nil {
			return err
		}
	}
}

// Foreign lists the owners for which this process has not called Mount.
func (s *Store) Foreign() ([]string, error) {
	names, err := s.dir.Names(".")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var owners []string
	for _, name := range names {
		if key.MatchString(name) && !s.own[name] {
			owners = append(owners, name)
		}
	}
	return owners, err
}

// Resolve returns the path of subPath inside a mounted image. Symbolic links
// resolve as if the image were the root. The path contains no links and stays
// valid, as an image never changes. A missing file is errdefs.ErrNotFound.
func Resolve(root, subPath string) (string, error) {
	path, err := securejoin.SecureJoin(root, subPath)
	if err != nil {
		return "", err
	}
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return "", errdefs.ErrNotFound
	} else if err != nil {
		return "", err
	}
	return path, nil
}

// isMount reports whether a separate file system is mounted on a directory.
func isMount(root beneath.Root, name string) (bool, error) {
	here, err := device(root, name)
	if err != nil {
		return false, err
	}
	above, err := device(root, filepath.Dir(name))
	return here != above, err
}

func device(root beneath.Root, name string) (uint64, error) {
	dir, err := root.OpenDir(name)
	if err != nil {
		return 0, err
	}
	defer func() { _ = dir.Close() }()
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return 0, &fs.PathError{Op: "stat", Path: root.Path(name), Err: err}
	}
	return st.Dev, nil
}

// procPath returns a path that leads to an open directory and nowhere else.
func procPath(dir *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(dir.Fd())) }
