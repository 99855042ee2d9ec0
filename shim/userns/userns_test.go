package userns

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cridock/cridock/internal/needs"
	"github.com/cridock/cridock/internal/seam"
)

const id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func record(id string) seam.Record {
	m := []seam.Mapping{{HostID: 100000, Size: 65536}}
	return seam.Record{ID: id, Runtime: seam.Runtime{Path: "runc"}, UserNamespace: &seam.UserNamespace{UIDs: m, GIDs: m}}
}

// ownMaps returns the mappings of the test's own user namespace.
func ownMaps(t *testing.T) *seam.UserNamespace {
	t.Helper()
	text, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		t.Fatal(err)
	}
	m, err := seam.ParseMappings(string(text))
	if err != nil {
		t.Fatal(err)
	}
	return &seam.UserNamespace{UIDs: m, GIDs: m}
}

func TestWriteAndRemove(t *testing.T) {
	dir := t.TempDir()
	r := New(dir)
	if err := r.Write(record(id), 0); err != nil {
		t.Fatal(err)
	}
	got, err := seam.Dir(dir).Read(id)
	if err != nil || got.UserNamespace.Join != nil {
		t.Fatal(got, err)
	}
	info, err := os.Stat(filepath.Join(dir, "oci"))
	if err != nil || info.Mode().Perm()&0o077 > 0o011 {
		t.Errorf("others may list the records: %v, %v", info, err)
	}
	for range 2 {
		if err := r.Remove(id); err != nil {
			t.Error(err)
		}
	}
	if _, err := seam.Dir(dir).Read(id); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
	if err := r.Remove("../" + id); err != nil {
		t.Error(err)
	}
}

func TestWriteRefuses(t *testing.T) {
	r := New(t.TempDir())
	if err := r.Write(record("../../etc/passwd"), 0); err == nil {
		t.Error("a path is taken for an ID")
	}
	if err := r.Write(record(id), os.Getpid()); err == nil || !strings.Contains(err.Error(), "uid_map") {
		t.Errorf("a process with other mappings is joined: %v", err)
	}
	if err := r.Write(record(id), 1<<30); err == nil {
		t.Error("a process that does not exist is joined")
	}
	if err := r.Collect(nil); err != nil {
		t.Errorf("collecting without a directory: %v", err)
	}
}

func TestCollect(t *testing.T) {
	dir := t.TempDir()
	r := New(dir)
	live, gone := strings.Repeat("a", 64), strings.Repeat("b", 64)
	for _, id := range []string{live, gone} {
		if err := r.Write(record(id), 0); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(seam.Dir(dir).RecordPath(id)+".draft.tmp", nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	failed := errors.New("no list")
	if err := r.Collect(func() (map[string]bool, error) { return nil, failed }); !errors.Is(err, failed) {
		t.Errorf("without a list: %v", err)
	}
	if err := r.Collect(func() (map[string]bool, error) { return map[string]bool{live: true}, nil }); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(filepath.Join(dir, seam.Records))
	if err != nil || len(left) != 2 {
		t.Errorf("left are %v, %v", left, err)
	}
	for _, f := range left {
		if !strings.HasPrefix(f.Name(), live) {
			t.Errorf("left is %s", f.Name())
		}
	}
}

func TestCheck(t *testing.T) {
	if gone, err := Check(ownMaps(t), os.Getpid()); gone || err != nil {
		t.Errorf("the right mappings: %t, %v", gone, err)
	}
	if gone, err := Check(record(id).UserNamespace, os.Getpid()); gone || err == nil {
		t.Errorf("other mappings: %t, %v", gone, err)
	}
	if gone, err := Check(record(id).UserNamespace, 1<<30); !gone || err != nil {
		t.Errorf("no process: %t, %v", gone, err)
	}
}

func TestUnmet(t *testing.T) {
	r := New(t.TempDir())
	for want, e := range map[string]Engine{
		"userns-remap": {RootDir: t.TempDir(), UsernsRemap: true}, "rootless": {RootDir: t.TempDir(), Rootless: true},
		"/proc": {RootDir: "/proc"},
	} {
		if got := r.Unmet(e); !strings.Contains(got, want) {
			t.Errorf("%q, want %s", got, want)
		}
	}
	if got := New("").Unmet(Engine{RootDir: t.TempDir()}); got == "" {
		t.Error("records have no directory")
	}
	needs.Root(t, "tries id-mapped mounts")
	if got := r.Unmet(Engine{RootDir: t.TempDir()}); got != "" {
		t.Error(got)
	}
}

func TestRecursiveReadOnly(t *testing.T) {
	for name, tc := range map[string]struct {
		script string
		want   bool
	}{
		"a new runtime":       {`echo '{"mountOptions": ["ro", "rro"]}'`, true},
		"one without":         {`echo '{"mountOptions": ["ro"]}'`, false},
		"one that can't tell": {"exit 1", false},
	} {
		bin := t.TempDir()
		if err := os.WriteFile(filepath.Join(bin, "runtime"), []byte("#!/bin/sh\n"+tc.script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
		for _, path := range []string{"runtime", filepath.Join(bin, "runtime")} {
			if got := RecursiveReadOnly(Features(t.Context(), path, nil)); got != tc.want {
				t.Errorf("%s as %s: %t", name, path, got)
			}
		}
	}
	if RecursiveReadOnly(Features(t.Context(), "/nowhere/runtime", nil)) {
		t.Error("a missing runtime has it")
	}
}

func TestMoveExecs(t *testing.T) {
	r := New(t.TempDir())
	if err := r.MoveExecs(id, 1); err != nil {
		t.Errorf("a missing record: %v", err)
	}
	for _, had := range []*int{nil, new(int)} {
		first := record(id)
		first.ExecCPU = had
		if err := r.Write(first, 0); err != nil {
			t.Fatal(err)
		}
		if err := r.MoveExecs(id, 5); err != nil {
			t.Fatal(err)
		}
		got, err := seam.Dir(r.dir).Read(id)
		if err != nil {
			t.Fatal(err)
		}
		if (got.ExecCPU != nil) != (had != nil) || had != nil && *got.ExecCPU != 5 || got.UserNamespace == nil {
			t.Errorf("the record is %+v", got)
		}
	}
}

func TestSetResources(t *testing.T) {
	r := New(t.TempDir())
	if err := r.SetResources(id, &seam.Resources{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing record: %v", err)
	}
	first := record(id)
	first.UserNamespace.Join = &seam.Process{PID: 42, Inode: 7}
	if err := r.Write(first, 0); err != nil {
		t.Fatal(err)
	}
	high := map[string]string{"memory.high": "1"}
	for _, step := range []struct {
		limits *seam.Resources
		want   *seam.Resources
	}{
		{&seam.Resources{}, nil}, // an earlier cridock-runtime can still read it
		{&seam.Resources{Unified: high}, &seam.Resources{Unified: high}},
		{&seam.Resources{}, &seam.Resources{}},
	} {
		if err := r.SetResources(id, step.limits); err != nil {
			t.Fatal(err)
		}
		got, err := seam.Dir(r.dir).Read(id)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(step.want, got.Resources); diff != "" || got.UserNamespace.Join == nil || got.UserNamespace.Join.PID != 42 {
			t.Errorf("%+v: %s", got.UserNamespace, diff)
		}
	}
}
