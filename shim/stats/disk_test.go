package stats

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/leakcheck"
	"github.com/cridock/cridock/internal/needs"
)

func write(t testing.TB, name string, size int) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
}

// measure walks a tree completely, in steps of n entries.
func measure(n int, roots, except []string) (bytes, inodes uint64) {
	w := newWalk(roots, except)
	defer w.close()
	for !w.step(n) {
	}
	return w.bytes, w.inodes
}

// du is an independent measurement of a tree's usage.
func du(t *testing.T, dir string, flag string) uint64 {
	t.Helper()
	out, err := exec.Command("du", "-s", "-x", flag, dir).Output()
	if err != nil {
		t.Fatal(err)
	}
	v, err := strconv.ParseUint(strings.Fields(string(out))[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestWalkAgreesWithDu(t *testing.T) {
	dir := t.TempDir()
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 2000 {
		name := dir
		for range random.IntN(6) {
			name = filepath.Join(name, fmt.Sprint("d", random.IntN(3)))
		}
		name = filepath.Join(name, fmt.Sprint("f", i))
		write(t, name, random.IntN(20000))
		switch random.IntN(10) {
		case 0:
			if err := os.Link(name, fmt.Sprint(dir, "/link", i)); err != nil {
				t.Fatal(err)
			}
		case 1:
			if err := os.Symlink("/", name+".symlink"); err != nil {
				t.Fatal(err)
			}
		case 2:
			if err := os.Truncate(name, 1<<30); err != nil { // with a hole in it
				t.Fatal(err)
			}
		}
	}
	unix.Sync() // ext4 and others allocate blocks late
	for _, n := range []int{1, 7, 1 << 20} {
		bytes, inodes := measure(n, []string{dir}, nil)
		if want := du(t, dir, "--block-size=1"); bytes != want {
			t.Errorf("steps of %d: %d bytes, du says %d", n, bytes, want)
		}
		if want := du(t, dir, "--inodes"); inodes != want {
			t.Errorf("steps of %d: %d inodes, du says %d", n, inodes, want)
		}
	}
}

func TestWalkLeavesOut(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/image/diff/a", 5000)
	write(t, dir+"/container/diff/b", 50000)
	write(t, dir+"/container/link", 10)
	_, inodes := measure(10, []string{dir, dir + "/not there"}, []string{dir + "/container/diff", dir + "/gone"})
	if want := uint64(6); inodes != want { // dir, image, diff, a, container, link
		t.Errorf("%d inodes, want %d", inodes, want)
	}
}

func TestWalkStaysOnItsFilesystem(t *testing.T) {
	needs.Root(t, "mounts a file system")
	// The thread keeps its mount namespace, so it must exit with the test.
	runtime.LockOSThread()
	dir := t.TempDir()
	write(t, dir+"/other/hidden", 10)
	write(t, dir+"/file", 10)
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir+"/other", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/other/big", 1<<20)
	if _, inodes := measure(10, []string{dir}, nil); inodes != 2 {
		t.Errorf("%d inodes, want those of the directory and the file", inodes)
	}
	if err := unix.Unmount(dir+"/other", 0); err != nil {
		t.Fatal(err)
	}
}

func TestWalkOfADeepTreeHoldsOneDirectory(t *testing.T) {
	const depth = 3000 // its names are longer than PATH_MAX
	dir := t.TempDir()
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range depth {
		if err := unix.Mkdirat(fd, "dd", 0o700); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(fd, "dd", unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
		fd = next
	}
	unix.Close(fd)
	before := leakcheck.OpenFiles(t)
	w := newWalk([]string{dir}, nil)
	defer w.close()
	for !w.step(100) {
		if n := leakcheck.OpenFiles(t); n > before+1 {
			t.Fatalf("%d files open, %d before", n, before)
		}
	}
	if w.inodes != depth+1 {
		t.Errorf("%d inodes, want %d", w.inodes, depth+1)
	}
}

// A container can move a directory while the walker is in it. The walker must
// not continue at the directory's new place.
func TestWalkOfATreeThatMoves(t *testing.T) {
	base := t.TempDir()
	inside, outside := base+"/inside", base+"/outside"
	for i := range 50 {
		write(t, fmt.Sprintf("%s/file%d", outside, i), 1)
	}
	for i := range 3 {
		write(t, fmt.Sprintf("%s/a/b%d/c/file", inside, i), 1)
	}
	w := newWalk([]string{inside}, nil)
	defer w.close()
	for len(w.levels) < 4 { // in one of the directories c
		if w.step(1) {
			t.Fatal("done too early")
		}
	}
	if err := os.Rename(filepath.Join(inside, "a", w.levels[2].name), outside+"/moved"); err != nil {
		t.Fatal(err)
	}
	for !w.step(1) {
	}
	// Counted: inside, a, and for each b: itself, c and file; all of them existed
	// at some time.
	if w.inodes < 8 || w.inodes > 11 {
		t.Errorf("%d inodes, want at most 11: the walk went outside", w.inodes)
	}
	if w.err != nil {
		t.Error(w.err)
	}
}

func TestSmallLayersAreKnownAtOnce(t *testing.T) {
	d := NewDisk(DiskOptions{})
	dir := t.TempDir()
	write(t, dir+"/file", 100)
	u, ok := d.Usage(dir)
	if !ok || u.Inodes != 2 || time.Since(u.At) > time.Minute {
		t.Errorf("usage = %+v, %v", u, ok)
	}
	write(t, dir+"/another", 100)
	if again, ok := d.Usage(dir); !ok || again != u {
		t.Errorf("second call = %+v, %v, want the first result again", again, ok)
	}
	d.Forget(dir)
	if u, ok := d.Usage(dir); !ok || u.Inodes != 3 {
		t.Errorf("after Forget: %+v, %v", u, ok)
	}
	if u, ok := d.Usage(dir + "/not there"); ok {
		t.Errorf("missing layer: %+v", u)
	}
	large := t.TempDir()
	for i := range 2 * quickLook {
		write(t, fmt.Sprintf("%s/%d/file", large, i), 0)
	}
	if u, ok := d.Usage(large); ok {
		t.Errorf("large layer walked by the caller: %+v", u)
	}
}

// runDisk runs d until the test ends.
func runDisk(t *testing.T, d *Disk) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	within(t, 2*time.Minute, what, ok)
}

func within(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not in time: " + what)
		}
	}
}

func TestDiskFollowsChanges(t *testing.T) {
	d := NewDisk(DiskOptions{LayerAge: 10 * time.Millisecond, TreeAge: time.Hour})
	runDisk(t, d)
	dir := t.TempDir()
	layer := dir + "/container"
	write(t, layer+"/file", 1)
	write(t, dir+"/image/file", 1)
	tree := Tree{Roots: []string{dir}, Except: func() []string { return []string{layer} }}
	inodes := func(u DiskUsage, ok bool) uint64 { return u.Inodes }

	eventually(t, "tree measured", func() bool { return inodes(d.TreeUsage(tree)) == 3 })
	eventually(t, "layer measured", func() bool { return inodes(d.Usage(layer)) == 2 })
	write(t, layer+"/another", 1)
	eventually(t, "layer measured again", func() bool { return inodes(d.Usage(layer)) == 3 })
	write(t, dir+"/image/another", 1)
	d.Changed(tree)
	eventually(t, "tree measured again", func() bool { return inodes(d.TreeUsage(tree)) == 4 })
	if err := os.RemoveAll(layer); err != nil {
		t.Fatal(err)
	}
	eventually(t, "removed layer unknown", func() bool { _, ok := d.Usage(layer); return !ok })
}

// While a huge tree is walked, another tree gets its turn, and walking takes no
// more than its share of CPU time.
func TestHugeTreeTakesItsShareOnly(t *testing.T) {
	const share = 0.1
	huge, small := t.TempDir(), t.TempDir()
	for i := range 400 {
		for j := range 50 {
			write(t, fmt.Sprintf("%s/%d/%d", huge, i, j), 0)
		}
	}
	write(t, small+"/file", 0)
	d := NewDisk(DiskOptions{Share: share, LayerAge: time.Hour, TreeAge: time.Hour})
	d.Usage(huge)
	other := Tree{Roots: []string{small}}
	d.TreeUsage(other)
	started, cpu := time.Now(), cpuTime(unix.RUSAGE_SELF)
	runDisk(t, d)
	// Beside other work, little of the CPU is left for a walker of the lowest priority.
	within(t, 10*time.Minute, "huge tree measured", func() bool {
		_, ok := d.Usage(huge)
		time.Sleep(5 * time.Millisecond) // the test's own CPU time counts below
		return ok
	})
	wall, cpu := time.Since(started), cpuTime(unix.RUSAGE_SELF)-cpu
	u, _ := d.Usage(huge)
	if u.Inodes != 400*51+1 {
		t.Errorf("usage = %+v", u)
	}
	if got := cpu.Seconds() / wall.Seconds(); got > 3*share {
		t.Errorf("walking took %.0f %% of a CPU (%v in %v), want %.0f %%", got*100, cpu, wall, share*100)
	}
	first, ok := d.TreeUsage(other)
	smallAfter, hugeAfter := first.At.Sub(started), u.At.Sub(started)
	if !ok || smallAfter > hugeAfter/2 {
		t.Errorf("the small tree was measured after %v (%v), the huge one after %v", smallAfter, ok, hugeAfter)
	}
	t.Logf("%d inodes: %v CPU in %v; small tree after %v", 400*51+1, cpu, wall, smallAfter)
}

func TestRunEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c := New(Options{Disk: NewDisk(DiskOptions{})})
	ended := make(chan error)
	go func() { ended <- c.Run(ctx) }()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A result never gets older than the limit, even if the walker does not get to
// it: here it does not run. What would take long is left to the walker.
func TestSmallLayersAreRecentWithoutTheWalker(t *testing.T) {
	d := NewDisk(DiskOptions{LayerLimit: time.Nanosecond})
	dir := t.TempDir()
	write(t, dir+"/file", 100)
	first, ok := d.Usage(dir)
	if !ok || first.Inodes != 2 {
		t.Fatalf("usage = %+v, %v", first, ok)
	}
	write(t, dir+"/another", 1<<20)
	second, ok := d.Usage(dir)
	if !ok || second.Inodes != 3 || second.Bytes < first.Bytes+1<<20 || !second.At.After(first.At) {
		t.Errorf("after a write: %+v, %v; before it %+v", second, ok, first)
	}
	for i := range 2 * quickLook {
		write(t, fmt.Sprintf("%s/%d/file", dir, i), 0)
	}
	for range 2 {
		if u, ok := d.Usage(dir); !ok || u != second {
			t.Errorf("large by now: %+v, %v; want what was known, %+v", u, ok, second)
		}
	}
	if e := d.entries[dir]; !e.large {
		t.Error("the next caller walks it again")
	}
}
