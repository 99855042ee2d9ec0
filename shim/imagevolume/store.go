package imagevolume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	securejoin "github.com/cyphar/filepath-securejoin"
	"golang.org/x/sys/unix"
)

// noLayer is the empty directory that goes below an image's layers: the kernel
// wants two lower directories at least. Keys do not begin with a dot.
const noLayer = ".empty"

// maxOptions is what mount(2) takes of options: a page, with its final zero.
const maxOptions = 4095

// Store keeps mounts below one directory. A mount has an owner and a name; both
// are file names. Calls for different owners may run in parallel, those for one
// owner must not.
type Store struct {
	dir string

	mu  sync.Mutex
	own map[string]bool // owners that this process has mounted for
}

// New makes a store below an absolute directory. It touches nothing.
func New(dir string) *Store { return &Store{dir: dir, own: map[string]bool{}} }

// Mount shows layers, the uppermost first, and returns where. made is false if
// that mount was there already. Layers that are not there are
// errdefs.ErrNotFound.
func (s *Store) Mount(owner, name string, layers []string) (path string, made bool, err error) {
	s.mu.Lock()
	s.own[owner] = true
	err = s.prepare()
	s.mu.Unlock()
	if err != nil {
		return "", false, fmt.Errorf("directory of image volumes %s: %w", s.dir, err)
	}
	path = filepath.Join(s.dir, owner, name)
	if err := os.MkdirAll(path, 0o755); err != nil {
		return "", false, err
	}
	if mounted, err := isMount(path); err != nil || mounted {
		return path, false, err
	}
	if err := overlay(path, append(slices.Clone(layers), filepath.Join(s.dir, noLayer))); err != nil {
		return "", false, fmt.Errorf("mount %d image layers on %s: %w", len(layers), path, err)
	}
	return path, true, nil
}

// prepare mounts the store's own file system. It needs s.mu.
func (s *Store) prepare() error {
	if !filepath.IsAbs(s.dir) {
		return fmt.Errorf("%w: not absolute", errdefs.ErrInvalidArgument)
	}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return err
	}
	mounted, err := isMount(s.dir)
	if err != nil {
		return err
	}
	if !mounted {
		// Containers of any user come through here.
		if err := unix.Mount("tmpfs", s.dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=755,size=4m"); err != nil {
			return err
		}
	}
	return os.MkdirAll(filepath.Join(s.dir, noLayer), 0o755)
}

// overlay mounts directories, the uppermost first, as one that is read-only.
func overlay(target string, layers []string) error {
	// By descriptor, as the paths of many layers do not fit into one page, and
	// may hold the colon that parts them.
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
		return fmt.Errorf("%w: more than the kernel takes", errdefs.ErrOutOfRange)
	}
	return unix.Mount("overlay", target, "overlay", unix.MS_RDONLY, options)
}

// Has tells whether there is anything to unmount for an owner.
func (s *Store) Has(owner string) bool {
	_, err := os.Lstat(filepath.Join(s.dir, owner))
	return err == nil
}

// Unmount takes away all mounts of an owner; one that has none is success.
// Containers that have them mounted keep them.
func (s *Store) Unmount(owner string) error {
	dir := filepath.Join(s.dir, owner)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		err = errors.Join(err, unmount(filepath.Join(dir, e.Name())))
	}
	if err == nil {
		err = os.Remove(dir)
	}
	if err != nil {
		return fmt.Errorf("image volumes of %s: %w", owner, err)
	}
	return nil
}

func unmount(path string) error {
	for {
		mounted, err := isMount(path)
		if err != nil {
			return err
		}
		if !mounted {
			return os.Remove(path) // fails, and removes nothing, if it is not empty
		}
		// Detached, as somebody may be looking into it.
		if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return err
		}
	}
}

// Foreign lists the owners of mounts that this process has not asked for.
func (s *Store) Foreign() ([]string, error) {
	entries, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var owners []string
	for _, e := range entries {
		if name := e.Name(); name != noLayer && !s.own[name] {
			owners = append(owners, name)
		}
	}
	return owners, err
}

// Resolve gives the path of what subPath names inside a mounted image. Symbolic
// links in it lead where they would if the image were the root. The path is
// free of links, and stays what it is, as nothing can change in an image. What
// is not there is errdefs.ErrNotFound.
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

// isMount tells whether a file system of its own is mounted on a directory.
func isMount(path string) (bool, error) {
	var here, above unix.Stat_t
	if err := unix.Lstat(path, &here); err != nil {
		return false, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	if err := unix.Lstat(filepath.Dir(path), &above); err != nil {
		return false, &fs.PathError{Op: "lstat", Path: filepath.Dir(path), Err: err}
	}
	return here.Dev != above.Dev, nil
}
