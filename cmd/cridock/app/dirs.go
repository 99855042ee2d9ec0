package app

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cridock/cridock/internal/trust"
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
	if err := trust.CheckLookup(filepath.Dir(path), os.Geteuid()); err != nil {
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
	if err := checkTrusted(path); err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err == nil && !info.IsDir() {
		return errors.New("is not a directory; remove it or choose another path")
	}
	return err
}

// checkTrusted makes sure that only root and the current user can change what is at
// an absolute path.
func checkTrusted(path string) error { return trust.Check(path, os.Geteuid()) }
