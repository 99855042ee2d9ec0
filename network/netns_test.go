package network

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/netns"
)

func TestPinNetNS(t *testing.T) {
	dir := t.TempDir()
	path, other := filepath.Join(dir, "new", "a"), filepath.Join(dir, "b")
	newNetNS(t, path)
	newNetNS(t, other)
	inode := func() uint64 {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		return st.Ino
	}
	pinned := inode()
	// Pinning from inside the namespace pins the same namespace again.
	if err := netns.DoAt(path, func() error { return PinNetNS(unix.Gettid(), path) }); err != nil || inode() != pinned {
		t.Errorf("pinning again: %v, namespace %d, want %d", err, inode(), pinned)
	}
	if err := netns.DoAt(other, func() error { return PinNetNS(unix.Gettid(), path) }); err != nil || inode() == pinned {
		t.Errorf("pinning another: %v, namespace %d, want another than before", err, inode())
	}
	for range 2 {
		if err := UnpinNetNS(path); err != nil {
			t.Errorf("UnpinNetNS: %v", err)
		}
	}
	if err := os.WriteFile(path, nil, 0o444); err != nil { // what a lost mount leaves behind
		t.Fatal(err)
	}
	if isNamespace(path) {
		t.Error("a plain file passes for a namespace")
	}
	if err := netns.DoAt(other, func() error { return PinNetNS(unix.Gettid(), path) }); err != nil || !isNamespace(path) {
		t.Errorf("pinning over a plain file: %v", err)
	}
	if err := PinNetNS(0, path); !errdefs.IsInvalidArgument(err) {
		t.Errorf("PinNetNS of process 0: %v", err)
	}
	if err := PinNetNS(1<<30, path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("PinNetNS of no process: %v", err)
	}
}

func TestPrepareNetNS(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	newNetNS(t, path)
	// What Docker's network "none" does.
	if err := SetSysctls(path, map[string]string{"net.ipv6.conf.all.disable_ipv6": "1", "net.ipv6.conf.default.disable_ipv6": "1"}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := prepareNetNS(path); err != nil {
			t.Fatal(err)
		}
	}
	err := netns.DoAt(path, func() error {
		lo, err := net.InterfaceByName("lo")
		if err != nil {
			return err
		}
		addresses, err := lo.Addrs()
		if err != nil {
			return err
		}
		if lo.Flags&net.FlagUp == 0 || len(addresses) != 2 {
			t.Errorf("lo is %v with %v, want it up with two addresses", lo.Flags, addresses)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestSetSysctls(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	newNetNS(t, path)
	before, err := os.ReadFile("/proc/sys/net/ipv4/conf/lo/arp_ignore")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"net.ipv4.conf.lo.arp_ignore":         "2",
		"net/ipv4/ip_unprivileged_port_start": "7",
	}
	if err := SetSysctls(path, want); err != nil {
		t.Fatal(err)
	}
	err = netns.DoAt(path, func() error {
		for name, value := range want {
			file, err := sysctlFile(name)
			if err != nil {
				return err
			}
			if got, err := os.ReadFile(file); err != nil || strings.TrimSpace(string(got)) != value {
				t.Errorf("%s = %q, %v, want %q", name, got, err, value)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if after, _ := os.ReadFile("/proc/sys/net/ipv4/conf/lo/arp_ignore"); string(after) != string(before) {
		t.Errorf("the test's own namespace changed from %q to %q", before, after)
	}
	if err := SetSysctls(path, map[string]string{"net.ipv4.no_such_thing": "1"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("unknown sysctl: %v", err)
	}
	for _, bad := range []string{"kernel.shmmax", "net", "net.", "", "net/../kernel/shmmax", "net.ipv4..x", "/net/ipv4/x", "fs/net.ipv4"} {
		if err := SetSysctls(path, map[string]string{bad: "1"}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("sysctl %q: %v, want invalid argument", bad, err)
		}
	}
}

func TestSysctlFile(t *testing.T) {
	for name, want := range map[string]string{
		"net.ipv4.ip_forward":              "/proc/sys/net/ipv4/ip_forward",
		"net/ipv4/ip_forward":              "/proc/sys/net/ipv4/ip_forward",
		"net.ipv4.conf.eno2/100.rp_filter": "/proc/sys/net/ipv4/conf/eno2.100/rp_filter",
		"net/ipv4/conf/eno2.100/rp_filter": "/proc/sys/net/ipv4/conf/eno2.100/rp_filter",
	} {
		if got, err := sysctlFile(name); err != nil || got != want {
			t.Errorf("sysctlFile(%q) = %q, %v, want %q", name, got, err, want)
		}
	}
}

// TestMakeNetNS: the namespace is new, and this process stays in its own.
func TestMakeNetNS(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "a")
	t.Cleanup(func() {
		if err := UnpinNetNS(path); err != nil {
			t.Error(err)
		}
	})
	for range 2 { // the second replaces the first
		if err := MakeNetNS(path); err != nil {
			t.Fatal(err)
		}
		var links []net.Interface
		err := netns.DoAt(path, func() (err error) {
			links, err = net.Interfaces()
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, link := range links {
			if link.Flags&net.FlagLoopback == 0 && link.Flags&net.FlagUp != 0 {
				t.Errorf("a new namespace has the interface %s", link.Name)
			}
		}
		if err := netns.DoAt(path, loopbackUp); err != nil {
			t.Fatal(err)
		}
		if err := CheckNetNS(os.Getpid(), path); err == nil {
			t.Error("this process is taken to be in the new namespace")
		}
	}
	if err := PinNetNS(os.Getpid(), path); err != nil {
		t.Fatal(err)
	}
	if err := CheckNetNS(os.Getpid(), path); err != nil {
		t.Error(err)
	}
	const noProcess = 1 << 30
	if err := CheckNetNS(noProcess, path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of no process: %v", err)
	}
	if err := MakeNetNS("a"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("at a relative path: %v", err)
	}
}
