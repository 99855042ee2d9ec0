package app

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cridock/cridock/internal/needs"
)

// TestSocketMode: mode and group are the settings', and others never have access.
func TestSocketMode(t *testing.T) {
	dir := shortDir(t)
	for name, c := range map[string]struct {
		mode, group string
		wantMode    os.FileMode
		wantGID     uint32
	}{
		"default":    {"0660", "", 0o660, uint32(os.Getgid())},
		"owner only": {"0600", "", 0o600, uint32(os.Getgid())},
		"a number":   {"660", "4711", 0o660, 4711},
		"a name":     {"0660", "daemon", 0o660, 1},
	} {
		t.Run(name, func(t *testing.T) {
			if c.group != "" {
				needs.Root(t, "gives a socket to a group")
			}
			o := NewOptions()
			o.Endpoint, o.SocketMode, o.SocketGroup = "unix://"+dir+"/s", c.mode, c.group
			l, unlink, err := o.listen(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = l.Close() }()
			defer unlink()
			info, err := os.Stat(dir + "/s")
			if err != nil {
				t.Fatal(err)
			}
			if gid := info.Sys().(*syscall.Stat_t).Gid; info.Mode().Perm() != c.wantMode || gid != c.wantGID {
				t.Errorf("the socket has mode %v and group %d; want %v and %d", info.Mode().Perm(), gid, c.wantMode, c.wantGID)
			}
		})
	}
	o := NewOptions()
	o.Endpoint, o.SocketGroup = "unix://"+dir+"/s", "no-such-group"
	if _, _, err := o.listen(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "socket-group") {
		t.Errorf("an unknown group: %v", err)
	}
	if _, err := net.Dial("unix", dir+"/s"); err == nil {
		t.Error("a socket without its group is served")
	}
}

// TestUnitSettings: only the settings that are set are said to have no effect.
func TestUnitSettings(t *testing.T) {
	for args, want := range map[string]string{
		"": "", "--socket-mode=0600": "socket-mode", "--socket-group=x": "socket-group", "--socket-mode=0600 --socket-group=x": "socket-group socket-mode",
	} {
		o, err := parse(t, "", strings.Fields(args)...)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(o.unitSettings(), " "); got != want {
			t.Errorf("%q: %q; want %q", args, got, want)
		}
	}
}

// linkPlaces are what may be in the place of the link, with words of the refusal.
var linkPlaces = map[string]struct {
	before func(t *testing.T, link string)
	want   string // words of the refusal
}{
	"nothing there": {func(*testing.T, string) {}, ""},
	"a link left by a crash": {func(t *testing.T, link string) {
		if err := os.Symlink(filepath.Dir(link)+"/s", link); err != nil {
			t.Fatal(err)
		}
	}, ""},
	"a link elsewhere": {func(t *testing.T, link string) {
		if err := os.Symlink("nowhere", link); err != nil {
			t.Fatal(err)
		}
	}, ""},
	"a socket that is not served": {func(t *testing.T, link string) {
		l, err := net.Listen("unix", link)
		if err != nil {
			t.Fatal(err)
		}
		l.(*net.UnixListener).SetUnlinkOnClose(false)
		_ = l.Close()
	}, ""},
	"a socket that is served": {func(t *testing.T, link string) {
		l, err := net.Listen("unix", link)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
	}, "another process serves"},
	"a file":      {func(t *testing.T, link string) { write(t, link, "precious") }, "is no socket"},
	"a directory": {func(t *testing.T, link string) { made(t, link, 0o755) }, "is no socket"},
}

// TestSocketLink: the link leads to the socket while it is served, replaces what a
// former program left, and nothing else.
func TestSocketLink(t *testing.T) {
	for name, c := range linkPlaces {
		t.Run(name, func(t *testing.T) {
			dir := shortDir(t)
			link := dir + "/link"
			c.before(t, link)
			o := NewOptions()
			o.Endpoint, o.SocketLink = "unix://"+dir+"/s", link
			l, unlink, err := o.listen(t.Context(), nil)
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("error is %v; want %q", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = l.Close() }()
			conn, err := net.Dial("unix", link)
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.Close()
			unlink()
			if _, err := os.Lstat(link); !os.IsNotExist(err) {
				t.Errorf("the link stays: %v", err)
			}
		})
	}
}

// TestSocketLinkInDoubt: a socket that may be served stays.
func TestSocketLinkInDoubt(t *testing.T) {
	dir := shortDir(t)
	l, err := net.Listen("unix", dir+"/link")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // so that no attempt to connect succeeds
	if _, err := linkSocket(ctx, dir+"/link", dir+"/s"); err == nil {
		t.Error("the socket was replaced")
	}
	if info, err := os.Lstat(dir + "/link"); err != nil || info.Mode().Type() != os.ModeSocket {
		t.Errorf("the socket is %v, %v", info, err)
	}
}

// TestSocketLinkOfOthers: a link that somebody changed while cridock ran stays.
func TestSocketLinkOfOthers(t *testing.T) {
	dir := shortDir(t)
	unlink, err := linkSocket(t.Context(), dir+"/link", dir+"/s")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(dir + "/link"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("theirs", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	unlink()
	if target, err := os.Readlink(dir + "/link"); err != nil || target != "theirs" {
		t.Errorf("the link is %q, %v", target, err)
	}
}
