package checkpoint

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/beneath"
	"github.com/cridock/cridock/internal/idmap"
)

// Layers are the directories of an overlay; without Upper it is read-only.
type Layers struct {
	Lower       []string // the uppermost first
	Upper, Work string
}

// Mount mounts the overlay where no process sees it, with the help of the directory
// scratch: the mount is gone when the file is closed, or the process ends. Nobody
// else may have mounted it. Path leads to its root until then.
func (l Layers) Mount(scratch string) (*os.File, error) {
	type result struct {
		root *os.File
		err  error
	}
	done := make(chan result)
	go func() {
		// Never unlocked: the thread is changed, and ends with the goroutine.
		runtime.LockOSThread()
		root, err := l.mountAway(scratch)
		done <- result{root, err}
	}()
	r := <-done
	return r.root, r.err
}

// Path returns the path of a mount's root.
func Path(mounted *os.File) beneath.Root { return beneath.Root(fdPath(mounted)) }

// mountAway mounts in a mount namespace of the thread's own. It leaves it, as the first
// thread outlives its goroutine, and its mounts are the process's in /proc.
func (l Layers) mountAway(scratch string) (root *os.File, err error) {
	home, err := os.Open("/proc/thread-self/ns/mnt")
	if err != nil {
		return nil, err
	}
	defer func() { _ = home.Close() }()
	if err := idmap.Isolate(scratch); err != nil {
		return nil, err
	}
	root, err = l.mount(filepath.Join(scratch, "root"))
	if back := unix.Setns(int(home.Fd()), unix.CLONE_NEWNS); back != nil {
		err = errors.Join(err, fmt.Errorf("return to the mount namespace of cridock: %w", back))
	}
	return root, err
}

// mount mounts on target, which it makes, and returns a copy that is mounted nowhere.
func (l Layers) mount(target string) (*os.File, error) {
	if err := os.Mkdir(target, 0o700); err != nil {
		return nil, err
	}
	// By descriptor: the paths of many layers do not fit into one page.
	var open []*os.File
	defer func() {
		for _, f := range open {
			_ = f.Close()
		}
	}()
	dirs := slices.Clone(l.Lower)
	if l.Upper != "" {
		dirs = append(dirs, l.Upper, l.Work)
	}
	names := make([]string, 0, len(dirs))
	for _, dir := range dirs {
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("layer %s: %w", dir, err)
		}
		f := os.NewFile(uintptr(fd), dir)
		open, names = append(open, f), append(names, fdPath(f))
	}
	options, flags := "index=off,lowerdir="+strings.Join(names[:len(l.Lower)], ":"), uintptr(unix.MS_NODEV|unix.MS_RDONLY)
	if l.Upper != "" {
		options, flags = fmt.Sprintf("%s,upperdir=%s,workdir=%s", options, names[len(l.Lower)], names[len(l.Lower)+1]), unix.MS_NODEV
	}
	if len(options) >= os.Getpagesize() {
		return nil, fmt.Errorf("%d layers: %w: more than one mount can have", len(l.Lower), errdefs.ErrFailedPrecondition)
	}
	if err := unix.Mount("overlay", target, "overlay", flags, options); err != nil {
		return nil, fmt.Errorf("mount %d layers: %w", len(l.Lower), err)
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, target, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("clone the mount of layers: %w", err)
	}
	return os.NewFile(uintptr(tree), target), nil
}
