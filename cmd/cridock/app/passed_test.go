package app

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/cridock/cridock/internal/needs"
)

// passedChild makes a process of this test that is passed a socket print what becomes
// of it.
const passedChild = "CRIDOCK_TEST_PASSED_SOCKET"

// TestPassedSocketChild is the other process of TestPassedSocket.
func TestPassedSocketChild(t *testing.T) {
	if os.Getenv(passedChild) == "" {
		return
	}
	o := NewOptions()
	o.OwnProcess, o.Endpoint = true, os.Getenv(passedChild)
	l, err := o.passedSocket()
	if err == nil {
		fmt.Println("taken:", l.Addr())
		err = l.Close()
	}
	fmt.Println("error:", err)
}

// TestPassedSocket: a socket that others can connect to or replace is refused.
func TestPassedSocket(t *testing.T) {
	open := func(t *testing.T, path string) *net.UnixListener {
		t.Helper()
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		return l
	}
	for name, c := range map[string]struct {
		spoil func(t *testing.T, dir string) error
		want  string
	}{
		"cri-dockerd's unit": {func(t *testing.T, dir string) error {
			needs.Root(t, "gives a socket to a group")
			return os.Chown(dir+"/s", 0, 4711)
		}, "taken: "},
		"for all":            {func(_ *testing.T, dir string) error { return os.Chmod(dir+"/s", 0o666) }, "SocketMode"},
		"for others only":    {func(_ *testing.T, dir string) error { return os.Chmod(dir+"/s", 0o602) }, "SocketMode"},
		"a public directory": {func(_ *testing.T, dir string) error { return os.Chmod(dir, 0o777) }, "is writable"},
		"somebody's directory": {func(t *testing.T, dir string) error {
			chown(t, dir, nobody)
			return nil
		}, "belongs to user"},
		"replaced": {func(_ *testing.T, dir string) error {
			return errors.Join(os.Remove(dir+"/s"), os.WriteFile(dir+"/s", nil, 0o600))
		}, "not a socket"},
		"removed": {func(_ *testing.T, dir string) error { return os.Remove(dir + "/s") }, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := shortDir(t)
			l := open(t, dir+"/s")
			if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(dir+"/s", 0o660), c.spoil(t, dir)); err != nil {
				t.Fatal(err)
			}
			if out := pass(t, l, systemdEndpoint); !strings.Contains(out, c.want) || strings.Contains(out, "taken") != (c.want == "taken: ") {
				t.Errorf("%s; want %q", out, c.want)
			}
		})
	}
	t.Run("not asked for", func(t *testing.T) {
		dir := shortDir(t)
		l := open(t, dir+"/s")
		if err := os.Chmod(dir+"/s", 0o666); err != nil {
			t.Fatal(err)
		}
		if out := pass(t, l, "unix://"+dir+"/other"); !strings.Contains(out, "SocketMode") {
			t.Error(out)
		}
	})
	t.Run("abstract", func(t *testing.T) {
		if out := pass(t, open(t, fmt.Sprintf("@cridock-test-%d", os.Getpid())), systemdEndpoint); !strings.Contains(out, "everybody can connect") {
			t.Error(out)
		}
	})
}

// pass runs the other process with a socket, as systemd does, and returns its output.
func pass(t *testing.T, l *net.UnixListener, endpoint string) string {
	t.Helper()
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	// Only the process itself knows its PID.
	cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"`, "sh", os.Args[0], "-test.run=^TestPassedSocketChild$")
	cmd.Env, cmd.ExtraFiles = append(os.Environ(), passedChild+"="+endpoint), []*os.File{f}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// TestNoPassedSocket: without the socket that it needs, a process makes nothing.
func TestNoPassedSocket(t *testing.T) {
	for _, own := range []bool{true, false} {
		dir := t.TempDir()
		o := dirsIn(dir)
		settings := NewOptions()
		settings.RootDir, settings.RuntimeDir, settings.CNICacheDir, settings.CNIConfDir = o.RootDir, o.RuntimeDir, o.CNICacheDir, dir
		settings.Endpoint, settings.OwnProcess = systemdEndpoint, own
		if err := Run(t.Context(), settings); err == nil || !strings.Contains(err.Error(), "systemd passed no socket") {
			t.Errorf("own process %v: %v", own, err)
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
			t.Errorf("own process %v: made %v, %v", own, entries, err)
		}
	}
}
