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
	"sync"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/internal/beneath"
	"github.com/cridock/cridock/translate"
)

// updates holds the resources that UpdateContainerResources has set and for which
// Docker has no field: unified, hugepages and oom_score_adj. A file per updated
// container preserves them across restarts. Reads come from memory, as every
// status needs them.
type updates struct {
	state beneath.Root
	load  sync.Once

	mu   sync.RWMutex
	byID map[string]*runtimeapi.LinuxContainerResources
}

const updatesDir = "resources"

func updateFile(containerID string) string { return filepath.Join(updatesDir, containerID+".json") }

// read loads, once, what an earlier process has stored.
func (u *updates) read() {
	u.load.Do(func() {
		u.byID = map[string]*runtimeapi.LinuxContainerResources{}
		files, err := u.state.Names(updatesDir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			klog.Background().Error(err, "Failed to list updated resources of containers; some updates are lost")
		}
		for _, file := range files {
			id, ok := strings.CutSuffix(file, ".json")
			if !ok {
				continue
			}
			kept := &runtimeapi.LinuxContainerResources{}
			b, err := u.state.ReadFile(updateFile(id))
			if err == nil {
				err = protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(b, kept)
			}
			if err == nil {
				err = translate.ValidateCgroupFiles(updateFile(id), kept)
			}
			if err != nil {
				// Ignore it: a bad file must not hide the container.
				klog.Background().Error(err, "Failed to read updated resources of a container; its updates are partly lost", "containerID", id)
				continue
			}
			u.byID[id] = kept
		}
	})
}

// get returns what is stored for a container, which the caller must not change;
// nil before its first update.
func (u *updates) get(containerID string) *runtimeapi.LinuxContainerResources {
	u.read()
	u.mu.RLock()
	defer u.mu.RUnlock()
	return u.byID[containerID]
}

// keep stores the resources of an updated container.
func (u *updates) keep(containerID string, r *runtimeapi.LinuxContainerResources) error {
	kept := &runtimeapi.LinuxContainerResources{Unified: r.GetUnified(), HugepageLimits: r.GetHugepageLimits(), OomScoreAdj: r.GetOomScoreAdj()}
	b, err := protojson.Marshal(kept)
	if err != nil {
		return err
	}
	if err := u.state.MkdirAll(updatesDir, 0o700); err != nil {
		return err
	}
	if err := u.state.WriteFile(updateFile(containerID), b, 0o600); err != nil {
		return err
	}
	u.read()
	u.mu.Lock()
	defer u.mu.Unlock()
	u.byID[containerID] = kept
	return nil
}

// forget deletes what is stored for a removed container; nothing stored is success.
func (u *updates) forget(containerID string) error {
	u.read()
	u.mu.Lock()
	delete(u.byID, containerID)
	u.mu.Unlock()
	if err := u.state.Remove(updateFile(containerID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// withUpdates returns a container with its effective resources, updates included;
// it does not change c.
func (s *Service) withUpdates(c *translate.Container) *translate.Container {
	kept := s.updates.get(c.ID)
	if kept == nil {
		return c
	}
	r := proto.CloneOf(c.Resources)
	r.Unified, r.HugepageLimits, r.OomScoreAdj = kept.Unified, kept.HugepageLimits, kept.OomScoreAdj
	return c.WithResources(r)
}

// withAllUpdates is withUpdates for each container.
func (s *Service) withAllUpdates(containers []*translate.Container) []*translate.Container {
	out := make([]*translate.Container, 0, len(containers))
	for _, c := range containers {
		out = append(out, s.withUpdates(c))
	}
	return out
}

// collectUpdates deletes the stored resources of containers that were removed
// while cridock was not running.
func (s *Service) collectUpdates(ctx context.Context) error {
	files, err := beneath.Root(s.cfg.RootDir).Names(updatesDir)
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
	for _, file := range files {
		if id := strings.TrimSuffix(file, ".json"); !live[id] {
			err = errors.Join(err, s.updates.forget(id), beneath.Root(s.cfg.RootDir).RemoveAll(filepath.Join(updatesDir, file)))
		}
	}
	return err
}

// setOOMScoreAdj sets the value of all processes of a running container, which
// Docker can only set at the start; later processes inherit it.
func (s *Service) setOOMScoreAdj(c *translate.Container, value int64) error {
	value = max(value, int64(s.cfg.MinOOMScoreAdj))
	pids, err := s.containerPids(c)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		err := writeKernelFile("/proc", pid+"/oom_score_adj", strconv.FormatInt(value, 10))
		if err != nil && !processGone(err) {
			return fmt.Errorf("oom_score_adj %d of container %s: %w", value, c.ID, err)
		}
	}
	return nil
}

// containerPids returns the process IDs in a running container's own cgroup; none
// if it has exited.
func (s *Service) containerPids(c *translate.Container) ([]string, error) {
	membership, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.Pid))
	if processGone(err) {
		return nil, nil // it has exited
	}
	if err != nil {
		return nil, fmt.Errorf("cgroup of container %s: %w", c.ID, err)
	}
	file, ok := findCgroupFile(s.cfg.CgroupRoot, string(membership), "memory.stat", s.Host().CgroupV2)
	if !ok {
		return []string{strconv.Itoa(c.Pid)}, nil
	}
	procs, err := file.root.ReadFile(filepath.Join(filepath.Dir(file.name), "cgroup.procs"))
	if err != nil {
		// Without access to the cgroup only the first process is known.
		return []string{strconv.Itoa(c.Pid)}, nil //nolint:nilerr // see above
	}
	return strings.Fields(string(procs)), nil
}
