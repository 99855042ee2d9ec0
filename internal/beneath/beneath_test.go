package beneath

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/needs"
)

// newRoot returns a root that is reached through a link, and a directory
// outside it.
func newRoot(t *testing.T) (r Root, outside string) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"real/dir", "outside/dir"} {
		must(t, os.MkdirAll(filepath.Join(dir, name), 0o755))
	}
	must(t, os.Symlink("real", filepath.Join(dir, "root")))
	must(t, os.WriteFile(filepath.Join(dir, "outside", "file"), []byte("precious"), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "outside", "dir", "file"), []byte("precious"), 0o600))
	return Root(filepath.Join(dir, "root")), filepath.Join(dir, "outside")
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// contents returns the tree below a directory.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		all[strings.TrimPrefix(path, dir+"/")] = d.Type().String()
		if d.Type().IsRegular() {
			b, err := os.ReadFile(path)
			all[strings.TrimPrefix(path, dir+"/")] = string(b)
			return err
		}
		return nil
	}))
	return all
}

// operations are all methods that access something by name.
var operations = map[string]func(r Root, name string) error{
	"read":   func(r Root, name string) error { _, err := r.ReadFile(name); return err },
	"append": func(r Root, name string) error { return write(r, name, os.O_WRONLY|os.O_APPEND) },
	"create": func(r Root, name string) error { return write(r, name, os.O_RDWR|os.O_CREATE) },
	"truncate": func(r Root, name string) error {
		return write(r, name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	},
	"exclusive": func(r Root, name string) error { return write(r, name, os.O_WRONLY|os.O_CREATE|os.O_EXCL) },
	"replace":   func(r Root, name string) error { return r.WriteFile(name, []byte("x"), 0o600) },
	"link":      func(r Root, name string) error { return r.Symlink("x", name) },
	"readlink":  func(r Root, name string) error { _, err := r.Readlink(name); return err },
	"lstat":     func(r Root, name string) error { _, err := r.Lstat(name); return err },
	"remove":    func(r Root, name string) error { return r.Remove(name) },
	"removeAll": func(r Root, name string) error { return r.RemoveAll(name) },
	"names":     func(r Root, name string) error { _, err := r.Names(name); return err },
	"mkdir":     func(r Root, name string) error { return r.Mkdir(name, 0o755) },
	"mkdirAll":  func(r Root, name string) error { return r.MkdirAll(name, 0o755) },
}

func write(r Root, name string, flag int) error {
	f, err := r.OpenFile(name, flag, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString("x")
	return errors.Join(err, f.Close())
}

// TestLinkInTheWay: nothing is done through a component that is a link.
func TestLinkInTheWay(t *testing.T) {
	for op, do := range operations {
		for what, target := range map[string]string{"absolute": "", "relative": "../outside", "inside": "dir", "dangling": "nothing"} {
			t.Run(op+"/"+what, func(t *testing.T) {
				r, outside := newRoot(t)
				if target == "" {
					target = outside
				}
				must(t, os.Symlink(target, r.Path("way")))
				for _, name := range []string{"way/file", "way/dir/file", "way/new/file"} {
					before := contents(t, filepath.Dir(outside))
					if err := do(r, name); !IsRefused(err) || !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), r.Path("way")+": is a symbolic link") {
						t.Errorf("%s: %v, want it refused for the link", name, err)
					}
					if diff := cmp.Diff(before, contents(t, filepath.Dir(outside))); diff != "" {
						t.Errorf("%s has changed (-before +after):\n%s", name, diff)
					}
				}
			})
		}
	}
}

func TestUncleanNames(t *testing.T) {
	for op, do := range operations {
		for _, name := range []string{"", "/", "..", "../outside/file", "dir/../../outside/file", "dir/../file", "dir/", "./file", "dir//file", "/etc/passwd"} {
			r, outside := newRoot(t)
			before := contents(t, filepath.Dir(outside))
			if err := do(r, name); !IsRefused(err) {
				t.Errorf("%s of %q: %v, want it refused", op, name, err)
			}
			if diff := cmp.Diff(before, contents(t, filepath.Dir(outside))); diff != "" {
				t.Errorf("%s of %q (-before +after):\n%s", op, name, diff)
			}
		}
	}
}

// TestSpecialFiles: only plain files are ever opened, and no call waits for the
// other end of a FIFO.
func TestSpecialFiles(t *testing.T) {
	r, outside := newRoot(t)
	must(t, unix.Mkfifo(r.Path("fifo"), 0o600))
	must(t, os.Symlink(filepath.Join(outside, "file"), r.Path("link")))
	must(t, os.Symlink(filepath.Join(outside, "new"), r.Path("dangling")))
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	must(t, err)
	defer func() { _ = unix.Close(fd) }()
	must(t, unix.Bind(fd, &unix.SockaddrUnix{Name: r.Path("socket")}))
	names := []string{"fifo", "link", "dangling", "socket", "dir"}
	if err := unix.Mknod(r.Path("device"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))); err == nil {
		names = append(names, "device")
	} else if os.Getuid() == 0 {
		t.Errorf("mknod: %v", err)
	}
	before := contents(t, outside)
	for _, name := range names {
		for _, op := range []string{"read", "append", "create", "truncate"} {
			if err := operations[op](r, name); !IsRefused(err) {
				t.Errorf("%s of a %s: %v, want it refused", op, name, err)
			}
		}
		if err := operations["exclusive"](r, name); !errors.Is(err, fs.ErrExist) {
			t.Errorf("exclusive create of a %s: %v, want it to exist", name, err)
		}
	}
	if diff := cmp.Diff(before, contents(t, outside)); diff != "" {
		t.Errorf("outside (-before +after):\n%s", diff)
	}
}

func TestHardLinks(t *testing.T) {
	r, outside := newRoot(t)
	must(t, os.Link(filepath.Join(outside, "file"), r.Path("file")))
	for _, op := range []string{"append", "create", "truncate"} {
		if err := operations[op](r, "file"); !IsRefused(err) || !strings.Contains(err.Error(), "hard link") {
			t.Errorf("%s: %v, want it refused for its other name", op, err)
		}
	}
	if b, err := r.ReadFile("file"); string(b) != "precious" || err != nil {
		t.Errorf("read: %q, %v", b, err)
	}
	must(t, r.WriteFile("file", []byte("new"), 0o600)) // in its place
	must(t, operations["append"](r, "file"))
	if b, _ := r.ReadFile("file"); string(b) != "newx" {
		t.Errorf("the new file holds %q", b)
	}
	if b, _ := os.ReadFile(filepath.Join(outside, "file")); string(b) != "precious" {
		t.Errorf("the other name's file holds %q", b)
	}
}

// TestLeasedFile: the owner of a file can make others wait for it with a lease.
func TestLeasedFile(t *testing.T) {
	r, _ := newRoot(t)
	must(t, r.WriteFile("file", nil, 0o600))
	f, err := os.Open(r.Path("file"))
	must(t, err)
	defer func() { _ = f.Close() }()
	_, err = unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_RDLCK)
	needs.That(t, err == nil, "no leases here: %v", err)
	if err := operations["append"](r, "file"); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("opening it: %v, want %v", err, unix.EAGAIN)
	}
}

func TestFiles(t *testing.T) {
	r, _ := newRoot(t)
	must(t, r.MkdirAll("a/b", 0o750))
	must(t, r.MkdirAll("a/b", 0o750))
	must(t, r.MkdirAll(".", 0o750))
	must(t, operations["create"](r, "a/b/file"))
	must(t, operations["append"](r, "a/b/file"))
	must(t, r.WriteFile("a/b/other", []byte("1"), 0o640))
	must(t, r.WriteFile("a/b/other", []byte("2"), 0o640))
	must(t, r.Symlink("first", "a/b/link"))
	must(t, r.Symlink("second", "a/b/link"))
	must(t, r.WriteFile("a/b/was-link", nil, 0o640))
	must(t, r.Symlink("../other", "a/b/was-link"))
	must(t, r.WriteFile("a/b/was-link", []byte("3"), 0o640))
	want := map[string]string{
		"dir": "d---------", "a": "d---------", "a/b": "d---------", "a/b/file": "xx", "a/b/other": "2", "a/b/link": "L---------", "a/b/was-link": "3",
	}
	resolved, err := filepath.EvalSymlinks(string(r))
	must(t, err)
	if diff := cmp.Diff(want, contents(t, resolved)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if info, err := r.Lstat("a/b/other"); err != nil || info.Mode() != 0o640 || info.Size() != 1 {
		t.Errorf("Lstat: %v, %v", info, err)
	}
	if target, err := r.Readlink("a/b/link"); target != "second" || err != nil {
		t.Errorf("Readlink: %q, %v", target, err)
	}
	names, err := r.Names("a/b")
	if diff := cmp.Diff([]string{"file", "link", "other", "was-link"}, names); diff != "" || err != nil {
		t.Errorf("Names: %v (-want +got):\n%s", err, diff)
	}
	must(t, r.Remove("a/b/link"))
	must(t, r.RemoveAll("a"))
	must(t, r.RemoveAll("a"))
	must(t, r.RemoveAll("a/b"))
	for op, err := range map[string]error{
		"Open": operations["read"](r, "a/x"), "Remove": r.Remove("a"), "create": operations["create"](r, "a/x"), "WriteFile": r.WriteFile("a/x", nil, 0o600),
	} {
		if !errors.Is(err, fs.ErrNotExist) || IsRefused(err) || !strings.Contains(err.Error(), r.Path("a")) {
			t.Errorf("%s of nothing: %v, want that there is none, and its path", op, err)
		}
	}
}

func TestRel(t *testing.T) {
	for _, c := range []struct {
		root Root
		path string
		want string
		ok   bool
	}{
		{"/var/log/pods", "/var/log/pods/a/b", "a/b", true},
		{"/var/log/pods/", "/var/log/pods/a", "a", true},
		{"/", "/a", "a", true},
		{"/var/log/pods", "/var/log/pods", "", false},
		{"/var/log/pods", "/var/log/pods/", "", false},
		{"/var/log/pods", "/var/log/podsx/a", "", false},
		{"/var/log/pods", "/var/log/pods/../a", "", false},
		{"/var/log/pods", "/var/log/pods/a/../../b", "", false},
		{"/var/log/pods", "/var/log/pods//a", "", false},
		{"/var/log/pods", "/var/log/pods/./a", "", false},
		{"/var/log/pods", "var/log/pods/a", "", false},
		{"/var/log/pods", "", "", false},
	} {
		if got, ok := c.root.Rel(c.path); got != c.want || ok != c.ok {
			t.Errorf("%q.Rel(%q) = %q, %v; want %q, %v", c.root, c.path, got, ok, c.want, c.ok)
		}
	}
}

// swapping exchanges two files below a root until stop is closed.
func swapping(r Root, a, b string, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
			_ = unix.Renameat2(unix.AT_FDCWD, r.Path(a), unix.AT_FDCWD, r.Path(b), unix.RENAME_EXCHANGE)
		}
	}
}

// tally counts the operations that have succeeded.
type tally struct {
	mu   sync.Mutex
	done map[string]int
}

func (c *tally) repeat(r Root, op string, stop <-chan struct{}) {
	for {
		for _, name := range []string{"way/file", "way/dir/file", "dir/file"} {
			select {
			case <-stop:
				return
			default:
			}
			if operations[op](r, name) == nil {
				c.mu.Lock()
				c.done[op]++
				c.mu.Unlock()
			}
		}
	}
}

// idle returns the operations that have never succeeded. Two need other files.
func (c *tally) idle() (ops []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for op := range operations {
		if c.done[op] == 0 && op != "names" && op != "readlink" {
			ops = append(ops, op)
		}
	}
	return ops
}

// TestRaces: while a component changes between a directory and a link, and a
// file between a regular file and a link, nothing outside is touched.
func TestRaces(t *testing.T) {
	r, outside := newRoot(t)
	before := contents(t, outside)
	must(t, os.Mkdir(r.Path("way"), 0o755))
	must(t, os.Symlink(outside, r.Path("bait")))
	must(t, os.Symlink(filepath.Join(outside, "file"), r.Path("bait-file")))
	stop := make(chan struct{})
	var work sync.WaitGroup
	work.Go(func() { swapping(r, "way", "bait", stop) })
	work.Go(func() { swapping(r, "dir/file", "bait-file", stop) })
	count := tally{done: map[string]int{}}
	for op := range operations {
		work.Go(func() { count.repeat(r, op, stop) })
	}
	time.Sleep(time.Second) // the duration of the attack; a longer one finds more
	for end := time.Now().Add(30 * time.Second); len(count.idle()) > 0 && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	close(stop)
	work.Wait()
	if diff := cmp.Diff(before, contents(t, outside)); diff != "" {
		t.Errorf("outside (-before +after):\n%s", diff)
	}
	// An operation that never succeeded proves nothing.
	if ops := count.idle(); len(ops) > 0 {
		t.Errorf("%q have never succeeded", ops)
	}
}

// TestDrafts: a draft's name cannot be taken in advance, and no draft is left behind.
func TestDrafts(t *testing.T) {
	r, outside := newRoot(t)
	before := contents(t, outside)
	for _, name := range []string{"file.tmp", ".file", ".file.tmp"} {
		must(t, os.Symlink(filepath.Join(outside, "file"), r.Path(name)))
	}
	must(t, r.WriteFile("file", []byte("1"), 0o600))
	must(t, r.Symlink("x", "file"))
	must(t, os.Mkdir(r.Path("full"), 0o700))
	if err := r.WriteFile("full", nil, 0o600); err == nil { // a directory is not replaced
		t.Error("a directory was replaced")
	}
	if diff := cmp.Diff(before, contents(t, outside)); diff != "" {
		t.Errorf("outside (-before +after):\n%s", diff)
	}
	names, err := r.Names(".")
	if diff := cmp.Diff([]string{".file", ".file.tmp", "dir", "file", "file.tmp", "full"}, names); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}
