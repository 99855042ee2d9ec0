package limits

import (
	"errors"
	"io/fs"
	"sync"
	"sync/atomic"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/translate"
)

// records holds the resources that updates have set and for which Docker has no
// field: unified, hugepages and oom_score_adj. Of memory and swap it holds those that
// Docker's fields leave open, see [translate.AmbiguousMemory]. The store preserves them across
// restarts. Reads come from memory, as every status needs them.
type records struct {
	store Store
	load  sync.Once

	mu   sync.RWMutex
	byID map[string]*update
}

// read loads, once, what an earlier process has stored.
func (r *records) read() {
	r.load.Do(func() {
		r.byID = map[string]*update{}
		ids, err := r.store.IDs()
		if err != nil {
			klog.Background().Error(err, "Failed to list updated resources of containers; some updates are lost")
		}
		for _, id := range ids {
			stored, err := r.decode(id)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				// Ignore it: a bad document must not hide the container.
				klog.Background().Error(err, "Failed to read updated resources of a container; its updates are partly lost", "containerID", id)
				continue
			}
			r.byID[id] = &update{resources: stored}
		}
	})
}

// decode reads a container's document and validates what names files of a cgroup.
func (r *records) decode(id string) (*runtimeapi.LinuxContainerResources, error) {
	b, err := r.store.Read(id)
	if err != nil {
		return nil, err
	}
	stored := &runtimeapi.LinuxContainerResources{}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, stored); err != nil {
		return nil, err
	}
	return stored, translate.ValidateCgroupFiles("resources", stored)
}

// get returns what is stored for a container, which the caller must not change;
// nil before its first update.
func (r *records) get(containerID string) *update {
	r.read()
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.byID[containerID]
}

// update is what is stored for one container.
type update struct {
	resources *runtimeapi.LinuxContainerResources
	last      atomic.Pointer[applied]
}

// applied is a container before and after an update.
type applied struct{ before, after *translate.Container }

// apply is [Keeper.Effective]. Encoding a container is most of the cost of its
// status, so the result serves until the container changes.
func (r *records) apply(c *translate.Container) *translate.Container {
	u := r.get(c.ID)
	if u == nil {
		return c
	}
	if last := u.last.Load(); last != nil && last.before == c {
		return last.after
	}
	now := proto.CloneOf(c.Resources)
	now.Unified, now.HugepageLimits, now.OomScoreAdj = u.resources.Unified, u.resources.HugepageLimits, u.resources.OomScoreAdj
	if translate.AmbiguousMemory(now) && u.resources.MemoryLimitInBytes != 0 {
		now.MemoryLimitInBytes, now.MemorySwapLimitInBytes = u.resources.MemoryLimitInBytes, u.resources.MemorySwapLimitInBytes
	}
	after := c.WithResources(now)
	u.last.Store(&applied{c, after})
	return after
}

// keep stores the resources of an updated container.
func (r *records) keep(containerID string, now *runtimeapi.LinuxContainerResources) error {
	stored := &runtimeapi.LinuxContainerResources{Unified: now.GetUnified(), HugepageLimits: now.GetHugepageLimits(), OomScoreAdj: now.GetOomScoreAdj()}
	if translate.AmbiguousMemory(now) {
		stored.MemoryLimitInBytes, stored.MemorySwapLimitInBytes = now.GetMemoryLimitInBytes(), now.GetMemorySwapLimitInBytes()
	}
	b, err := protojson.Marshal(stored)
	if err != nil {
		return err
	}
	if err := r.store.Write(containerID, b); err != nil {
		return err
	}
	r.read()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.byID[containerID] = &update{resources: stored}
	return nil
}

// forget is [Keeper.Forget].
func (r *records) forget(containerID string) error {
	r.read()
	r.mu.Lock()
	delete(r.byID, containerID)
	r.mu.Unlock()
	return r.store.Remove(containerID)
}
