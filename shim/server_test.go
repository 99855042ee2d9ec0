package shim

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
)

func TestListen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "sub", "cri.sock")
	endpoint := "unix://" + path
	l, err := Listen(t.Context(), endpoint)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if mode := info.Mode().Perm(); mode != 0o660 {
		t.Errorf("mode of the socket = %o, want 660", mode)
	}
	if _, err := Listen(t.Context(), endpoint); !errdefs.IsAlreadyExists(err) {
		t.Errorf("a live socket: %v, want already exists", err)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel() // so that no attempt to connect succeeds
	if _, err := Listen(canceled, endpoint); err == nil {
		t.Error("a socket that may be live was replaced")
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("a socket that may be live: %v", err)
	}
	// A killed process leaves its socket behind.
	l.(interface{ SetUnlinkOnClose(bool) }).SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l, err = Listen(t.Context(), endpoint)
	if err != nil {
		t.Fatalf("a stale socket is not replaced: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(t.Context(), "unix://"+file); !errdefs.IsAlreadyExists(err) {
		t.Errorf("a file of somebody else: %v, want already exists", err)
	}
	for _, bad := range []string{"", "tcp://127.0.0.1:1", "unix://relative", "/path"} {
		if _, err := Listen(t.Context(), bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("endpoint %q: %v, want invalid argument", bad, err)
		}
	}
}
