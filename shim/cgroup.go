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
// nor systemd has a setting for.
func (s *Service) writeCgroupFiles(c *translate.Container, files []translate.CgroupFile) error {
	if len(files) == 0 {
		return nil
	}
	membership, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.Pid))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it has exited, and its limits with it
	}
	if err != nil {
		return fmt.Errorf("cgroup of container %s: %w", c.ID, err)
	}
	for _, f := range files {
		dir, ok := cgroupDir(string(membership), f.Name, s.Host().CgroupV2)
		if !ok {
			err = fs.ErrNotExist
		} else {
			err = os.WriteFile(filepath.Join(dir, f.Name), []byte(f.Value), 0) // 0: never create
		}
		if err == nil || f.Optional && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		return fmt.Errorf("cgroup file %s of container %s: %w: %w", f.Name, c.ID, errdefs.ErrFailedPrecondition, err)
	}
	return nil
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
