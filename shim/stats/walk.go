package stats

import (
	"errors"

	"golang.org/x/sys/unix"
)

// inode identifies a file on this machine.
type inode struct{ dev, ino uint64 }

func inodeOf(st *unix.Stat_t) inode { return inode{st.Dev, st.Ino} }

func isDir(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFDIR }

// mostLinks limits the memory for files with several links. Beyond it, each link
// counts as a file.
const mostLinks = 1 << 20

// walk sums up the blocks and inodes of directory trees, step by step.
//
// The trees belong to containers, which may change them meanwhile, with malice.
// So it never follows a symbolic link and never opens a path of several elements.
// It holds one open directory, however deep the tree is, and goes up by "..",
// checking that it arrives where it came from.
type walk struct {
	roots []string
	skip  map[inode]bool // directories left out with their content

	bytes, inodes uint64
	linked        map[inode]bool

	dir     int // the open directory, −1 between two roots
	root    string
	levels  []level
	dirents []byte
	names   []string
	err     error // the first error other than a file that disappeared
}

// level is one directory between the root and the open one.
type level struct {
	name    string // in its parent
	id      inode
	unread  bool     // it has unread entries
	pending []string // directories in it to go into
}

// newWalk prepares a walk of the trees below roots, without those below except.
// The caller closes it.
func newWalk(roots, except []string) *walk {
	w := &walk{roots: roots, dir: -1, skip: map[inode]bool{}, linked: map[inode]bool{}, dirents: make([]byte, 16<<10)}
	for _, name := range except {
		var st unix.Stat_t
		if unix.Lstat(name, &st) == nil {
			w.skip[inodeOf(&st)] = true
		}
	}
	return w
}

func (w *walk) close() {
	if w.dir >= 0 {
		unix.Close(w.dir)
		w.dir = -1
	}
}

// step continues for about n entries and reports whether the walk is done.
func (w *walk) step(n int) (done bool) {
	for n > 0 {
		if w.dir < 0 {
			if len(w.roots) == 0 {
				return true
			}
			w.openRoot(w.roots[0])
			w.roots = w.roots[1:]
			n--
			continue
		}
		switch top := &w.levels[len(w.levels)-1]; {
		case top.unread:
			n -= w.readEntries(top)
		case len(top.pending) > 0:
			name := top.pending[len(top.pending)-1]
			top.pending = top.pending[:len(top.pending)-1]
			w.down(name)
			n--
		default:
			w.up()
		}
	}
	return false
}

// openRoot starts the next tree. A missing one counts as empty.
func (w *walk) openRoot(name string) {
	fd, st, err := openDirectory(unix.AT_FDCWD, name, 0)
	if err != nil {
		w.failed(err)
		return
	}
	w.root, w.dir = name, fd
	w.levels = append(w.levels[:0], level{name: name, id: inodeOf(&st), unread: true})
	w.count(&st)
}

// openDirectory opens a directory and stats it. It asks the kernel not to record
// the access time, which only the owner and root may do.
func openDirectory(dirfd int, name string, flags int) (int, unix.Stat_t, error) {
	var st unix.Stat_t
	flags |= unix.O_RDONLY | unix.O_DIRECTORY
	fd, err := openat(dirfd, name, flags|unix.O_NOATIME)
	if errors.Is(err, unix.EPERM) {
		fd, err = openat(dirfd, name, flags)
	}
	if err != nil {
		return -1, st, err
	}
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return -1, st, err
	}
	return fd, st, nil
}

// readEntries counts some entries of the open directory and queues the
// directories among them. It returns the number of entries read plus 1.
func (w *walk) readEntries(top *level) int {
	n, err := unix.ReadDirent(w.dir, w.dirents)
	if err != nil || n <= 0 {
		w.failed(err)
		top.unread = false
		return 1
	}
	_, _, w.names = unix.ParseDirent(w.dirents[:n], -1, w.names[:0])
	for _, name := range w.names {
		var st unix.Stat_t
		if err := unix.Fstatat(w.dir, name, &st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT); err != nil {
			w.failed(err)
			continue
		}
		id := inodeOf(&st)
		if id.dev != w.levels[0].id.dev || isDir(&st) && w.skip[id] {
			continue
		}
		w.count(&st)
		if isDir(&st) {
			top.pending = append(top.pending, name)
		}
	}
	return len(w.names) + 1
}

// count adds a file, once for all its links.
func (w *walk) count(st *unix.Stat_t) {
	if st.Nlink > 1 && !isDir(st) {
		id := inodeOf(st)
		if w.linked[id] {
			return
		}
		if len(w.linked) < mostLinks {
			w.linked[id] = true
		}
	}
	w.inodes++
	w.bytes += uint64(st.Blocks) * 512 // stat(2) always counts in 512-byte units
}

// down opens a directory inside the open one. If it is something else by now, it
// is skipped.
func (w *walk) down(name string) {
	fd, st, err := openDirectory(w.dir, name, unix.O_NOFOLLOW)
	if err != nil {
		w.failed(err)
		return
	}
	id := inodeOf(&st)
	if id.dev != w.levels[0].id.dev || w.skip[id] {
		unix.Close(fd)
		return
	}
	unix.Close(w.dir)
	w.dir = fd
	w.levels = append(w.levels, level{name: name, id: id, unread: true})
}

// up goes back to the parent directory.
func (w *walk) up() {
	w.levels = w.levels[:len(w.levels)-1]
	if len(w.levels) == 0 {
		w.close()
		return
	}
	fd, st, err := openDirectory(w.dir, "..", unix.O_NOFOLLOW)
	w.close()
	if err == nil && inodeOf(&st) == w.levels[len(w.levels)-1].id {
		w.dir = fd
		return
	}
	if err == nil {
		unix.Close(fd)
	}
	w.reopen()
}

// reopen goes down from the root again after the open directory was moved. It
// drops levels that are no longer where they were.
func (w *walk) reopen() {
	fd, st, err := openDirectory(unix.AT_FDCWD, w.root, 0)
	if err != nil || inodeOf(&st) != w.levels[0].id {
		if err == nil {
			unix.Close(fd)
		}
		w.levels = w.levels[:0]
		return
	}
	w.dir = fd
	for i := 1; i < len(w.levels); i++ {
		fd, st, err := openDirectory(w.dir, w.levels[i].name, unix.O_NOFOLLOW)
		if err == nil && inodeOf(&st) != w.levels[i].id {
			unix.Close(fd)
			err = unix.ENOENT
		}
		if err != nil {
			w.levels = w.levels[:i]
			return
		}
		unix.Close(w.dir)
		w.dir = fd
	}
}

// failed records the first error other than a file that changed meanwhile.
func (w *walk) failed(err error) {
	if err == nil || w.err != nil || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return
	}
	w.err = err
}
