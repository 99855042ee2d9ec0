package shim

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestReadSpec uses a shell as a shim: like containerd's, its working directory
// is one bundle, and its container's bundle is next to it.
func TestReadSpec(t *testing.T) {
	const secret = "hunter2"
	bundles := t.TempDir()
	for _, dir := range []string{"shim", "box"} {
		if err := os.Mkdir(filepath.Join(bundles, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(bundles, "box", "config.json")
	write := func(content string) error { return os.WriteFile(file, []byte(content), 0o600) }
	pid := childOfShell(t, filepath.Join(bundles, "shim"))
	for name, c := range map[string]struct {
		make func() error
		want string
	}{
		"good":            {func() error { return write(`{"hostname":"web"}`) }, ""},
		"missing":         {func() error { return nil }, "no such file"},
		"not JSON":        {func() error { return write(secret) }, "not an OCI specification"},
		"too large":       {func() error { return os.WriteFile(file, make([]byte, maxSpecSize+1), 0o600) }, "more than"},
		"somebody else's": {func() error { return errors.Join(write(`{}`), os.Chown(file, 1000, 1000)) }, "writable by root only"},
		"writable by all": {func() error {
			return errors.Join(write(`{}`), os.Chmod(file, 0o666), os.Chmod(filepath.Dir(file), 0o711))
		}, "writable by root only"},
		"writable in root's directory": {func() error { return errors.Join(write(`{"hostname":"web"}`), os.Chmod(file, 0o666)) }, ""},
		"a link":                       {func() error { return os.Symlink("/etc/hostname", file) }, "too many levels"},
		"a pipe":                       {func() error { return unix.Mkfifo(file, 0o600) }, "not a regular file"},
		"a directory":                  {func() error { return os.Mkdir(file, 0o700) }, "not a regular file"},
		"cut off":                      {func() error { return write(`{"hostname":"` + secret) }, "not an OCI specification"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := errors.Join(os.RemoveAll(file), os.Chmod(filepath.Dir(file), 0o700)); err != nil {
				t.Fatal(err)
			}
			if err := c.make(); err != nil {
				t.Fatal(err)
			}
			spec, err := readSpec("box", pid)
			if c.want == "" {
				if err != nil || spec.Hostname != "web" {
					t.Errorf("got %+v, %v", spec, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), secret) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
	if _, err := readSpec("box", 0); err == nil {
		t.Error("a container that does not run has a specification")
	}
}

// childOfShell starts a process whose parent's working directory is dir.
func childOfShell(t *testing.T, dir string) int {
	t.Helper()
	// Both exit when their standard input ends.
	cmd := exec.Command("sh", "-c", "exec 3<&0; cat <&3 >/dev/null & echo $!; wait")
	cmd.Dir = dir
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(stdin.Close(), cmd.Wait()); err != nil {
			t.Error(err)
		}
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}
