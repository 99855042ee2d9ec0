package shim

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/beneath"
	"github.com/cridock/cridock/translate"
)

const cgroupRoot = "/sys/fs/cgroup"

// writeCgroupFiles writes limits of a running container to its cgroup, for which
// Docker and systemd have no setting.
func (s *Service) writeCgroupFiles(c *translate.Container, files []translate.CgroupFile) error {
	paths, err := s.cgroupPaths(c, files)
	if err != nil || paths == nil {
		return err
	}
	for i, f := range files {
		err := fs.ErrNotExist
		if paths[i].name != "" {
			err = paths[i].write(f.Value)
		}
		if err == nil || f.Optional && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		return fmt.Errorf("cgroup file %s of container %s: %w: %w", f.Name, c.ID, errdefs.ErrFailedPrecondition, err)
	}
	return nil
}

// cgroupFile is an existing file of a cgroup, named relative to the directory of
// its hierarchy.
type cgroupFile struct {
	root beneath.Root
	name string
}

func (f cgroupFile) read() (string, error) {
	b, err := f.root.ReadFile(f.name)
	return strings.TrimSpace(string(b)), err
}

func (f cgroupFile) write(value string) error { return writeKernelFile(f.root, f.name, value) }

// cgroupPaths locates a running container's cgroup files; a file without a
// hierarchy is the zero value. It returns nil if there are no files or the
// container has exited.
func (s *Service) cgroupPaths(c *translate.Container, files []translate.CgroupFile) ([]cgroupFile, error) {
	if len(files) == 0 {
		return nil, nil
	}
	membership, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.Pid))
	if processGone(err) {
		return nil, nil // the container has exited
	}
	if err != nil {
		return nil, fmt.Errorf("cgroup of container %s: %w", c.ID, err)
	}
	paths := make([]cgroupFile, len(files))
	for i, f := range files {
		paths[i], _ = findCgroupFile(s.cfg.CgroupRoot, string(membership), f.Name, s.Host().CgroupV2)
	}
	return paths, nil
}

// saveCgroupFiles reads a running container's files and returns a function that
// writes their values back.
func (s *Service) saveCgroupFiles(c *translate.Container, files []translate.CgroupFile) (restore func() error, err error) {
	paths, err := s.cgroupPaths(c, files)
	if err != nil {
		return nil, err
	}
	values := map[cgroupFile]string{}
	for _, file := range paths {
		if value, err := file.read(); err == nil {
			values[file] = value
		}
	}
	return func() error {
		var err error
		for file, value := range values {
			// The kernel takes one line at a time.
			for line := range strings.Lines(value) {
				if werr := file.write(strings.TrimSpace(line)); werr != nil && !errors.Is(werr, fs.ErrNotExist) {
					err = errors.Join(err, fmt.Errorf("restore: %w", werr))
				}
			}
		}
		return err
	}, nil
}

// processGone reports whether opening, reading or writing a file of /proc/PID
// failed because the process has exited.
func processGone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH)
}

// writeKernelFile writes to an existing file. It does not use O_CREATE: creating a
// file in a cgroup fails with another error than fs.ErrNotExist.
func writeKernelFile(root beneath.Root, name, value string) error {
	f, err := root.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// findCgroupFile locates a cgroup's file from the text of /proc/PID/cgroup
// (cgroups(7)), which has one line for version 2 and one per hierarchy for version
// 1, where a controller's directory may be a link to that of several. The file is
// below root whatever the text is: the path of a cgroup outside this process's
// cgroup namespace begins with "..".
func findCgroupFile(root, membership, file string, v2 bool) (cgroupFile, bool) {
	controller, _, _ := strings.Cut(file, ".")
	if controller == "" || strings.Contains(file, "/") {
		return cgroupFile{}, false
	}
	for line := range strings.Lines(membership) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 {
			continue
		}
		name := strings.TrimLeft(parts[2]+"/"+file, "/")
		switch {
		case !filepath.IsLocal(name): // "/..": outside our cgroup namespace, not visible
		case v2 && parts[1] == "":
			return cgroupFile{beneath.Root(root), name}, true
		case !v2 && slices.Contains(strings.Split(parts[1], ","), controller):
			return cgroupFile{beneath.Root(filepath.Join(root, controller)), name}, true
		}
	}
	return cgroupFile{}, false
}
