package stats

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// process is an open directory /proc/<pid>. Reads through it concern one process,
// even if the kernel reuses the pid meanwhile.
type process struct {
	dir int
	pid int
}

// openProcess opens the process pid. The error is errdefs.ErrNotFound if it does
// not exist. The caller closes it.
func openProcess(procRoot string, pid int) (*process, error) {
	if pid <= 0 {
		return nil, fmt.Errorf("no process: %w", errdefs.ErrNotFound)
	}
	dir, err := openat(unix.AT_FDCWD, filepath.Join(procRoot, strconv.Itoa(pid)), unix.O_PATH|unix.O_DIRECTORY)
	if isGone(err) {
		return nil, fmt.Errorf("process %d: %w", pid, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	return &process{dir: dir, pid: pid}, nil
}

func (p *process) close() { unix.Close(p.dir) }

// with reads a file of the process. The error is errdefs.ErrNotFound if the
// process has exited.
func (p *process) with(name string, use func(content []byte) error) error {
	err := withFile(p.dir, name, use)
	if isGone(err) {
		return fmt.Errorf("process %d: %w: %w", p.pid, errdefs.ErrNotFound, err)
	}
	return err
}

// netInterface holds the counters of one network interface.
type netInterface struct {
	name                                    string
	rxBytes, rxPackets, rxErrors, rxDropped uint64
	txBytes, txPackets, txErrors, txDropped uint64
}

// interfaces returns the interfaces of the process's network namespace without
// lo, in the kernel's order: by interface index.
func (p *process) interfaces() (list []netInterface, err error) {
	err = p.with("net/dev", func(content []byte) error {
		for line := range bytes.Lines(content) {
			name, rest, ok := bytes.Cut(line, []byte(":"))
			if !ok {
				continue // the two lines of headings
			}
			var v [16]uint64
			n := 0
			for field := range bytes.FieldsSeq(rest) {
				if n < len(v) {
					v[n], _ = parseUint(field)
					n++
				}
			}
			// The pod chooses the names, and the kernel accepts any bytes; invalid
			// UTF-8 could not be sent.
			i := netInterface{name: strings.ToValidUTF8(string(bytes.TrimSpace(name)), "\ufffd"),
				rxBytes: v[0], rxPackets: v[1], rxErrors: v[2], rxDropped: v[3],
				txBytes: v[8], txPackets: v[9], txErrors: v[10], txDropped: v[11]}
			if i.name != "lo" {
				list = append(list, i)
			}
		}
		return nil
	})
	return list, err
}

// openFilesLimit returns the soft limit on open files; [none] without one.
func (p *process) openFilesLimit() (limit uint64, err error) {
	limit = none
	err = p.with("limits", func(content []byte) error {
		for line := range bytes.Lines(content) {
			rest, ok := bytes.CutPrefix(line, []byte("Max open files"))
			if !ok {
				continue
			}
			if fields := bytes.Fields(rest); len(fields) > 0 {
				if v, ok := parseUint(fields[0]); ok {
					limit = v
				}
			}
		}
		return nil
	})
	return limit, err
}

// countFiles counts the open files of a process and the sockets among them. It
// calls tick every few files and stops with its error.
func countFiles(procRoot string, pid int, tick func(n int) error) (files, sockets int, err error) {
	p, err := openProcess(procRoot, pid)
	if err != nil {
		return 0, 0, err
	}
	defer p.close()
	dir, err := openat(p.dir, "fd", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return 0, 0, err
	}
	defer unix.Close(dir)
	entries := make([]byte, 4096)
	var names []string
	var link [len("socket:")]byte
	for {
		n, err := unix.ReadDirent(dir, entries)
		if err != nil || n <= 0 {
			return files, sockets, err
		}
		_, _, names = unix.ParseDirent(entries[:n], -1, names[:0])
		files += len(names)
		for _, name := range names {
			n, err := unix.Readlinkat(dir, name, link[:])
			if err == nil && string(link[:n]) == "socket:" {
				sockets++
			}
		}
		if err := tick(len(names)); err != nil {
			return files, sockets, err
		}
	}
}
