package stats

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// none is the value of a limit that is absent, written as "max", or larger than
// any machine's memory. Version 1 of the memory controller writes an absent limit
// as the largest multiple of the page size.
const none = math.MaxUint64

// largestLimit is the value from which on the memory controller's numbers count
// as no limit; the same as cAdvisor's.
const largestLimit = 1 << 62

// buffers hold the content of the file being read. memory.stat, the longest file
// read for stats, has about 2 KiB.
var buffers = sync.Pool{New: func() any { b := make([]byte, 8<<10); return &b }}

// withFile reads the file name in the directory dirfd (unix.AT_FDCWD with
// absolute names) and passes its content to use, which must not keep it.
//
// It makes the system calls directly: os.ReadFile would also stat the file, try
// to register it with the poller and allocate a buffer each time.
func withFile(dirfd int, name string, use func(content []byte) error) error {
	fd, err := openat(dirfd, name, unix.O_RDONLY)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer unix.Close(fd)
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	n := 0
	for {
		if n == len(*buf) {
			*buf = append(*buf, make([]byte, n)...)
		}
		m, err := unix.Read(fd, (*buf)[n:])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("%s: %w", name, err)
		case m == 0:
			return use((*buf)[:n])
		}
		n += m
	}
}

func openat(dirfd int, name string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(dirfd, name, flags|unix.O_CLOEXEC, 0)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// readUint reads a file with one number, or the word max, which is [none].
func readUint(name string) (v uint64, err error) {
	err = withFile(unix.AT_FDCWD, name, func(content []byte) error {
		var ok bool
		if v, ok = parseUint(bytes.TrimSpace(content)); !ok {
			return fmt.Errorf("%s: %w: not a number: %q", name, errdefs.ErrDataLoss, content)
		}
		return nil
	})
	return v, err
}

// readLimit reads a memory limit; [none] if there is no limit.
func readLimit(name string) (uint64, error) {
	v, err := readUint(name)
	if v >= largestLimit {
		v = none
	}
	return v, err
}

// readKeys reads a flat keyed file ("key value" lines) and calls set for each
// line. set must not keep the key. Lines of another form are skipped: new kernels
// add to these files.
func readKeys(name string, set func(key []byte, value uint64)) error {
	return withFile(unix.AT_FDCWD, name, func(content []byte) error {
		for line := range bytes.Lines(content) {
			key, value, ok := bytes.Cut(bytes.TrimSuffix(line, []byte("\n")), []byte(" "))
			if !ok {
				continue
			}
			if v, ok := parseUint(value); ok {
				set(key, v)
			}
		}
		return nil
	})
}

// parseUint parses a decimal number or max, without an allocation.
func parseUint(b []byte) (uint64, bool) {
	if string(b) == "max" {
		return none, true
	}
	if len(b) == 0 {
		return 0, false
	}
	var v uint64
	for _, c := range b {
		digit := uint64(c - '0')
		if c < '0' || c > '9' || v > (math.MaxUint64-digit)/10 {
			return 0, false
		}
		v = v*10 + digit
	}
	return v, true
}

// isGone reports whether err means that a file, or its process or cgroup, does
// not exist (any more).
func isGone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENODEV)
}

// isAbsent reports whether err means that the kernel or the cgroup lacks a file
// or its feature.
func isAbsent(err error) bool {
	return isGone(err) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTDIR)
}

func isDirectory(name string) bool {
	var st unix.Stat_t
	return unix.Stat(name, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

// optional turns the error of a file that some kernels lack into 0.
func optional(v uint64, err error) (uint64, error) {
	if isAbsent(err) {
		return 0, nil
	}
	return v, err
}

// unlessAbsent returns err, or nil if err means that a feature is absent.
func unlessAbsent(err error) error {
	if isAbsent(err) {
		return nil
	}
	return err
}
