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

// writeCgroupFiles sets the limits of a running container that neither Docker
// nor systemd has a setting for.
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

// cgroupFile is a file of a cgroup: its name below the directory of a hierarchy.
// It must be there: nothing is made in a cgroup.
type cgroupFile struct {
	root beneath.Root
	name string
}

func (f cgroupFile) read() (string, error) {
	b, err := f.root.ReadFile(f.name)
	return strings.TrimSpace(string(b)), err
}

func (f cgroupFile) write(value string) error { return writeKernelFile(f.root, f.name, value) }

// cgroupPaths are a running container's cgroup files, the zero value for one
// without a hierarchy; nil if there are no files or the container has exited.
func (s *Service) cgroupPaths(c *translate.Container, files []translate.CgroupFile) ([]cgroupFile, error) {
	if len(files) == 0 {
		return nil, nil
	}
	membership, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.Pid))
	if processGone(err) {
		return nil, nil // its limits have gone with it
	}
	if err != nil {
		return nil, fmt.Errorf("cgroup of container %s: %w", c.ID, err)
	}
	paths := make([]cgroupFile, len(files))
	for i, f := range files {
		paths[i], _ = s.cgroupFile(string(membership), f.Name)
	}
	return paths, nil
}

// saveCgroupFiles reads files of a running container, and returns what writes
// their values back.
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
					err = errors.Join(err, fmt.Errorf("take back: %w", werr))
				}
			}
		}
		return err
	}, nil
}

// processGone says whether a file of /proc/PID could not be opened, read or
// written because the process is no more.
func processGone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH)
}

// writeKernelFile writes to a file that must be there: to create one in a cgroup
// fails otherwise than by its absence.
func writeKernelFile(root beneath.Root, name, value string) error {
	f, err := root.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// cgroupFile finds a file by the text of /proc/PID/cgroup (cgroups(7)): one line
// for version 2, one a hierarchy for version 1, whose directories may be links to
// that of several controllers.
func (s *Service) cgroupFile(membership, file string) (cgroupFile, bool) {
	v2 := s.Host().CgroupV2
	controller, _, _ := strings.Cut(file, ".")
	for line := range strings.Lines(membership) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 {
			continue
		}
		name := strings.TrimLeft(parts[2]+"/"+file, "/")
		switch {
		case !filepath.IsLocal(name): // "/..": above our cgroup namespace, not to be seen
		case v2 && parts[1] == "":
			return cgroupFile{beneath.Root(s.cfg.CgroupRoot), name}, true
		case !v2 && slices.Contains(strings.Split(parts[1], ","), controller):
			return cgroupFile{beneath.Root(filepath.Join(s.cfg.CgroupRoot, controller)), name}, true
		}
	}
	return cgroupFile{}, false
}
