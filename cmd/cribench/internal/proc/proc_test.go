package proc

import (
	"errors"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"syscall"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	p, err := parseStat([]byte("42 (a) b (c)) S 7 42 42 0 -1 4194560 1 2 3 4 150 50 9 9 20 0 11 0 12345 1 2 3\n"))
	if err != nil {
		t.Fatal(err)
	}
	if p.PID != 42 || p.PPID != 7 || p.Name != "a) b (c)" || p.CPU != 2*time.Second || p.Reaped != 180*time.Millisecond || p.Started != 12345 {
		t.Errorf("got %+v", p)
	}
	for _, bad := range []string{"", "42 S 1", "x (a) S 1", "42 (a) S 1 2"} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// processes are a daemon (10) with its containerd (11), a shim that is its
// child (12) with a container (13), a shim adopted by init (20) with a
// container (21), and a shim of another daemon (30).
func processes() map[int]Process {
	all := map[int]Process{}
	for _, p := range []Process{
		{PID: 1, Name: "init"},
		{PID: 10, PPID: 1, Name: "dockerd"},
		{PID: 11, PPID: 10, Name: "containerd"},
		{PID: 12, PPID: 11, Name: "containerd-shim"},
		{PID: 13, PPID: 12, Name: "sh"},
		{PID: 20, PPID: 1, Name: "containerd-shim-runc-v2", Args: []string{"shim", "-address", "/run/a.sock"}},
		{PID: 21, PPID: 20, Name: "sh"},
		{PID: 30, PPID: 1, Name: "containerd-shim-runc-v2", Args: []string{"shim", "-address", "/run/b.sock"}},
	} {
		all[p.PID] = p
	}
	return all
}

func TestSetIsTreeAndShimsWithoutContainers(t *testing.T) {
	all := processes()
	found := descendants(all, []int{10})
	addShims(found, all, func(path string) (int, error) {
		switch path {
		case "/proc/20/root/run/a.sock":
			return 11, nil
		case "/proc/30/root/run/b.sock":
			return 99, nil
		}
		return 0, errors.New("unexpected " + path)
	})
	got := slices.Sorted(maps.Keys(found))
	if want := []int{10, 11, 12, 20}; !slices.Equal(got, want) {
		t.Errorf("found %v, want %v", got, want)
	}
}

// ownSet is this process, by a socket that it serves.
func ownSet(t *testing.T) Set {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return Set{Sockets: []string{path}}
}

func TestTreeCountsReapedChildren(t *testing.T) {
	set := ownSet(t)
	before, err := set.Tree()
	if err != nil {
		t.Fatal(err)
	}
	// A tenth of a second of CPU time is ten ticks of the clock.
	busy := exec.CommandContext(t.Context(), "sh", "-c", "while :; do :; done")
	busy.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := busy.Start(); err != nil {
		t.Fatal(err)
	}
	for cpu := time.Duration(0); cpu < 100*time.Millisecond; {
		p, gone := snapshotOf(busy.Process.Pid)
		if gone {
			t.Fatal("the busy process has exited")
		}
		cpu = p.CPU
	}
	_ = busy.Process.Kill()
	_ = busy.Wait()
	after, err := set.Tree()
	if err != nil {
		t.Fatal(err)
	}
	var sum time.Duration
	for _, cpu := range SpentByName(before, after) {
		sum += cpu
	}
	if sum < 100*time.Millisecond {
		t.Errorf("spent %v, want at least the child's 100 ms", sum)
	}
}

func TestSpentByName(t *testing.T) {
	got := SpentByName(map[string]time.Duration{"a": 3, "gone": 2}, map[string]time.Duration{"a": 10, "new": 1})
	if want := map[string]time.Duration{"a": 7, "gone": -2, "new": 1}; !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestFindThisProcessBySocketAndName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	found, err := Set{Sockets: []string{path}}.Find()
	if err != nil {
		t.Fatal(err)
	}
	self, ok := found[os.Getpid()]
	if !ok {
		t.Fatalf("found %v, want this process, %d", found, os.Getpid())
	}
	byName, err := Set{Names: []*regexp.Regexp{regexp.MustCompile("^" + regexp.QuoteMeta(self.Name) + "$")}}.Find()
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := byName[os.Getpid()]; !ok {
		t.Errorf("the name %q does not find this process", self.Name)
	}
}

func TestUsageOfThisProcess(t *testing.T) {
	set := ownSet(t)
	u, err := set.Usage()
	if err != nil {
		t.Fatal(err)
	}
	if u.Total() < 1<<20 {
		t.Errorf("a Go test of %d bytes", u.Total())
	}
	before, err := set.CPU()
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(50 * time.Millisecond); time.Now().Before(end); {
		_ = 0 // busy, so that the CPU time clock advances
	}
	after, err := set.CPU()
	if err != nil {
		t.Fatal(err)
	}
	if spent := Spent(before, after); spent < 0 || spent > time.Minute {
		t.Errorf("spent %v", spent)
	}
}

func TestFindFailsWithoutServer(t *testing.T) {
	if _, err := (Set{Sockets: []string{filepath.Join(t.TempDir(), "none")}}).Find(); err == nil {
		t.Error("a socket that nobody serves has processes")
	}
}

func TestListeningInode(t *testing.T) {
	const table = "Num       RefCount Protocol Flags    Type St Inode Path\n" +
		"0000000000000000: 00000003 00000000 00000000 0001 03 111 /run/x.sock\n" +
		"0000000000000000: 00000002 00000000 00010000 0001 01 222 /run/x.sock\n"
	if got := listeningInode(table, "/run/x.sock"); got != "222" {
		t.Errorf("inode %q, want 222", got)
	}
	if got := listeningInode(table, "/run/y.sock"); got != "" {
		t.Errorf("inode %q of a socket that is not there", got)
	}
}

func TestSpentCountsNewProcesses(t *testing.T) {
	a, b := [2]uint64{1, 1}, [2]uint64{2, 5}
	before := map[[2]uint64]time.Duration{a: time.Second, {3, 3}: time.Hour}
	after := map[[2]uint64]time.Duration{a: 3 * time.Second, b: time.Second}
	if got := Spent(before, after); got != 3*time.Second {
		t.Errorf("spent %v, want 3s", got)
	}
}
