package unixsocket

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// dir returns a directory with a short path, as the path of a socket must be.
func dir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cridock")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func listen(t *testing.T, path string) *net.UnixListener {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// fill makes a socket whose process accepts no connections, with a full backlog.
func fill(t *testing.T, path string) {
	t.Helper()
	socket := func() int {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Close(fd) })
		return fd
	}
	addr, l := &unix.SockaddrUnix{Name: path}, socket()
	if err := errors.Join(unix.Bind(l, addr), unix.Listen(l, 0)); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		switch err := unix.Connect(socket(), addr); {
		case errors.Is(err, unix.EAGAIN):
			return
		case err != nil:
			t.Fatal(err)
		}
	}
	t.Fatal("the backlog is never full")
}

func TestServed(t *testing.T) {
	for name, c := range map[string]struct {
		make   func(t *testing.T, path string) error
		served bool
		fails  bool
	}{
		"nothing":   {func(*testing.T, string) error { return nil }, false, false},
		"served":    {func(t *testing.T, path string) error { listen(t, path); return nil }, true, false},
		"a link":    {func(t *testing.T, path string) error { listen(t, path+"2"); return os.Symlink(path+"2", path) }, true, false},
		"a dangler": {func(_ *testing.T, path string) error { return os.Symlink("nowhere", path) }, false, false},
		"stale": {func(t *testing.T, path string) error {
			l := listen(t, path)
			l.SetUnlinkOnClose(false)
			return l.Close()
		}, false, false},
		"too busy": {func(t *testing.T, path string) error { fill(t, path); return nil }, true, false},
		"another kind of socket": {func(t *testing.T, path string) error {
			conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
			if err == nil {
				t.Cleanup(func() { _ = conn.Close() })
			}
			return err
		}, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir(t), "s")
			if err := c.make(t, path); err != nil {
				t.Fatal(err)
			}
			if served, err := Served(t.Context(), path); served != c.served || (err != nil) != c.fails {
				t.Errorf("served %v, %v; want %v, an error %v", served, err, c.served, c.fails)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Served(ctx, filepath.Join(dir(t), "s")); err == nil {
		t.Error("without an attempt, a socket counts as one that nobody serves")
	}
}

func TestPeer(t *testing.T) {
	path := filepath.Join(dir(t), "s")
	if pid, err := Peer(path); err == nil {
		t.Errorf("without a socket: %d, want an error", pid)
	}
	listen(t, path)
	if pid, err := Peer(path); pid != os.Getpid() || err != nil {
		t.Errorf("%d, %v; want this process, %d", pid, err, os.Getpid())
	}
}
