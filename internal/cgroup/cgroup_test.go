package cgroup

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cridock/cridock/internal/beneath"
)

// TestGone: a process may exit before its files are opened, or between the open
// and the read or write, as that of a short-lived container does.
func TestGone(t *testing.T) {
	cmd := exec.Command("sleep", "3600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read, readErr := os.Open(fmt.Sprintf("/proc/%d/cgroup", cmd.Process.Pid))
	write, writeErr := os.OpenFile(fmt.Sprintf("/proc/%d/oom_score_adj", cmd.Process.Pid), os.O_WRONLY, 0)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if readErr != nil || writeErr != nil {
		t.Fatal(readErr, writeErr)
	}
	defer func() { _, _ = read.Close(), write.Close() }()
	_, opened := os.ReadFile(read.Name())
	_, readErr = io.ReadAll(read)
	_, writeErr = write.WriteString("1000")
	for what, err := range map[string]error{"open": opened, "read": readErr, "write": writeErr} {
		if !Gone(err) {
			t.Errorf("%s after the process has exited: got %v, want an error that says so", what, err)
		}
	}
	if _, err := os.ReadFile("/proc/self/cgroup"); err != nil || Gone(err) {
		t.Errorf("a running process: got %v", err)
	}
	var node Node
	if files, err := node.Files(cmd.Process.Pid, "memory.high"); files != nil || err != nil {
		t.Errorf("files of it: %v, %v; want none", files, err)
	}
	if pids, err := node.Processes(cmd.Process.Pid); pids != nil || err != nil {
		t.Errorf("processes of it: %v, %v; want none", pids, err)
	}
	if err := node.SetOOMScoreAdj(fmt.Sprint(cmd.Process.Pid), 1000); err != nil {
		t.Error(err)
	}
}

func TestHasController(t *testing.T) {
	v1 := newNode(t, false, version1, map[string]string{"hugetlb/cgroup.procs": "", "memory/cgroup.procs": "", "pids/other": ""})
	v2 := newNode(t, true, version2, map[string]string{"cgroup.controllers": "cpu hugetlb memory\n"})
	for _, n := range []Node{v1, v2} {
		for name, want := range map[string]bool{"hugetlb": true, "memory": true, "huge": false, "pids": false} {
			if got, err := n.HasController(name); got != want || err != nil {
				t.Errorf("%s, version 2 %v: %v, %v; want %v", name, n.V2, got, err, want)
			}
		}
	}
	if got, err := (Node{Root: t.TempDir(), V2: true}).HasController("hugetlb"); got || err == nil {
		t.Errorf("without a list: %v, %v; want an error", got, err)
	}
}

// newNode returns a node with a process 7 and these files.
func newNode(t *testing.T, v2 bool, membership string, files map[string]string) Node {
	t.Helper()
	n := Node{Root: filepath.Join(t.TempDir(), "cgroup"), Proc: filepath.Join(t.TempDir(), "proc"), V2: v2}
	put(t, filepath.Join(n.Proc, "7/cgroup"), membership)
	for name, value := range files {
		put(t, filepath.Join(n.Root, name), value)
	}
	return n
}

func put(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

const (
	version1 = "12:hugetlb:/h/c\n5:cpu,cpuacct:/a/c\n4:memory:/a/c\n1:name=systemd:/a/c\n0::/u/c\n"
	version2 = "0::/kubepods/c\n"
)

func TestFiles(t *testing.T) {
	for _, test := range []struct {
		membership, file, want string
		v2                     bool
	}{
		{version1, "memory.high", "memory/a/c/memory.high", false},
		{version1, "cpuacct.usage", "cpuacct/a/c/cpuacct.usage", false},
		{version1, "hugetlb.2MB.max", "hugetlb/h/c/hugetlb.2MB.max", false},
		{version1, "memory.high", "u/c/memory.high", true},
		{version1, "pids.max", "", false},
		{version2, "memory.high", "kubepods/c/memory.high", true},
		{version2, "memory.high", "", false},
		{"0::/\n", "memory.high", "memory.high", true},
		{"0::/../c\n", "memory.high", "", true},
		{version2, "../memory.high", "", true},
		{version2, ".procs", "", true},
		{"0:\n", "memory.high", "", true},
	} {
		n := newNode(t, test.v2, test.membership, nil)
		files, err := n.Files(7, "x.y", test.file)
		if err != nil || len(files) != 2 {
			t.Fatalf("%v, %v; want two files", files, err)
		}
		got := ""
		if files[1] != (File{}) {
			got = strings.TrimPrefix(files[1].Root.Path(files[1].Name), n.Root+"/")
		}
		if got != test.want {
			t.Errorf("%s in %q (v2: %t) is %q, want %q", test.file, test.membership, test.v2, got, test.want)
		}
	}
	n := newNode(t, true, version2, nil)
	if files, err := n.Files(7); files != nil || err != nil {
		t.Errorf("no names: %v, %v", files, err)
	}
	put(t, filepath.Join(n.Proc, "8"), "") // neither a directory nor missing
	if files, err := n.Files(8, "memory.high"); files != nil || err == nil || !strings.Contains(err.Error(), "process 8") {
		t.Errorf("unreadable: %v, %v", files, err)
	}
}

func TestReadWrite(t *testing.T) {
	n := newNode(t, true, version2, map[string]string{"kubepods/c/memory.high": " max\n"})
	files, err := n.Files(7, "memory.high", "memory.low", "memory.link", "../x")
	if err != nil {
		t.Fatal(err)
	}
	high, low, link, none := files[0], files[1], files[2], files[3]
	if value, err := high.Read(); value != "max" || err != nil {
		t.Errorf("%q, %v; want max", value, err)
	}
	if err := high.Write("1000"); err != nil {
		t.Error(err)
	}
	if value, err := high.Read(); value != "1000" || err != nil {
		t.Errorf("%q, %v; want what was written", value, err)
	}
	for what, f := range map[string]File{"missing": low, "without a hierarchy": none} {
		if _, err := f.Read(); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("read of one %s: %v", what, err)
		}
		if err := f.Write("1"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("write of one %s: %v", what, err)
		}
	}
	// Links are not followed, neither to a file nor to a directory.
	outside := filepath.Join(t.TempDir(), "outside")
	put(t, outside, "old")
	if err := os.Symlink(outside, link.Root.Path(link.Name)); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Dir(outside), filepath.Join(n.Root, "linked")); err != nil {
		t.Fatal(err)
	}
	for _, f := range []File{link, {Root: beneath.Root(n.Root), Name: "linked/outside"}} {
		if _, err := f.Read(); !beneath.IsRefused(err) {
			t.Errorf("read over a link: %v, want it refused", err)
		}
		if err := f.Write("new"); !beneath.IsRefused(err) {
			t.Errorf("write over a link: %v, want it refused", err)
		}
	}
	if b, err := os.ReadFile(outside); string(b) != "old" || err != nil {
		t.Errorf("the file outside has %q, %v", b, err)
	}
}

func TestProcesses(t *testing.T) {
	for _, test := range []struct {
		what, membership string
		files            map[string]string
		v2               bool
		want             []string
	}{
		{"version 2", version2, map[string]string{"kubepods/c/cgroup.procs": "7\n8\n"}, true, []string{"7", "8"}},
		{"version 1", version1, map[string]string{"memory/a/c/cgroup.procs": "9\n7\n"}, false, []string{"9", "7"}},
		{"no memory controller", "3:cpu:/a\n", map[string]string{"cpu/a/cgroup.procs": "7\n8\n"}, false, []string{"7"}},
		{"not visible", "0::/../c\n", map[string]string{"c/cgroup.procs": "1\n"}, true, []string{"7"}},
		{"unreadable", version2, nil, true, []string{"7"}},
	} {
		pids, err := newNode(t, test.v2, test.membership, test.files).Processes(7)
		if err != nil {
			t.Errorf("%s: %v", test.what, err)
		}
		if diff := cmp.Diff(test.want, pids); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.what, diff)
		}
	}
}

func TestSetOOMScoreAdj(t *testing.T) {
	n := newNode(t, true, version2, nil)
	file := filepath.Join(n.Proc, "7/oom_score_adj")
	put(t, file, "")
	if err := n.SetOOMScoreAdj("7", -998); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(file); string(b) != "-998" || err != nil {
		t.Errorf("oom_score_adj is %q, %v", b, err)
	}
	// The names come from a file in the cgroup.
	put(t, filepath.Join(filepath.Dir(n.Proc), "oom_score_adj"), "old")
	if err := n.SetOOMScoreAdj("..", 1); err == nil {
		t.Error("a process ID leads out of /proc")
	}
}

// FuzzFind: whatever cgroup a process reports, limits are written below the
// mounted control groups.
func FuzzFind(f *testing.F) {
	f.Add("0::/kubepods/pod1/c\n", "memory.high")
	f.Add("0::/../../../etc\n", "memory.high")
	f.Add("5:memory:/docker/c\n4:cpu,cpuacct:/docker/c\n", "cpu.shares")
	f.Add("5:../..:/x\n", "../...")
	f.Add("0::/docker/c\n", "../x")
	f.Fuzz(func(t *testing.T, membership, file string) {
		for _, v2 := range []bool{true, false} {
			found, ok := Node{Root: "/cg", V2: v2}.find(membership, file)
			if !ok {
				continue
			}
			path := found.Root.Path(found.Name)
			if rest, below := strings.CutPrefix(path, "/cg/"); !below || !filepath.IsLocal(rest) || filepath.Base(path) != file {
				t.Fatalf("%q is %q", file, path)
			}
		}
	})
}
