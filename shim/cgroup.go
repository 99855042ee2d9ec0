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
		if paths[i] != "" {
			err = writeKernelFile(paths[i], f.Value)
		}
		if err == nil || f.Optional && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		return fmt.Errorf("cgroup file %s of container %s: %w: %w", f.Name, c.ID, errdefs.ErrFailedPrecondition, err)
	}
	return nil
}

// cgroupPaths are the paths of a running container's cgroup files, "" for one
// without a hierarchy; nil if there are no files or the container has exited.
func (s *Service) cgroupPaths(c *translate.Container, files []translate.CgroupFile) ([]string, error) {
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
	paths := make([]string, len(files))
	for i, f := range files {
		if dir, ok := s.cgroupDir(string(membership), f.Name); ok {
			paths[i] = filepath.Join(dir, f.Name)
		}
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
	values := map[string]string{}
	for _, path := range paths {
		if b, err := os.ReadFile(path); err == nil {
			values[path] = string(b)
		}
	}
	return func() error {
		var err error
		for path, value := range values {
			// The kernel takes one line at a time.
			for line := range strings.Lines(value) {
				if werr := writeKernelFile(path, strings.TrimSpace(line)); werr != nil && !errors.Is(werr, fs.ErrNotExist) {
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
func writeKernelFile(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// cgroupDir finds the directory of a cgroup file in the text of
// /proc/PID/cgroup (cgroups(7)): one line for version 2, one a hierarchy for
// version 1.
func (s *Service) cgroupDir(membership, file string) (string, bool) {
	v2 := s.Host().CgroupV2
	controller, _, _ := strings.Cut(file, ".")
	for line := range strings.Lines(membership) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		switch {
		case len(parts) != 3:
		case v2 && parts[1] == "":
			return filepath.Join(s.cfg.CgroupRoot, parts[2]), true
		case !v2 && slices.Contains(strings.Split(parts[1], ","), controller):
			return filepath.Join(s.cfg.CgroupRoot, controller, parts[2]), true
		}
	}
	return "", false
}
