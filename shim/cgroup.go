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

	"github.com/cridock/cridock/translate"
)

const cgroupRoot = "/sys/fs/cgroup"

// writeCgroupFiles sets the limits of a running container that neither Docker
// nor systemd has a setting for. restore, never nil, takes back those that were
// set.
func (s *Service) writeCgroupFiles(c *translate.Container, files []translate.CgroupFile) (restore func() error, err error) {
	var before []cgroupValue
	restore = func() error { return restoreCgroupFiles(before) }
	if len(files) == 0 {
		return restore, nil
	}
	membership, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.Pid))
	if errors.Is(err, fs.ErrNotExist) {
		return restore, nil // it has exited, and its limits with it
	}
	if err != nil {
		return restore, fmt.Errorf("cgroup of container %s: %w", c.ID, err)
	}
	for _, f := range files {
		dir, ok := cgroupDir(string(membership), f.Name, s.Host().CgroupV2)
		if !ok {
			err = fs.ErrNotExist
		} else {
			path := filepath.Join(dir, f.Name)
			if old, err := os.ReadFile(path); err == nil {
				before = append(before, cgroupValue{path, string(old)})
			}
			err = os.WriteFile(path, []byte(f.Value), 0) // 0: never create
		}
		if err == nil || f.Optional && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		return restore, fmt.Errorf("cgroup file %s of container %s: %w: %w", f.Name, c.ID, errdefs.ErrFailedPrecondition, err)
	}
	return restore, nil
}

// cgroupValue is what a cgroup file held.
type cgroupValue struct{ path, value string }

// restoreCgroupFiles writes values back, the last one first.
func restoreCgroupFiles(values []cgroupValue) error {
	var err error
	for _, v := range slices.Backward(values) {
		// The kernel takes one line at a time.
		for line := range strings.Lines(v.value) {
			if werr := os.WriteFile(v.path, []byte(strings.TrimSpace(line)), 0); werr != nil && !errors.Is(werr, fs.ErrNotExist) {
				err = errors.Join(err, fmt.Errorf("take back: %w", werr))
			}
		}
	}
	return err
}

// cgroupDir finds the directory of a cgroup file in the text of
// /proc/PID/cgroup (cgroups(7)): one line for version 2, one a hierarchy for
// version 1.
func cgroupDir(membership, file string, v2 bool) (string, bool) {
	controller, _, _ := strings.Cut(file, ".")
	for line := range strings.Lines(membership) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		switch {
		case len(parts) != 3:
		case v2 && parts[1] == "":
			return filepath.Join(cgroupRoot, parts[2]), true
		case !v2 && slices.Contains(strings.Split(parts[1], ","), controller):
			return filepath.Join(cgroupRoot, controller, parts[2]), true
		}
	}
	return "", false
}
