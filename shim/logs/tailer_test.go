package logs

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/cridock/cridock/internal/beneath"
	"github.com/cridock/cridock/internal/needs"
)

// node is a machine's directories for one container.
type node struct {
	tb     testing.TB
	docker *dockerLog
	src    Source
}

func newNode(tb testing.TB, maxSize int64, maxFile int) *node {
	tb.Helper()
	root := tb.TempDir()
	must(os.Mkdir(filepath.Join(root, "docker"), 0o700))
	d := newDockerLog(tb, filepath.Join(root, "docker"), maxSize, maxFile)
	return &node{tb: tb, docker: d, src: sourceIn(root)}
}

func (n *node) criPath() string { return n.src.CRIRoot.Path(n.src.CRILog) }

func sourceIn(root string) Source {
	return Source{
		ID:        "id",
		DockerLog: filepath.Join(root, "docker", "id-json.log"),
		CRIRoot:   beneath.Root(filepath.Join(root, "pods")),
		CRILog:    "pod/0.log",
		Position:  filepath.Join(root, "state", "id.position"),
	}
}

// run starts t and returns a function that stops it and waits.
func run(tb testing.TB, t *Tailer) (stop func()) {
	tb.Helper()
	ctx, cancel := context.WithCancel(tb.Context())
	ended := make(chan error, 1)
	go func() { ended <- t.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			tb.Errorf("Run: %v", err)
		}
	})
	tb.Cleanup(stop)
	return stop
}

func (n *node) start(t *Tailer) {
	n.tb.Helper()
	if err := t.Start(n.src); err != nil {
		n.tb.Fatal(err)
	}
}

func (n *node) drain(t *Tailer) {
	n.tb.Helper()
	ctx, cancel := context.WithTimeout(n.tb.Context(), time.Minute)
	defer cancel()
	if err := t.Drain(ctx, n.src.ID); err != nil {
		n.tb.Fatal(err)
	}
}

func (n *node) reopen(t *Tailer) {
	n.tb.Helper()
	if err := t.Reopen(n.tb.Context(), n.src.ID); err != nil {
		n.tb.Fatal(err)
	}
}

// cri returns everything the CRI log got, rotated files first, unpacked.
func (n *node) cri() string {
	n.tb.Helper()
	names, err := filepath.Glob(n.criPath() + ".*")
	must(err)
	slices.Sort(names)
	var all strings.Builder
	for _, name := range append(names, n.criPath()) {
		data, err := os.ReadFile(name)
		must(err)
		if strings.HasSuffix(name, ".gz") {
			z, err := gzip.NewReader(bytes.NewReader(data))
			must(err)
			data, err = io.ReadAll(z)
			must(err)
		}
		if len(data) > 0 && data[len(data)-1] != '\n' {
			n.tb.Errorf("%s ends in a torn line: %q", filepath.Base(name), data[max(0, len(data)-80):])
		}
		all.Write(data)
	}
	return all.String()
}

// texts returns what follows the tag in each CRI line.
func texts(cri string) []string {
	var list []string
	for line := range strings.Lines(cri) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		list = append(list, parts[len(parts)-1])
	}
	return list
}

// numbered writes the lines "line I" for from <= I < to.
func (n *node) numbered(from, to int) {
	for i := from; i < to; i++ {
		n.docker.write(stdout, "line "+strconv.Itoa(i)+"\n")
	}
}

// wantNumbered checks that the CRI log has exactly the lines 0..count-1 in order.
func (n *node) wantNumbered(count int) {
	n.tb.Helper()
	want := 0
	for line := range strings.Lines(n.cri()) {
		if !strings.HasSuffix(line, " stdout F line "+strconv.Itoa(want)+"\n") {
			n.tb.Fatalf("line %d is %q", want, line)
		}
		want++
	}
	if want != count {
		n.tb.Fatalf("%d lines, want %d", want, count)
	}
}

// eventually waits for a condition that a correct Tailer brings about soon.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatalf("timeout: %s", what)
		}
	}
}

func (n *node) eventuallyHas(text string) {
	n.tb.Helper()
	eventually(n.tb, "CRI log has "+text, func() bool {
		data, _ := os.ReadFile(n.criPath())
		return bytes.Contains(data, []byte(text))
	})
}

func TestFollow(t *testing.T) {
	n := newNode(t, 0, 1)
	n.docker.now = func() time.Time { return recordTime }
	tailer := New(Options{})
	n.start(tailer)
	if info, err := os.Stat(n.criPath()); err != nil || info.Mode().Perm() != 0o640 {
		t.Fatalf("no log file after Start: %v %v", info, err)
	}
	run(t, tailer)
	n.docker.write(stdout, "one\n")
	n.eventuallyHas("one")
	n.start(tailer)
	n.docker.write(stderr, "two\n")
	n.docker.write(stdout, strings.Repeat("x", 16<<10))
	n.docker.write(stdout, "rest\n")
	n.docker.write(stdout, "no line feed")
	n.drain(tailer)
	n.drain(tailer)
	const at = "2024-05-06T07:08:09.123456789Z "
	want := at + "stdout F one\n" + at + "stderr F two\n" + at + "stdout P " + strings.Repeat("x", 16<<10) + "\n" +
		at + "stdout F rest\n" + at + "stdout P no line feed\n"
	if diff := cmp.Diff(want, n.cri()); diff != "" {
		t.Error(diff)
	}
	if err := tailer.Reopen(t.Context(), n.src.ID); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Reopen of a drained container: %v", err)
	}
	if s := tailer.Stats(); s.Lines != 5 || s.LagBytes != 0 || s.Errors != 0 || s.Containers != 1 {
		t.Errorf("%+v", s)
	}
	for range 2 {
		if err := tailer.Remove(n.src.ID, n.src.Position); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(n.src.Position); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("position is left: %v", err)
	}
	if _, err := os.Stat(n.criPath()); err != nil {
		t.Error(err)
	}
	for _, err := range []error{tailer.Drain(t.Context(), n.src.ID), tailer.Reopen(t.Context(), n.src.ID)} {
		if !errdefs.IsNotFound(err) {
			t.Errorf("removed container: %v", err)
		}
	}
}

func TestTTY(t *testing.T) {
	n := newNode(t, 0, 1)
	n.src.TTY = true
	tailer := New(Options{})
	n.start(tailer)
	n.docker.write(stdout, "$ ls\r\n")
	n.drain(tailer)
	if got := n.cri(); !strings.HasSuffix(got, " stdout F $ ls\r\n") {
		t.Errorf("%q", got)
	}
}

func TestStartRefusesBadSources(t *testing.T) {
	root := t.TempDir()
	good := sourceIn(root)
	tailer := New(Options{})
	for name, spoil := range map[string]func(*Source){
		"no ID":             func(s *Source) { s.ID = "" },
		"relative CRI root": func(s *Source) { s.CRIRoot = "x" },
		"absolute CRI log":  func(s *Source) { s.CRILog = "/x" },
		"CRI log outside":   func(s *Source) { s.CRILog = "pod/../../x" },
		"relative position": func(s *Source) { s.Position = "" },
		"no source":         func(s *Source) { s.DockerLog = "" },
	} {
		src := good
		spoil(&src)
		if err := tailer.Start(src); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAdoption replaces a link to Docker's log by a CRI log that has all of it,
// hands the log back as a link, and takes it over once more.
func TestAdoption(t *testing.T) {
	n := newNode(t, 0, 0)
	const lines = 500
	for round := range 2 {
		n.numbered(round*lines, (round+1)*lines)
		if err := Symlink(n.src.DockerLog, n.src.CRIRoot, n.src.CRILog); err != nil {
			t.Fatal(err)
		}
		docker, err := os.ReadFile(n.src.DockerLog)
		must(err)
		n.carry()
		if is, err := IsSymlink(n.src.CRIRoot, n.src.CRILog); is || err != nil {
			t.Errorf("the log is a link: %t, %v", is, err)
		}
		n.wantNumbered((round + 1) * lines)
		if now, err := os.ReadFile(n.src.DockerLog); err != nil || !bytes.Equal(now, docker) {
			t.Errorf("Docker's log was touched: %v", err)
		}
	}
}

// carry copies everything there is with a new Tailer.
func (n *node) carry() {
	n.tb.Helper()
	tailer := New(Options{})
	stop := run(n.tb, tailer)
	n.start(tailer)
	n.drain(tailer)
	stop()
}

// TestBacklog starts a CRI log in the middle of Docker's, at a whole record, and
// continues there after a restart.
func TestBacklog(t *testing.T) {
	at := time.Date(2026, 3, 1, 10, 0, 0, 123456789, time.UTC)
	record := func(i int) string { return fmt.Sprintf("%036d", i) }
	size := int64(len(appendDocker(nil, at, stdout, []byte(record(0)+"\n"), "")) + 1)
	const records = 25
	for name, tc := range map[string]struct {
		backlog int64
		want    int
	}{
		"exactly some records":      {3 * size, 3},
		"not quite a record":        {3*size - 1, 2},
		"to the middle of a record": {4*size - 50, 3},
		"exactly a file":            {5 * size, 5},
		"into the file before":      {12*size + 7, 12},
		"as much as there is":       {records * size, records},
		"more than there is":        {1 << 40, records},
		"without bounds":            {0, records},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, 10*size, 5)
			n.src.Backlog = tc.backlog
			for i := range records {
				n.docker.writeAt(at.Add(time.Duration(i)*time.Second), stdout, record(i)+"\n")
			}
			n.carry()
			var want []string
			for i := range tc.want {
				want = append(want, record(records-tc.want+i))
			}
			if diff := cmp.Diff(want, texts(n.cri())); diff != "" {
				t.Errorf("the log begins with (-want +got):\n%s", diff)
			}
			n.docker.writeAt(at.Add(time.Hour), stdout, record(records)+"\n")
			n.carry()
			if diff := cmp.Diff(append(want, record(records)), texts(n.cri())); diff != "" {
				t.Errorf("and goes on with (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSymlink(t *testing.T) {
	src := sourceIn(t.TempDir())
	for _, target := range []string{"/elsewhere", src.DockerLog, src.DockerLog} {
		if err := Symlink(target, src.CRIRoot, src.CRILog); err != nil {
			t.Fatal(err)
		}
		if got, _ := src.CRIRoot.Readlink(src.CRILog); got != target {
			t.Errorf("link to %s", got)
		}
	}
	if is, err := IsSymlink(src.CRIRoot, src.CRILog); !is || err != nil {
		t.Error(is, err)
	}
	name := src.CRILog + "x"
	file := src.CRIRoot.Path(name)
	if is, err := IsSymlink(src.CRIRoot, name); is || err != nil {
		t.Error(is, err)
	}
	must(os.WriteFile(file, []byte("a CRI log"), 0o600))
	if is, err := IsSymlink(src.CRIRoot, name); is || err != nil {
		t.Error(is, err)
	}
	if err := Symlink(src.DockerLog, src.CRIRoot, name); err != nil {
		t.Error(err)
	}
	if got, _ := os.Readlink(file); got != src.DockerLog {
		t.Errorf("in place of a file there is a link to %q", got)
	}
	if left, _ := filepath.Glob(filepath.Dir(file) + "/*.tmp"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestDockerRotationUnderLoad(t *testing.T) {
	const lines = 50_000
	n := newNode(t, 40_000, 1000)
	tailer := New(Options{Settle: time.Millisecond})
	n.start(tailer)
	run(t, tailer)
	n.numbered(0, lines)
	n.drain(tailer)
	n.wantNumbered(lines)
	if n.docker.rotations < 50 {
		t.Errorf("only %d rotations", n.docker.rotations)
	}
	if s := tailer.Stats(); s.Losses != 0 || s.Malformed != 0 {
		t.Errorf("%+v", s)
	}
}

// The current file and its successor are deleted while being read: neither is lost.
func TestOpenFilesOutliveRotation(t *testing.T) {
	n := newNode(t, 0, 3)
	tailer := New(Options{})
	n.start(tailer)
	n.numbered(0, 10)
	f, _ := tailer.find(n.src.ID)
	b := getBuffers()
	step := func() {
		t.Helper()
		if _, err := f.step(b); err != nil {
			t.Fatal(err)
		}
	}
	step()
	n.numbered(10, 20)
	n.docker.rotate()
	n.numbered(20, 30)
	step() // reads to 20 and opens the successor
	for range 3 {
		n.docker.rotate()
	}
	step() // switches to the successor, which is deleted by now
	step()
	n.wantNumbered(30)
}

func TestLossIsMarked(t *testing.T) {
	n := newNode(t, 0, 2)
	n.docker.now = func() time.Time { return recordTime }
	tailer := New(Options{})
	n.start(tailer)
	n.numbered(0, 3)
	n.drain(tailer)
	for i := range 5 {
		n.docker.rotate()
		n.docker.now = func() time.Time { return recordTime.Add(time.Duration(i+1) * time.Hour) }
		n.docker.write(stderr, "file "+strconv.Itoa(i)+"\n")
	}
	for range 2 { // as if killed before the position was written
		keep, err := os.ReadFile(n.src.Position)
		must(err)
		tailer = New(Options{})
		n.start(tailer)
		n.drain(tailer)
		if s := tailer.Stats(); s.Losses != 1 {
			t.Errorf("%d losses", s.Losses)
		}
		must(os.WriteFile(n.src.Position, keep, 0o600))
	}
	got := strings.SplitAfter(n.cri(), "\n")
	want := []string{
		"2024-05-06T07:08:09.123456789Z stdout F line 0\n",
		"2024-05-06T07:08:09.123456789Z stdout F line 1\n",
		"2024-05-06T07:08:09.123456789Z stdout F line 2\n",
		"2024-05-06T11:08:09.123456789Z stderr F cridock: lines between 2024-05-06T07:08:09.123456789Z and " +
			"2024-05-06T11:08:09.123456789Z may be missing: Docker deleted its log file before it was read\n",
		"2024-05-06T11:08:09.123456789Z stderr F file 3\n",
		"2024-05-06T12:08:09.123456789Z stderr F file 4\n",
		"",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Docker deletes the current file and later ones while nobody reads.
func TestLossWhileFollowing(t *testing.T) {
	n := newNode(t, 0, 2)
	tailer := New(Options{})
	n.start(tailer)
	f, _ := tailer.find(n.src.ID)
	n.numbered(0, 3)
	if _, err := f.step(getBuffers()); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"a\n", "b\n", "c\n"} {
		n.docker.rotate()
		n.docker.write(stdout, text)
	}
	n.drain(tailer)
	got := texts(n.cri())
	if len(got) != 6 || !strings.HasPrefix(got[3], "cridock: ") || got[4] != "b" || got[5] != "c" {
		t.Errorf("%q", got)
	}
	if s := tailer.Stats(); s.Losses != 1 {
		t.Errorf("%+v", s)
	}
}

// The CRI log is ahead of the position by records that Docker has deleted.
func TestLossBehindPosition(t *testing.T) {
	n := newNode(t, 0, 2)
	tailer := New(Options{})
	n.start(tailer)
	n.numbered(0, 3)
	n.drain(tailer)
	behind, err := os.ReadFile(n.src.Position)
	must(err)
	n.numbered(3, 6)
	n.start(tailer)
	n.drain(tailer)
	must(os.WriteFile(n.src.Position, behind, 0o600))
	must(os.Truncate(n.criPath(), int64(len(n.cri())-3)))
	n.docker.rotate()
	n.docker.rotate()
	n.docker.write(stdout, "new\n")
	tailer = New(Options{})
	n.start(tailer)
	n.drain(tailer)
	got := texts(n.cri())
	if len(got) != 7 || got[4] != "line 4" || !strings.HasPrefix(got[5], "cridock: ") || got[6] != "new" {
		t.Errorf("%q", got)
	}
}

// A deleted file's inode number is reused for the next file: the position must not
// be taken for one in that file.
func TestInodeNumberUsedAgain(t *testing.T) {
	n := newNode(t, 0, 2)
	tailer := New(Options{})
	n.start(tailer)
	n.numbered(0, 3)
	n.drain(tailer)
	must(os.Truncate(n.docker.path, 0)) // the same inode, other records
	f, err := os.OpenFile(n.docker.path, os.O_WRONLY|os.O_APPEND, 0)
	must(err)
	n.docker.f = f
	n.numbered(3, 9)
	tailer = New(Options{})
	n.start(tailer)
	n.drain(tailer)
	if got := texts(n.cri()); len(got) != 10 || !strings.HasPrefix(got[3], "cridock: ") || got[4] != "line 3" {
		t.Errorf("%q", got)
	}
}

// TestRecoveryAtEveryByte runs a recovery for every length the CRI log can have had when the
// process was killed after the position was written last.
func TestRecoveryAtEveryByte(t *testing.T) {
	for _, havePosition := range []bool{true, false} {
		t.Run(fmt.Sprintf("position=%v", havePosition), func(t *testing.T) {
			n := newNode(t, 0, 2)
			tailer := New(Options{})
			n.start(tailer)
			n.numbered(0, 3)
			n.drain(tailer)
			behind, err := os.ReadFile(n.src.Position)
			must(err)
			before := len(n.cri())
			n.numbered(3, 6)
			n.start(tailer)
			n.drain(tailer)
			whole := n.cri()
			for size := before; size <= len(whole); size++ {
				must(os.Truncate(n.criPath(), int64(size)))
				if havePosition {
					must(os.WriteFile(n.src.Position, behind, 0o600))
				} else {
					must(os.Remove(n.src.Position))
				}
				tailer := New(Options{})
				n.start(tailer)
				n.drain(tailer)
				if diff := cmp.Diff(whole, n.cri()); diff != "" {
					t.Fatalf("%d bytes were there: %s", size, diff)
				}
			}
		})
	}
}

// The kubelet renamed the file; cridock was killed before ReopenContainerLog arrived.
func TestRestartBetweenRenameAndReopen(t *testing.T) {
	for _, cut := range []int64{0, 5, 40, 60} {
		n := newNode(t, 0, 2)
		tailer := New(Options{})
		n.start(tailer)
		n.numbered(0, 3)
		n.drain(tailer)
		behind, err := os.ReadFile(n.src.Position)
		must(err)
		n.numbered(3, 6)
		n.start(tailer)
		n.drain(tailer)
		must(os.Truncate(n.criPath(), int64(len(n.cri()))-cut))
		must(os.WriteFile(n.src.Position, behind, 0o600))
		must(os.Rename(n.criPath(), n.criPath()+".20240506-070809"))
		tailer = New(Options{})
		n.start(tailer)
		if _, err := os.Stat(n.criPath()); err != nil {
			t.Fatal(err)
		}
		if cut == 40 { // and then it comes
			n.reopen(tailer)
		}
		n.numbered(6, 9)
		n.drain(tailer)
		n.wantNumbered(9)
	}
}

// The kubelet undoes the rename, over the file created by Reopen.
func TestKubeletRenamesBack(t *testing.T) {
	n := newNode(t, 0, 2)
	tailer := New(Options{})
	n.start(tailer)
	run(t, tailer)
	n.numbered(0, 3)
	n.eventuallyHas("line 2")
	must(os.Rename(n.criPath(), n.criPath()+".20240506-070809"))
	n.reopen(tailer)
	n.numbered(3, 6)
	n.eventuallyHas("line 5")
	must(os.Rename(n.criPath()+".20240506-070809", n.criPath()))
	n.numbered(6, 9)
	n.drain(tailer)
	n.wantNumbered(9)
}

func TestReopenWithoutRename(t *testing.T) {
	n := newNode(t, 0, 2)
	tailer := New(Options{})
	n.start(tailer)
	run(t, tailer)
	n.numbered(0, 3)
	n.reopen(tailer)
	n.numbered(3, 6)
	n.reopen(tailer)
	n.drain(tailer)
	n.wantNumbered(6)
}

// rotateLikeKubelet renames and compresses as kubelet's container log manager does.
func (n *node) rotateLikeKubelet(serial int, reopen func()) {
	rotated, _ := filepath.Glob(n.criPath() + ".*")
	for _, name := range rotated {
		if strings.HasSuffix(name, ".gz") {
			continue
		}
		data, err := os.ReadFile(name)
		must(err)
		var packed bytes.Buffer
		z := gzip.NewWriter(&packed)
		_, err = z.Write(data)
		must(err)
		must(z.Close())
		must(os.WriteFile(name+".tmp", packed.Bytes(), 0o640))
		must(os.Rename(name+".tmp", name+".gz"))
		must(os.Remove(name))
	}
	must(os.Rename(n.criPath(), fmt.Sprintf("%s.20240506-%06d", n.criPath(), serial)))
	reopen()
}

func TestKubeletRotationUnderLoad(t *testing.T) {
	const lines = 60_000
	n := newNode(t, 200_000, 1000)
	tailer := New(Options{Settle: time.Millisecond})
	n.start(tailer)
	run(t, tailer)
	written := make(chan struct{})
	go func() {
		defer close(written)
		n.numbered(0, lines)
	}()
	serial := 0
	for done := false; !done; serial++ {
		select {
		case <-written:
			done = true
		case <-time.After(5 * time.Millisecond):
		}
		n.rotateLikeKubelet(serial, func() { n.reopen(tailer) })
	}
	n.drain(tailer)
	n.wantNumbered(lines)
	t.Logf("%d kubelet rotations, %d of Docker's", serial, n.docker.rotations)
}

func mountTmpfs(t *testing.T, dir string, size string) {
	t.Helper()
	needs.Root(t, "mounts a small file system")
	must(os.MkdirAll(dir, 0o755))
	err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size)
	needs.That(t, err == nil, "cannot mount tmpfs: %v", err)
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

func TestDiskFull(t *testing.T) {
	const lines = 20_000
	n := newNode(t, 100_000, 1000)
	dir := filepath.Dir(n.criPath())
	mountTmpfs(t, dir, "256k")
	tailer := New(Options{RetryMin: time.Millisecond, RetryMax: 10 * time.Millisecond})
	stop := run(t, tailer)
	n.start(tailer)
	n.numbered(0, lines)
	eventually(t, "trouble is counted", func() bool {
		s := tailer.Stats()
		return s.Errors > 3 && s.Troubled == 1 && s.LagBytes > 0 && s.MostBehind != "" && s.MostBehindBytes == s.LagBytes
	})

	// The reason is known when an attempt has ended in time.
	for timeout := 2 * time.Second; ; timeout *= 2 {
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		err := tailer.Drain(ctx, n.src.ID)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, syscall.ENOSPC) && timeout > 30*time.Second {
			t.Fatalf("Drain: %v", err)
		}
		if errors.Is(err, syscall.ENOSPC) {
			break
		}
	}
	// A rotation in this state must leave whole lines on both sides.
	must(os.Rename(n.criPath(), n.criPath()+".20240506-070809"))
	n.reopen(tailer)
	// And so must a restart.
	stop()
	tailer = New(Options{RetryMin: time.Millisecond, RetryMax: 10 * time.Millisecond})
	run(t, tailer)
	n.start(tailer)
	must(syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=16m"))
	n.drain(tailer)
	n.wantNumbered(lines)
	eventually(t, "the trouble is over", func() bool { return tailer.Stats().Troubled == 0 })
}

func TestLogDirectoryGone(t *testing.T) {
	n := newNode(t, 0, 1)
	tailer := New(Options{RetryMin: time.Millisecond, RetryMax: 10 * time.Millisecond})
	n.start(tailer)
	run(t, tailer)
	n.docker.write(stdout, "before\n")
	n.eventuallyHas("before")
	must(os.RemoveAll(filepath.Dir(n.criPath())))
	n.numbered(0, 10)
	eventually(t, "trouble", func() bool { return tailer.Stats().Errors > 2 })
	must(os.MkdirAll(filepath.Dir(n.criPath()), 0o755))
	n.numbered(10, 20)
	n.eventuallyHas("line 19")
	n.drain(tailer)
	n.wantNumbered(20)
}

// A container whose log cannot be written must not delay the others.
func TestTroubleOfOneDelaysNoOther(t *testing.T) {
	bad, good := newNode(t, 0, 1), newNode(t, 0, 1)
	bad.src.ID = "bad"
	tailer := New(Options{})
	bad.start(tailer)
	good.start(tailer)
	run(t, tailer)
	f, err := tailer.find("bad")
	must(err)
	must(f.lock(t.Context())) // as a write that hangs would
	bad.numbered(0, 10)
	good.numbered(0, 10)
	good.eventuallyHas("line 9")
	good.drain(tailer)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := tailer.Reopen(ctx, "bad"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Reopen: %v", err)
	}
	f.unlock()
	bad.drain(tailer)
	bad.wantNumbered(10)
}

func TestWaitsForDockerLog(t *testing.T) {
	root := t.TempDir()
	src := sourceIn(root)
	must(os.Mkdir(filepath.Dir(src.DockerLog), 0o700))
	tailer := New(Options{})
	run(t, tailer)
	if err := tailer.Start(src); err != nil {
		t.Fatal(err)
	}
	f, _ := tailer.find(src.ID)
	eventually(t, "idle", func() bool { <-f.run.wait(); return true })
	n := &node{tb: t, docker: newDockerLog(t, filepath.Dir(src.DockerLog), 0, 1), src: src}
	n.numbered(0, 5)
	n.eventuallyHas("line 4")
	n.wantNumbered(5)
}

func TestDamagedDockerLog(t *testing.T) {
	n := newNode(t, 0, 3)
	tailer := New(Options{})
	n.start(tailer)
	n.docker.write(stdout, "one\n")
	_, err := n.docker.f.WriteString("no record\n" + strings.Repeat("\x00", 3<<20))
	must(err)
	n.docker.write(stdout, "two\n")
	_, err = n.docker.f.WriteString(`{"log":"torn by rot`)
	must(err)
	n.docker.rotate()
	n.docker.write(stdout, "three\n")
	n.drain(tailer)
	if diff := cmp.Diff([]string{"one", "two", "three"}, texts(n.cri())); diff != "" {
		t.Error(diff)
	}
	if s := tailer.Stats(); s.Malformed < 3 || s.Lines != 3 {
		t.Errorf("%+v", s)
	}
}

func TestPositionRoundTrip(t *testing.T) {
	p := position{offset: 1 << 40, sum: 7, sumLen: 64, criInode: 1<<64 - 1, base: -5, last: recordTime, same: 3}
	got, err := decodePosition(append(p.encode(), "left over from a longer record\n"...))
	if err != nil || got != p {
		t.Errorf("%+v %v", got, err)
	}
	for _, bad := range []string{"", "\n", "x", string(p.encode()[1:]), strings.Replace(string(p.encode()), "64", "65", 1)} {
		if _, err := decodePosition([]byte(bad)); !errors.Is(err, errNoPosition) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// rootOf undoes sourceIn.
func rootOf(n *node) string { return filepath.Dir(filepath.Dir(n.src.DockerLog)) }
