// Package cgroup finds the files of a process's control group and reads and writes
// them. Whatever /proc says of the process, they are below the directory where
// control groups are mounted.
package cgroup

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/beneath"
)

// Node describes a node's control groups.
type Node struct {
	// Root is where they are mounted, Proc where /proc is; empty for /sys/fs/cgroup
	// and /proc.
	Root, Proc string
	// V2 is the version: with true the one hierarchy of version 2, else those of
	// version 1.
	V2 bool
}

// File is a file of a control group, which may be missing: its name is relative to
// Root, the directory of its hierarchy. The zero value is a file without a
// hierarchy; it is missing as well.
type File struct {
	Root beneath.Root
	Name string
}

// Read returns the content without surrounding white space; a missing file is
// fs.ErrNotExist.
func (f File) Read() (string, error) {
	if f == (File{}) {
		return "", fs.ErrNotExist
	}
	b, err := f.Root.ReadFile(f.Name)
	return strings.TrimSpace(string(b)), err
}

// Write writes a value to an existing file; a missing one is fs.ErrNotExist. It does
// not use O_CREATE: creating a file in a cgroup fails with another error.
func (f File) Write(value string) error {
	if f == (File{}) {
		return fs.ErrNotExist
	}
	file, err := f.Root.OpenFile(f.Name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteString(value)
	return errors.Join(err, file.Close())
}

// Files locates files of a process's control group: one for each name, in their
// order. Names without a hierarchy, which have no controller or one that is not
// mounted, become the zero File. It returns nil if the process has exited or there
// are no names.
func (n Node) Files(pid int, names ...string) ([]File, error) {
	if len(names) == 0 {
		return nil, nil
	}
	membership, err := os.ReadFile(filepath.Join(n.proc(), strconv.Itoa(pid), "cgroup"))
	if Gone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cgroup of process %d: %w", pid, err)
	}
	files := make([]File, len(names))
	for i, name := range names {
		files[i], _ = n.find(string(membership), name)
	}
	return files, nil
}

// Processes returns the IDs of the processes in the control group of a process,
// without those of groups below it; of pid alone if the group cannot be read, and
// none if pid has exited.
func (n Node) Processes(pid int) ([]string, error) {
	files, err := n.Files(pid, "memory.stat")
	if err != nil || files == nil {
		return nil, err
	}
	only := []string{strconv.Itoa(pid)}
	if files[0] == (File{}) {
		return only, nil
	}
	list := File{Root: files[0].Root, Name: filepath.Join(filepath.Dir(files[0].Name), "cgroup.procs")}
	pids, err := list.Read()
	if err != nil {
		return only, nil //nolint:nilerr // see above
	}
	return strings.Fields(pids), nil
}

// HasController reports whether the node has a controller, such as hugetlb: on version 1
// one that is mounted where its name says.
func (n Node) HasController(name string) (bool, error) {
	if n.V2 {
		names, err := os.ReadFile(filepath.Join(n.root(), "cgroup.controllers"))
		return slices.Contains(strings.Fields(string(names)), name), err
	}
	_, err := os.Stat(filepath.Join(n.root(), name, "cgroup.procs"))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// SetOOMScoreAdj sets the oom_score_adj of a process. The processes that it starts
// later inherit it. A process that has exited is success.
func (n Node) SetOOMScoreAdj(pid string, value int64) error {
	err := File{Root: beneath.Root(n.proc()), Name: pid + "/oom_score_adj"}.Write(strconv.FormatInt(value, 10))
	if Gone(err) {
		return nil
	}
	return err
}

func (n Node) proc() string { return cmp.Or(n.Proc, "/proc") }

func (n Node) root() string { return cmp.Or(n.Root, "/sys/fs/cgroup") }

// Gone reports whether opening, reading or writing a file of /proc/PID failed
// because the process has exited.
func Gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH)
}

// find locates a cgroup's file from the text of /proc/PID/cgroup (cgroups(7)), which
// has one line for version 2 and one per hierarchy for version 1, where a
// controller's directory may be a link to that of several. The file is below the
// root whatever the text is: the path of a cgroup outside this process's cgroup
// namespace begins with "..".
func (n Node) find(membership, file string) (File, bool) {
	root := n.root()
	controller, _, _ := strings.Cut(file, ".")
	if controller == "" || strings.Contains(file, "/") {
		return File{}, false
	}
	for line := range strings.Lines(membership) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 {
			continue
		}
		name := strings.TrimLeft(parts[2]+"/"+file, "/")
		switch {
		case !filepath.IsLocal(name): // "/..": outside our cgroup namespace, not visible
		case n.V2 && parts[1] == "":
			return File{beneath.Root(root), name}, true
		case !n.V2 && slices.Contains(strings.Split(parts[1], ","), controller):
			return File{beneath.Root(filepath.Join(root, controller)), name}, true
		}
	}
	return File{}, false
}
