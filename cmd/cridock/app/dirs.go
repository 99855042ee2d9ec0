package app

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// ownDir is a directory whose content cridock trusts: it decides what cridock, as
// root, mounts, removes and reports to the kubelet.
type ownDir struct {
	setting, path string
	// mode is used when cridock makes the directory.
	mode fs.FileMode
	// shared allows the directory to be a symbolic link, as /var/run is.
	shared bool
}

// ownDirs returns cridock's directories with these settings.
func (o *Options) ownDirs() []ownDir {
	dirs := []ownDir{
		// Docker mounts files from here. With userns-remap, old runtimes do so as
		// another user, who may traverse but not list it.
		{setting: "root-directory", path: o.RootDir, mode: 0o711},
		// The socket is in here by default; it has its own mode.
		{setting: "runtime-directory", path: o.RuntimeDir, mode: 0o755},
	}
	if o.networkPlugin() == pluginCNI {
		// Its content decides which addresses are released.
		dirs = append(dirs, ownDir{setting: "cni-cache-dir", path: o.CNICacheDir, mode: 0o700, shared: true})
	}
	// Whoever can write to the socket's directory can replace the socket.
	if path, ok := strings.CutPrefix(o.Endpoint, "unix://"); ok {
		dirs = append(dirs, ownDir{setting: "directory of container-runtime-endpoint", path: filepath.Dir(path), mode: 0o755, shared: true})
	}
	if o.SocketLink != "" {
		dirs = append(dirs, ownDir{setting: "directory of socket-link", path: filepath.Dir(o.SocketLink), mode: 0o755, shared: true})
	}
	return dirs
}

// prepareDirs makes cridock's directories, and refuses those that other users can
// change.
func (o *Options) prepareDirs() error {
	for _, d := range o.ownDirs() {
		if err := d.prepare(); err != nil {
			return fmt.Errorf("%s %s: %w", d.setting, d.path, err)
		}
	}
	return nil
}

func (d ownDir) prepare() error {
	if !filepath.IsAbs(d.path) {
		return errors.New("not an absolute path")
	}
	path := filepath.Clean(d.path)
	// Check the parents first: make nothing where others could move it away.
	if err := checkPath(filepath.Dir(path)); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // as /var/lib; the directory itself gets its own mode
		return err
	}
	if err := os.Mkdir(path, d.mode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if info, err := os.Lstat(path); err != nil {
		return err
	} else if info.Mode().Type() == fs.ModeSymlink && !d.shared {
		return fmt.Errorf("is a symbolic link; set %s to its target", d.setting)
	}
	if err := checkPath(path); err != nil {
		return err
	}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return err
	case !info.IsDir():
		return errors.New("is not a directory; remove it or choose another path")
	case info.Mode().Perm()&0o022 != 0:
		return writable(path, info)
	}
	return nil
}

func writable(path string, info fs.FileInfo) error {
	return fmt.Errorf("%s is writable for users other than its owner (mode %#o); run: chmod go-w %s", path, info.Mode().Perm(), path)
}

// maxLinks is how many symbolic links a path may have, as in the kernel.
const maxLinks = 40

// checkPath makes sure that only root and the current user can change where a path
// leads: no directory on the way, links followed, belongs to others or is writable
// for them. They may write to directories with the sticky bit, such as /tmp. The
// check ends at the first component that does not exist.
func checkPath(path string) error {
	at, rest := "/", strings.Split(strings.TrimPrefix(filepath.Clean(path), "/"), "/")
	for links := 0; ; {
		info, err := os.Lstat(at)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := checkOwner(at, info); err != nil {
			return err
		}
		if info.Mode().Type() == fs.ModeSymlink {
			if links++; links > maxLinks {
				return fmt.Errorf("%s: %w", at, syscall.ELOOP)
			}
			target, err := os.Readlink(at)
			if err != nil {
				return err
			}
			if !filepath.IsAbs(target) {
				target = filepath.Join(filepath.Dir(at), target)
			}
			at, rest = "/", append(strings.Split(strings.TrimPrefix(filepath.Clean(target), "/"), "/"), rest...)
			continue
		}
		if len(rest) == 0 {
			return nil
		}
		if info.IsDir() && info.Mode().Perm()&0o022 != 0 && info.Mode()&fs.ModeSticky == 0 {
			return writable(at, info)
		}
		at, rest = filepath.Join(at, rest[0]), rest[1:]
	}
}

func checkOwner(path string, info fs.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if ok && st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to user %d; run: chown -h root %s, if you trust its content", path, st.Uid, path)
	}
	return nil
}
