package app

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cridock/cridock/internal/needs"
)

// dirsIn are settings with all of cridock's directories below one.
func dirsIn(dir string) *Options {
	return &Options{
		RootDir: dir + "/lib/root", RuntimeDir: dir + "/run/cridock", NetworkPlugin: "cni", CNICacheDir: dir + "/cni/cache",
		Endpoint: "unix://" + dir + "/run/cridock/cridock.sock",
	}
}

func TestDirsAreMade(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o022))
	o := dirsIn(t.TempDir())
	for range 2 { // and taken again
		if err := o.prepareDirs(); err != nil {
			t.Fatal(err)
		}
	}
	for path, want := range map[string]os.FileMode{o.RootDir: 0o711, o.RuntimeDir: 0o755, o.CNICacheDir: 0o700} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want mode %#o", path, info.Mode(), err, want)
		}
	}
	o.NetworkPlugin, o.CNICacheDir, o.Endpoint = "docker", "/nowhere/to/be/made", systemdEndpoint
	if err := o.prepareDirs(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(o.CNICacheDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a directory that is not used: %v", err)
	}
}

const nobody = 65534

func made(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(path, 0o755), os.Chmod(path, mode)); err != nil {
		t.Fatal(err)
	}
}

func linked(t *testing.T, target, path string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.MkdirAll(filepath.Join(filepath.Dir(path), target), 0o755), os.Symlink(target, path)); err != nil {
		t.Fatal(err)
	}
}

// spoiled are directories as cridock may find them, with words of the refusal.
var spoiled = map[string]struct {
	spoil func(t *testing.T, dir string, o *Options)
	want  []string // nil: it is taken
}{
	"others write to the root directory": {func(t *testing.T, _ string, o *Options) { made(t, o.RootDir, 0o757) }, []string{"root-directory", "chmod go-w"}},
	"its group does":                     {func(t *testing.T, _ string, o *Options) { made(t, o.RootDir, 0o775) }, []string{"root-directory", "chmod go-w"}},
	"a sticky bit does not help it":      {func(t *testing.T, _ string, o *Options) { made(t, o.RootDir, os.ModeSticky|0o777) }, []string{"root-directory", "chmod go-w"}},
	"the runtime directory":              {func(t *testing.T, _ string, o *Options) { made(t, o.RuntimeDir, 0o777) }, []string{"runtime-directory", "chmod go-w"}},
	"the CNI cache":                      {func(t *testing.T, _ string, o *Options) { made(t, o.CNICacheDir, 0o777) }, []string{"cni-cache-dir", "chmod go-w"}},
	"the socket's": {func(t *testing.T, dir string, o *Options) {
		o.Endpoint = "unix://" + dir + "/sock/cri.sock"
		made(t, dir+"/sock", 0o777)
	}, []string{"container-runtime-endpoint", "/sock", "chmod go-w"}},
	"one above":                 {func(t *testing.T, dir string, _ *Options) { made(t, dir+"/lib", 0o777) }, []string{"root-directory", "/lib is writable", "chmod go-w"}},
	"one above with sticky bit": {func(t *testing.T, dir string, _ *Options) { made(t, dir+"/lib", os.ModeSticky|0o777) }, nil},
	"one that all can read":     {func(t *testing.T, _ string, o *Options) { made(t, o.RootDir, 0o755) }, nil},
	"a link":                    {func(t *testing.T, _ string, o *Options) { linked(t, "real", o.RootDir) }, []string{"root-directory", "symbolic link", "set root-directory"}},
	"a link that leads nowhere": {func(t *testing.T, dir string, o *Options) {
		linked(t, "real", o.RootDir)
		_ = os.Remove(dir + "/lib/real")
	}, []string{"root-directory", "symbolic link"}},
	"a link above":               {func(t *testing.T, dir string, _ *Options) { linked(t, "real", dir+"/lib") }, nil},
	"a link to what others have": {func(t *testing.T, dir string, _ *Options) { linked(t, "real", dir+"/lib"); made(t, dir+"/real", 0o777) }, []string{"/real is writable", "chmod go-w"}},
	"links in a circle": {func(t *testing.T, dir string, _ *Options) {
		if err := os.Symlink("lib", dir+"/lib"); err != nil {
			t.Fatal(err)
		}
	}, []string{"root-directory", "symbolic links"}},
	"the socket's over a link": {func(t *testing.T, dir string, o *Options) {
		o.Endpoint = "unix://" + dir + "/sock/cri.sock"
		linked(t, "real", dir+"/sock")
	}, nil},
	"a file": {func(t *testing.T, dir string, o *Options) {
		made(t, dir+"/lib", 0o755)
		if err := os.WriteFile(o.RootDir, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}, []string{"root-directory", "not a directory"}},
	"another user's": {func(t *testing.T, _ string, o *Options) {
		made(t, o.RootDir, 0o755)
		chown(t, o.RootDir, nobody)
	}, []string{"root-directory", "user 65534", "chown"}},
	"one above is another user's": {func(t *testing.T, dir string, _ *Options) {
		made(t, dir+"/lib", 0o755)
		chown(t, dir+"/lib", nobody)
	}, []string{"root-directory", "/lib belongs to user 65534", "chown"}},
	"a link above is another user's": {func(t *testing.T, dir string, _ *Options) {
		linked(t, "real", dir+"/lib")
		chown(t, dir+"/lib", nobody)
	}, []string{"root-directory", "/lib belongs to user 65534", "chown"}},
	"no absolute path": {func(_ *testing.T, _ string, o *Options) { o.RuntimeDir = "run" }, []string{"runtime-directory run", "absolute"}},
}

func TestDirsThatOthersChange(t *testing.T) {
	for name, c := range spoiled {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			o := dirsIn(dir)
			c.spoil(t, dir, o)
			err := o.prepareDirs()
			if c.want == nil && err != nil {
				t.Errorf("got %v, want it taken", err)
			}
			for _, words := range c.want {
				if err == nil || !strings.Contains(err.Error(), words) {
					t.Errorf("got %v, want words %q", err, words)
				}
			}
		})
	}
}

func chown(t *testing.T, path string, uid int) {
	t.Helper()
	needs.Root(t, "gives files away")
	if err := os.Lchown(path, uid, -1); err != nil {
		t.Fatal(err)
	}
}
