package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/needs"
	"github.com/cridock/cridock/internal/seam"
)

// TestMain runs the command itself for the tests below.
func TestMain(m *testing.M) {
	if os.Getenv("CRIDOCK_RUNTIME_TEST") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// bundleTest is a container's bundle, its record, and a real runtime that only
// prints what it sees.
type bundleTest struct {
	dir    seam.Dir
	bundle string
	record seam.Record
}

func newBundle(t *testing.T) *bundleTest {
	t.Helper()
	needs.Root(t, "makes id-mapped mounts")
	top := t.TempDir()
	b := &bundleTest{dir: seam.Dir(filepath.Join(top, "run")), bundle: filepath.Join(top, "bundle")}
	for _, dir := range []string{string(b.dir) + "/oci", b.bundle, "data", "store/l", "store/base/diff", "store/top/diff", "store/top/work", "store/top/merged"} {
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(top, dir)
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	store := filepath.Join(top, "store")
	err := errors.Join(
		os.Symlink("../base/diff", store+"/l/SHORT"),
		os.WriteFile(store+"/base/diff/file", nil, 0o644), os.WriteFile(top+"/data/file", nil, 0o644), os.WriteFile(top+"/hosts", nil, 0o644),
		unix.Mount("overlay", store+"/top/merged", "overlay", 0, "lowerdir="+store+"/l/SHORT,upperdir="+store+"/top/diff,workdir="+store+"/top/work"),
	)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(store+"/top/merged", 0); err != nil {
			t.Error(err)
		}
	})
	text := strings.NewReplacer("/docker/merged", store+"/top/merged", "/volumes/data", top+"/data", "/docker/hosts", top+"/hosts").Replace(docker)
	b.writeFile(t, filepath.Join(b.bundle, specName), text, 0o644)
	real := filepath.Join(top, "real")
	b.writeFile(t, real, "#!/bin/sh\necho \"args: $*\"\nstat -c '%n %u' "+b.dir.RootFS()+" "+b.dir.RootFS()+"/file "+b.dir.Mounts()+"/v*/file "+b.dir.Mounts()+"/v1\nls "+b.dir.Mounts()+"\n", 0o755)
	b.record = seam.Record{ID: id, Runtime: seam.Runtime{Path: real, Args: []string{"--own"}}, UserNamespace: userns,
		MappedMounts: []string{"/data"}, MappedFiles: []string{"/etc/hosts", "/etc/hostname"}}
	return b
}

func (b *bundleTest) writeFile(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

func (b *bundleTest) writeRecord(t *testing.T) {
	t.Helper()
	text, err := b.record.Encode()
	if err != nil {
		t.Fatal(err)
	}
	b.writeFile(t, b.dir.RecordPath(id), string(text), 0o600)
}

// call runs cridock-runtime, and returns its output and the last message in its log.
func (b *bundleTest) call(t *testing.T, args ...string) (output, message string, err error) {
	t.Helper()
	log := filepath.Join(b.bundle, "log.json")
	cmd := exec.Command("/proc/self/exe", append([]string{"--cridock-dir=" + string(b.dir), "--log", log, "--log-format", "json"}, args...)...)
	cmd.Env = append(os.Environ(), "CRIDOCK_RUNTIME_TEST=1")
	out, err := cmd.CombinedOutput()
	text, readErr := os.ReadFile(log)
	if readErr == nil {
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		var entry struct{ Level, Msg string }
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &entry); err != nil || entry.Level != "error" {
			t.Errorf("log %q: %v", text, err)
		}
		message = entry.Msg
	}
	return string(out), message, err
}

func (b *bundleTest) create(t *testing.T) (output, message string, err error) {
	t.Helper()
	return b.call(t, "create", "--bundle", b.bundle, id)
}

func TestCreate(t *testing.T) {
	b := newBundle(t)
	b.writeRecord(t)
	out, message, err := b.create(t)
	if err != nil || message != "" {
		t.Fatal(err, message, out)
	}
	for _, want := range []string{
		fmt.Sprintf("args: --own --log %s/log.json --log-format json create --bundle %s %s\n", b.bundle, b.bundle, id),
		b.dir.RootFS() + " 100000\n", b.dir.RootFS() + "/file 100000\n", b.dir.Mounts() + "/v0/file 100000\n", b.dir.Mounts() + "/v1 100000\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the real runtime does not see %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "layers\n") {
		t.Error("the layers are still mounted")
	}
	s, err := readSpec(b.bundle)
	if err != nil {
		t.Fatal(err)
	}
	binds, err := s.binds(b.bundle)
	if root, _ := s.rootPath(b.bundle); err != nil || root != b.dir.RootFS() || binds[0].source != b.dir.Mounts()+"/v0" {
		t.Errorf("the bundle has root %s and mounts %+v, %v", root, binds, err)
	}
	if left, err := os.ReadDir(b.dir.RootFS()); err != nil || len(left) > 0 {
		t.Errorf("on the host the root file system has %v, %v", left, err)
	}
}

// TestCreateUnmapped leaves mounts alone that are not recorded.
func TestCreateUnmapped(t *testing.T) {
	b := newBundle(t)
	b.record.MappedMounts = nil
	b.writeRecord(t)
	if out, message, err := b.create(t); err != nil || !strings.Contains(out, b.dir.Mounts()+"/v0/file 0\n") {
		t.Error(err, message, out)
	}
}

// TestCreateNoOverlay clones a root file system that is a plain directory.
func TestCreateNoOverlay(t *testing.T) {
	b := newBundle(t)
	b.writeRecord(t)
	s, err := readSpec(b.bundle)
	if err != nil {
		t.Fatal(err)
	}
	s.setRootPath(filepath.Join(filepath.Dir(b.bundle), "data"))
	if err := s.write(b.bundle); err != nil {
		t.Fatal(err)
	}
	if out, message, err := b.create(t); err != nil || !strings.Contains(out, b.dir.RootFS()+"/file 100000\n") {
		t.Error(err, message, out)
	}
}

// TestCreateFails: the real runtime is not executed, the bundle stays as it is, and
// the log says why.
func TestCreateFails(t *testing.T) {
	for name, tc := range map[string]struct {
		prepare func(*testing.T, *bundleTest)
		want    string
	}{
		"no record":      {func(*testing.T, *bundleTest) {}, "no record of container " + id},
		"unknown fields": {func(t *testing.T, b *bundleTest) { b.writeFile(t, b.dir.RecordPath(id), `{"version":1,"x":2}`, 0o600) }, "unknown field"},
		"later version":  {func(t *testing.T, b *bundleTest) { b.writeFile(t, b.dir.RecordPath(id), `{"version":6,"x":2}`, 0o600) }, "version 6"},
		"a later field": {func(t *testing.T, b *bundleTest) {
			b.writeFile(t, b.dir.RecordPath(id), `{"version":1,"id":"`+id+`","runtime":{"path":"runc"},"resources":{}}`, 0o600)
		}, "version 1, want 2"},
		"limits of a bundle with something else": {func(t *testing.T, b *bundleTest) {
			b.limitsOnly(&seam.Resources{Memory: &seam.Memory{Limit: 4, Swap: 4}})
			b.writeRecord(t)
			b.writeFile(t, filepath.Join(b.bundle, specName), `{"linux": {"resources": []}}`, 0o644)
		}, "not an object"},
		"public record": {func(t *testing.T, b *bundleTest) {
			b.writeRecord(t)
			if err := os.Chmod(b.dir.RecordPath(id), 0o666); err != nil {
				t.Fatal(err)
			}
		}, "permission denied"},
		"missing mount":   {func(t *testing.T, b *bundleTest) { b.record.MappedMounts = []string{"/other"}; b.writeRecord(t) }, "bind mounts on /other"},
		"missing runtime": {func(t *testing.T, b *bundleTest) { b.record.Runtime.Path = "/nowhere"; b.writeRecord(t) }, "/nowhere"},
		"itself": {func(t *testing.T, b *bundleTest) {
			self, err := os.Readlink("/proc/self/exe")
			if err != nil {
				t.Fatal(err)
			}
			b.record.Runtime.Path = self
			b.writeRecord(t)
		}, "itself"},
		"process that is gone": {func(t *testing.T, b *bundleTest) {
			u := *userns
			u.Join = &seam.Process{PID: 1 << 30, Device: 4, Inode: 1}
			b.record.UserNamespace = &u
			b.writeRecord(t)
		}, "user namespace of the sandbox"},
		"process of the host": {func(t *testing.T, b *bundleTest) {
			var st unix.Stat_t
			if err := unix.Stat("/proc/self/ns/user", &st); err != nil {
				t.Fatal(err)
			}
			u := *userns
			u.Join = &seam.Process{PID: os.Getpid(), Device: st.Dev, Inode: st.Ino}
			b.record.UserNamespace = &u
			b.writeRecord(t)
		}, "uid_map is"},
		"host network": {func(t *testing.T, b *bundleTest) {
			b.writeRecord(t)
			text, err := os.ReadFile(filepath.Join(b.bundle, specName))
			if err != nil {
				t.Fatal(err)
			}
			b.writeFile(t, filepath.Join(b.bundle, specName), strings.Replace(string(text), `{"type": "network"}, `, "", 1), 0o644)
		}, "host's network"},
		"no configuration": {func(t *testing.T, b *bundleTest) {
			b.writeRecord(t)
			if err := os.Remove(filepath.Join(b.bundle, specName)); err != nil {
				t.Fatal(err)
			}
		}, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBundle(t)
			tc.prepare(t, b)
			before, _ := os.ReadFile(filepath.Join(b.bundle, specName))
			out, message, err := b.create(t)
			if err == nil || strings.Contains(out, "args:") {
				t.Errorf("the real runtime was executed: %s", out)
			}
			if !strings.Contains(message, tc.want) {
				t.Errorf("the log says %q, want %q", message, tc.want)
			}
			after, _ := os.ReadFile(filepath.Join(b.bundle, specName))
			if string(before) != string(after) {
				t.Error("the bundle was changed")
			}
		})
	}
}

// TestOtherCommands pass unchanged, without a record to the default runtime.
func TestOtherCommands(t *testing.T) {
	b := newBundle(t)
	b.writeFile(t, b.record.Runtime.Path, "#!/bin/sh\necho real: $*\n", 0o755)
	b.writeRecord(t)
	for _, args := range [][]string{{"delete", "--force", id}, {"state", id}, {"kill", id, "9"}, {"exec", "--process", "/p", id}} {
		if out, message, err := b.call(t, args...); err != nil || !strings.Contains(out, "json "+strings.Join(args, " ")+"\n") {
			t.Errorf("%v: %v %s %s", args, err, message, out)
		}
	}
	bin := t.TempDir()
	b.writeFile(t, filepath.Join(bin, defaultRuntime), "#!/bin/sh\necho default: $*\n", 0o755)
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	if err := os.Remove(b.dir.RecordPath(id)); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"delete", "--force", id}, {"features"}, {"--version"}} {
		if out, message, err := b.call(t, args...); err != nil || !strings.Contains(out, "default: ") {
			t.Errorf("%v: %v %s %s", args, err, message, out)
		}
	}
	for _, args := range [][]string{{"run", "--bundle", b.bundle, id}, {"restore", "--bundle", b.bundle, id}, {"exec", "--process", "/p", id}} {
		if out, _, err := b.call(t, args...); err == nil || strings.Contains(out, "default: ") {
			t.Errorf("%v: a runtime was executed: %s", args, out)
		}
	}
}

// TestGiveStreams looks at the owner of the pipe that is the standard output.
func TestGiveStreams(t *testing.T) {
	b := newBundle(t)
	b.writeFile(t, b.record.Runtime.Path, "#!/bin/sh\nstat -L -c 'stdout %u:%g' /dev/stdout\n", 0o755)
	b.writeRecord(t)
	if out, _, err := b.call(t, "exec", "--process", "/p", id); err != nil || out != "stdout 100000:200000\n" {
		t.Error(err, out)
	}
	if out, _, err := b.call(t, "state", id); err != nil || out != "stdout 0:0\n" {
		t.Error(err, out)
	}
}

// TestReplaceNull: the new device is null, and another inode than the host's.
func TestReplaceNull(t *testing.T) {
	needs.Root(t, "it mounts")
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	var before, after unix.Stat_t
	err = unix.Fstat(int(f.Fd()), &before)
	if err == nil {
		err = replaceNull(int(f.Fd()))
	}
	if err == nil {
		err = unix.Fstat(int(f.Fd()), &after)
	}
	if err != nil {
		t.Fatal(err)
	}
	if after.Rdev != nullDevice || after.Mode != unix.S_IFCHR|0o666 || after.Dev == before.Dev {
		t.Errorf("it is %+v, before %+v", after, before)
	}
	if n, err := f.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("read %d, %v", n, err)
	}
}
