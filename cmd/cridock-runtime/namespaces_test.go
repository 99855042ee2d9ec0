package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/seam"
)

func TestMakeCgroupsWritable(t *testing.T) {
	const own = `"linux": {"namespaces": [{"type": "cgroup"}]}`
	s, bundle := parseSpec(t, `{"mounts": [{"type": "cgroup", "options": ["ro", "nosuid"]}, {"type": "sysfs", "options": ["ro"]}], `+own+`}`)
	if err := s.makeCgroupsWritable(); err != nil {
		t.Fatal(err)
	}
	_, out := changedSpec(t, s, bundle)
	if diff := cmp.Diff(parsed(t, `{"mounts": [{"type": "cgroup", "options": ["nosuid", "rw"]}, {"type": "sysfs", "options": ["ro"]}], `+own+`}`), out); diff != "" {
		t.Error(diff)
	}
	for _, text := range []string{
		`{"mounts": [{"type": "cgroup"}]}`,
		`{"mounts": [{"type": "cgroup"}], "linux": {"namespaces": [{"type": "cgroup", "path": "/x"}]}}`,
		`{"mounts": [{"type": "sysfs"}], ` + own + `}`,
		`{"mounts": {}, ` + own + `}`,
	} {
		s, _ := parseSpec(t, text)
		if err := s.makeCgroupsWritable(); err == nil {
			t.Errorf("%s is accepted", text)
		}
	}
}

// describe returns this process with its UTS namespace.
func describe(t *testing.T) seam.Process {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/ns/uts", &st); err != nil {
		t.Fatal(err)
	}
	return seam.Process{PID: os.Getpid(), Device: st.Dev, Inode: st.Ino}
}

// TestCreateInUTS: the real runtime gets a path that leads to the namespace.
func TestCreateInUTS(t *testing.T) {
	p := describe(t)
	b := newBundle(t)
	b.limitsOnly(nil)
	b.record.UTS = &p
	b.writeFile(t, b.record.Runtime.Path, fmt.Sprintf("#!/bin/sh\nstat -L -c 'inode %%i' $(grep -o '/proc/[0-9]*/fd/[0-9]*' %s/%s)\n", b.bundle, specName), 0o755)
	b.writeRecord(t)
	out, message, err := b.create(t)
	if err != nil || !strings.Contains(out, fmt.Sprintf("inode %d\n", p.Inode)) {
		t.Fatal(err, message, out)
	}
	s, err := readSpec(b.bundle)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := s["hostname"]; ok {
		t.Error("the host name would be set for the whole pod")
	}
	p.Inode++
	b.writeRecord(t)
	if out, message, err := b.create(t); err == nil || !strings.Contains(message, "UTS namespace") {
		t.Errorf("another namespace: %v, %s, %s", err, message, out)
	}
}

func TestJoinUTSOfHost(t *testing.T) {
	p := describe(t)
	s, _ := parseSpec(t, `{"linux": {"namespaces": [{"type": "pid"}]}}`)
	if err := s.joinUTS(&p); err == nil || !strings.Contains(err.Error(), "host's UTS") {
		t.Error(err)
	}
}
