package shim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/translate"
)

// updatesFile keeps what UpdateContainerResources has set and Docker has no
// field for: unified, hugepages and oom_score_adj. There is none before the
// first update.
func (s *Service) updatesFile(containerID string) string {
	return filepath.Join(s.updatesDir(), containerID+".json")
}

func (s *Service) updatesDir() string { return filepath.Join(s.cfg.RootDir, "resources") }

// withUpdates gives a container with the resources that are in force, updates
// included; it does not change c.
func (s *Service) withUpdates(c *translate.Container) *translate.Container {
	b, err := os.ReadFile(s.updatesFile(c.ID))
	if errors.Is(err, fs.ErrNotExist) {
		return c
	}
	kept := &runtimeapi.LinuxContainerResources{}
	if err == nil {
		err = protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(b, kept)
	}
	if err != nil {
		// As good as none: it must not hide the container.
		klog.Background().Error(err, "What a container's resources were updated to is lost in part", "containerID", c.ID)
		return c
	}
	out := *c
	out.Resources = proto.CloneOf(c.Resources)
	out.Resources.Unified, out.Resources.HugepageLimits, out.Resources.OomScoreAdj = kept.Unified, kept.HugepageLimits, kept.OomScoreAdj
	return &out
}

// containerStatus is the CRI status with the resources in force.
func (s *Service) containerStatus(c *translate.Container) *runtimeapi.ContainerStatus {
	return translate.CRIContainerStatus(s.withUpdates(c))
}

// keepUpdates stores the resources of a container that was updated.
func (s *Service) keepUpdates(containerID string, r *runtimeapi.LinuxContainerResources) error {
	kept := &runtimeapi.LinuxContainerResources{Unified: r.GetUnified(), HugepageLimits: r.GetHugepageLimits(), OomScoreAdj: r.GetOomScoreAdj()}
	b, err := protojson.Marshal(kept)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.updatesDir(), 0o755); err != nil {
		return err
	}
	return writeFile(s.updatesFile(containerID), b)
}

// forgetUpdates is for containers that are gone; nothing kept is success.
func (s *Service) forgetUpdates(containerID string) error {
	if err := os.Remove(s.updatesFile(containerID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// collectUpdates forgets containers that went while no cridock was there.
func (s *Service) collectUpdates(ctx context.Context) error {
	entries, err := os.ReadDir(s.updatesDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	containers, err := s.index.Containers(ctx)
	if err != nil {
		return err
	}
	live := make(map[string]bool, len(containers))
	for _, c := range containers {
		live[c.ID] = true
	}
	for _, e := range entries {
		if id := strings.TrimSuffix(e.Name(), ".json"); !live[id] {
			err = errors.Join(err, os.Remove(filepath.Join(s.updatesDir(), e.Name())))
		}
	}
	return err
}

// setOOMScoreAdj sets the value of all processes of a running container, which
// Docker only sets at its start; those to come inherit it.
func (s *Service) setOOMScoreAdj(c *translate.Container, value int64) error {
	value = max(value, int64(s.cfg.MinOOMScoreAdj))
	pids, err := s.containerPids(c)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		err := writeKernelFile(fmt.Sprintf("/proc/%s/oom_score_adj", pid), strconv.FormatInt(value, 10))
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("oom_score_adj %d of container %s: %w", value, c.ID, err)
		}
	}
	return nil
}

// containerPids are the processes in a running container's own cgroup.
func (s *Service) containerPids(c *translate.Container) ([]string, error) {
	membership, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.Pid))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // it has exited
	}
	if err != nil {
		return nil, fmt.Errorf("cgroup of container %s: %w", c.ID, err)
	}
	dir, ok := cgroupDir(string(membership), "memory.", s.Host().CgroupV2)
	if !ok {
		return []string{strconv.Itoa(c.Pid)}, nil
	}
	procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		// Where cgroups are not ours to see, the first process is what there is.
		return []string{strconv.Itoa(c.Pid)}, nil //nolint:nilerr // see above
	}
	return strings.Fields(string(procs)), nil
}
