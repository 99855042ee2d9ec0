package limits

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/translate"
)

func TestApply(t *testing.T) {
	f := newFixture(t)
	files := map[string]string{"memory.high": "max", "memory.low": "5", "hugetlb.2MB.max": "max"}
	c := f.add("c", running, &linuxResources{
		OomScoreAdj: 7, Unified: map[string]string{"memory.high": "1000000", "memory.low": "0"},
		HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 4096}}, // without the file for reservations
	}, files)
	f.must(f.Apply(c))
	// A new cgroup has its defaults; Docker has set oom_score_adj.
	f.check(c, map[string]string{"memory.high": "1000000", "memory.low": "5", "hugetlb.2MB.max": "4096"})
	f.checkOOM(c, "7\n")

	// After an update before the start, all of it is set.
	f.index.byID["c"].State = created
	f.must(f.Update(t.Context(), "c", &linuxResources{OomScoreAdj: -900, Unified: map[string]string{"memory.high": "2000000"}}))
	f.check(c, map[string]string{"memory.high": "1000000"})
	f.index.byID["c"].State = running
	f.must(f.Apply(c))
	f.check(c, map[string]string{"memory.high": "2000000", "memory.low": "0", "hugetlb.2MB.max": "4096"})
	f.checkOOM(c, "-500") // the node's minimum

	f.remove("cgroup/pods/c/memory.low")
	if err := f.Apply(c); err != nil {
		t.Errorf("a limit that is the default has no file: %v", err)
	}
	f.remove("cgroup/pods/c/memory.high")
	if err := f.Apply(c); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "memory.high of container c") {
		t.Errorf("a limit has no file: %v; want ErrFailedPrecondition that names it", err)
	}
	f.put(fmt.Sprintf("proc/%d/cgroup", c.Pid), "0::/../c\n")
	if err := f.Apply(c); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("the cgroup is not visible: %v; want ErrFailedPrecondition", err)
	}
	f.remove(fmt.Sprintf("proc/%d/cgroup", c.Pid))
	if err := f.Apply(c); err != nil {
		t.Errorf("the container has exited: %v", err)
	}
}

// TestLimitsOverLinks: nothing is written outside the cgroup, even if its directory
// is not what it should be.
func TestLimitsOverLinks(t *testing.T) {
	f := newFixture(t)
	c := f.add("c", running, &linuxResources{Unified: map[string]string{"memory.high": "1000000"}}, nil)
	f.put("outside/memory.high", "old")
	f.put(fmt.Sprintf("proc/%d/cgroup", c.Pid), "0::/linked\n")
	f.link("outside", "cgroup/linked")
	if err := f.Apply(c); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("over a link: %v; want ErrFailedPrecondition", err)
	}
	if err := f.Update(t.Context(), "c", &linuxResources{Unified: map[string]string{"memory.high": "2000000"}}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("an update over a link: %v; want ErrFailedPrecondition", err)
	}
	f.checkFile("outside/memory.high", "old")
}

func TestUpdate(t *testing.T) {
	f := newFixture(t)
	had := &linuxResources{CpuShares: 512, MemoryLimitInBytes: 32 << 20, MemorySwapLimitInBytes: 32 << 20, OomScoreAdj: 100, Unified: map[string]string{"memory.high": "1000000"}}
	c := f.add("c", running, had, map[string]string{"memory.high": "1000000", "memory.low": "0", "memory.swap.max": "7"})
	f.must(f.Update(t.Context(), "c", &linuxResources{CpuShares: 256, OomScoreAdj: 900, Unified: map[string]string{"memory.low": "4096"}}))
	if diff := cmp.Diff([]container.Resources{{CPUShares: 256}}, f.engine.updates); diff != "" {
		t.Errorf("updates of Docker (-want +got):\n%s", diff)
	}
	// What Docker's update makes runc reset is written as well.
	f.check(c, map[string]string{"memory.high": "1000000", "memory.low": "4096", "memory.swap.max": "0"})
	f.checkOOM(c, "900")
	if diff := cmp.Diff([]string{"c"}, f.index.synced); diff != "" {
		t.Errorf("synced (-want +got):\n%s", diff)
	}
	want := &linuxResources{ // Docker's own are in the index
		CpuShares: 512, MemoryLimitInBytes: 32 << 20, MemorySwapLimitInBytes: 32 << 20, OomScoreAdj: 900,
		Unified: map[string]string{"memory.high": "1000000", "memory.low": "4096"},
	}
	checkEffective := func() {
		t.Helper()
		for what, k := range map[string]*Keeper{"this": f.Keeper, "the next": f.newKeeper()} {
			if diff := cmp.Diff(want, k.Effective(c).Resources, protocmp.Transform()); diff != "" {
				t.Errorf("resources of %s process (-want +got):\n%s", what, diff)
			}
		}
	}
	checkEffective()
	if c.Resources != had || had.Unified["memory.low"] != "" {
		t.Error("the container of the index has changed")
	}

	// Zero values change nothing.
	f.must(f.Update(t.Context(), "c", nil))
	f.must(f.Update(t.Context(), "c", &linuxResources{}))
	f.checkOOM(c, "900")
	checkEffective()
	if len(f.engine.updates) != 1 {
		t.Errorf("empty updates reached Docker: %v", f.engine.updates[1:])
	}
}

func TestUpdateRefused(t *testing.T) {
	for _, test := range []struct {
		what  string
		state runtimeapi.ContainerState
		want  *linuxResources
		is    func(error) bool
	}{
		{"exited", exited, &linuxResources{CpuShares: 3}, errdefs.IsFailedPrecondition},
		{"a path", running, &linuxResources{Unified: map[string]string{"cpu./../../x": "1"}}, errdefs.IsInvalidArgument},
		{"the cgroup's own file", created, &linuxResources{Unified: map[string]string{"cgroup.freeze": "1"}}, errdefs.IsInvalidArgument},
		{"a page size", running, &linuxResources{HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "../2MB"}}}, errdefs.IsInvalidArgument},
		{"memory", running, &linuxResources{MemoryLimitInBytes: 1}, errdefs.IsInvalidArgument},
	} {
		f := newFixture(t)
		c := f.add("c", test.state, &linuxResources{}, map[string]string{"cgroup.freeze": "0"})
		if err := f.Update(t.Context(), "c", test.want); !test.is(err) {
			t.Errorf("%s: %v, of another class", test.what, err)
		}
		if f.Effective(c) != c || len(f.engine.updates) > 0 || len(f.store.docs) > 0 {
			t.Errorf("%s: something was updated: %v, %v", test.what, f.engine.updates, f.store.docs)
		}
		f.check(c, map[string]string{"cgroup.freeze": "0"})
	}
	// Names are checked before anything is read.
	f := newFixture(t)
	c := f.add("c", running, &linuxResources{}, nil)
	f.remove(fmt.Sprintf("proc/%d/cgroup", c.Pid))
	f.put(fmt.Sprintf("proc/%d/cgroup/unreadable", c.Pid), "")
	if err := f.Update(t.Context(), "c", &linuxResources{}); err != nil {
		t.Errorf("no files: %v", err)
	}
	if err := f.Update(t.Context(), "c", high("1000000")); err == nil || !strings.Contains(err.Error(), "container c") {
		t.Errorf("the cgroup is unknown: %v", err)
	}
	if err := f.Update(t.Context(), "c", &linuxResources{Unified: map[string]string{"cgroup.freeze": "1"}}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a name that is refused: %v, of another class", err)
	}
	if err := f.Update(t.Context(), "other", nil); !errdefs.IsNotFound(err) {
		t.Errorf("unknown: %v", err)
	}
}

// TestUpdateUndone: wherever an update fails, what it has done is reverted.
func TestUpdateUndone(t *testing.T) {
	cause := fmt.Errorf("cause: %w", errdefs.ErrUnavailable)
	for _, test := range []struct {
		what    string
		breaks  func(f *fixture)
		updates int // of Docker, with the one that reverts
	}{
		{"Docker", func(f *fixture) { f.engine.errs = []error{cause} }, 1},
		{"a cgroup file", func(f *fixture) { f.remove("cgroup/pods/c/memory.min") }, 2},
		{"oom_score_adj", func(f *fixture) { f.remove("proc/101/oom_score_adj"); f.link("outside", "proc/101/oom_score_adj") }, 2},
		{"the store", func(f *fixture) { f.store.write = cause }, 2},
	} {
		t.Run(test.what, func(t *testing.T) {
			f := newFixture(t)
			f.put("outside", "old")
			c := f.add("c", running, &linuxResources{CpuShares: 512, OomScoreAdj: 100, Unified: map[string]string{"memory.high": "1000000"}},
				map[string]string{"memory.high": "1000000", "memory.low": "0", "memory.min": "0"})
			test.breaks(f)
			ctx, cancel := context.WithCancel(t.Context())
			cancel() // undoing does not depend on the caller
			err := f.Update(ctx, "c", &linuxResources{CpuShares: 256, OomScoreAdj: 900, Unified: map[string]string{"memory.high": "2000000", "memory.low": "4096", "memory.min": "4096"}})
			if err == nil || !errdefs.IsFailedPrecondition(err) && !errors.Is(err, cause) {
				t.Errorf("%v; want the cause", err)
			}
			f.check(c, map[string]string{"memory.high": "1000000", "memory.low": "0"})
			f.checkFile("proc/100/oom_score_adj", "100")
			f.checkFile("outside", "old")
			if n := len(f.engine.updates); n != test.updates || n == 2 && f.engine.updates[1].CPUShares != 512 {
				t.Errorf("updates of Docker: %v", f.engine.updates)
			}
			if f.Effective(c) != c || len(f.store.docs) > 0 {
				t.Errorf("the update is stored: %s", f.store.docs)
			}
		})
	}
}

// TestUpdateOfSmallMemory: Docker has its minimum for limits below it, of which the
// last one set is in force.
func TestUpdateOfSmallMemory(t *testing.T) {
	small := func() *linuxResources {
		return &linuxResources{MemoryLimitInBytes: 4 << 20, MemorySwapLimitInBytes: 4 << 20}
	}
	f := newFixture(t)
	c := f.add("c", running, small(), map[string]string{"memory.max": "4194304", "memory.swap.max": "0"})
	f.must(f.Update(t.Context(), "c", &linuxResources{CpuShares: 3, MemoryLimitInBytes: 4 << 20}))
	f.must(f.Update(t.Context(), "c", &linuxResources{MemoryLimitInBytes: 6 << 20}))
	want := []container.Resources{{CPUShares: 3}, {Memory: 6 << 20, MemorySwap: 6 << 20}}
	if diff := cmp.Diff(want, f.engine.updates); diff != "" {
		t.Errorf("updates of Docker (-want +got):\n%s", diff)
	}
	for what, k := range map[string]*Keeper{"this": f.Keeper, "the next": f.newKeeper()} {
		if r := k.Effective(c).Resources; r.MemoryLimitInBytes != 6<<20 || r.MemorySwapLimitInBytes != 6<<20 {
			t.Errorf("in %s process: %v", what, r)
		}
	}
	// Docker has any higher limit.
	f.must(f.Update(t.Context(), "c", &linuxResources{MemoryLimitInBytes: 8 << 20}))
	higher := c.WithResources(&linuxResources{MemoryLimitInBytes: 8 << 20, MemorySwapLimitInBytes: 8 << 20})
	if r := f.Effective(higher).Resources; r.MemoryLimitInBytes != 8<<20 {
		t.Errorf("after another update: %v", r)
	}

	// What Docker cannot revert to is written.
	f = newFixture(t)
	c = f.add("c", running, small(), map[string]string{"memory.max": "4194304", "memory.swap.max": "0"})
	f.engine.updated = func() { f.write(c, "memory.max", "6291456") }
	f.store.write = errors.New("disk full")
	if err := f.Update(t.Context(), "c", &linuxResources{MemoryLimitInBytes: 8 << 20}); err == nil {
		t.Error("the failed update is no error")
	}
	f.check(c, map[string]string{"memory.max": "4194304"})
	if n := len(f.engine.updates); n != 2 || f.engine.updates[1].Memory != 6<<20 {
		t.Errorf("updates of Docker: %v", f.engine.updates)
	}
}

// TestUpdatedFails: whoever is told of an update can prevent it.
func TestUpdatedFails(t *testing.T) {
	f := newFixture(t)
	c := f.add("c", running, &linuxResources{CpusetCpus: "1"}, nil)
	var told []string
	f.opts.Updated = func(c *translate.Container, want *linuxResources) error {
		told = append(told, c.ID+" "+want.GetCpusetCpus())
		return errors.New("no")
	}
	if err := f.Update(t.Context(), "c", &linuxResources{CpusetCpus: "2"}); err == nil || err.Error() != "no" {
		t.Error(err)
	}
	if diff := cmp.Diff([]container.Resources{{CpusetCpus: "2"}, {CpusetCpus: "1"}}, f.engine.updates); diff != "" || f.Effective(c) != c {
		t.Errorf("updates of Docker (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"c 2"}, told); diff != "" {
		t.Error(diff)
	}
}

// TestUpdatedIsUndone: whoever was told of an update that fails later is told what
// holds again.
func TestUpdatedIsUndone(t *testing.T) {
	f := newFixture(t)
	f.add("c", running, &linuxResources{CpusetCpus: "1"}, nil)
	var told []string
	f.opts.Updated = func(_ *translate.Container, r *linuxResources) error {
		told = append(told, r.GetCpusetCpus())
		return nil
	}
	f.store.write = errors.New("disk full")
	if err := f.Update(t.Context(), "c", &linuxResources{CpusetCpus: "2"}); err == nil {
		t.Error("the failed update is no error")
	}
	if diff := cmp.Diff([]string{"2", "1"}, told); diff != "" {
		t.Error(diff)
	}
}

func TestUpdateNotUndone(t *testing.T) {
	f := newFixture(t)
	f.add("c", running, &linuxResources{CpuShares: 512}, nil)
	f.engine.errs = []error{nil, errors.New("trouble")}
	err := f.Update(t.Context(), "c", &linuxResources{CpuShares: 256, Unified: map[string]string{"memory.high": "1000000"}})
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "memory.high") || !strings.Contains(err.Error(), "trouble") {
		t.Errorf("%v; want the cause and, in its text, that its rollback is incomplete", err)
	}
}
