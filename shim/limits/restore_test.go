package limits

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/cridock/cridock/translate"
)

// high asks for a limit that systemd overwrites.
func high(value string) *linuxResources {
	return &linuxResources{Unified: map[string]string{"memory.high": value}}
}

func TestRestore(t *testing.T) {
	f := newFixture(t)
	reloaded := map[string]string{"memory.high": "max", "hugetlb.2MB.max": "max", "memory.low": "7"}
	a := f.add("a", running, high("1000000"), reloaded)
	b := f.add("b", running, high("1000000"), reloaded)
	stopped := f.add("c", exited, high("1000000"), reloaded)
	missing := f.add("d", running, high("1000000"), nil)
	f.must(f.records.keep("b", high("2000000")))
	f.lock = func(c *translate.Container) error {
		if c != a && c != b {
			t.Errorf("the pod of container %s was locked", c.ID)
		}
		return nil
	}
	f.Restore(t.Context())
	f.check(a, map[string]string{"memory.high": "1000000", "hugetlb.2MB.max": "max", "memory.low": "7"})
	f.check(b, map[string]string{"memory.high": "2000000", "memory.low": "7"})
	f.check(stopped, reloaded)
	f.remove("cgroup/pods/" + missing.ID + "/cgroup.procs")
	f.remove("cgroup/pods/" + missing.ID) // it is empty: nothing was created
	if f.held != 0 {
		t.Error("a lock was not released")
	}

	// Nothing is written while all values are as requested.
	f.write(a, "memory.high", "1000000")
	f.write(b, "memory.high", "2000000")
	f.lock = func(c *translate.Container) error {
		t.Errorf("container %s was taken for one without its limits", c.ID)
		return nil
	}
	f.Restore(t.Context())
}

// TestRestoreNot: reasons to leave the limits alone, each until it no longer
// applies.
func TestRestoreNot(t *testing.T) {
	for what, test := range map[string]struct{ set, unset func(f *fixture) }{
		"Docker is away":     {func(f *fixture) { f.index.health = errors.New("away") }, func(f *fixture) { f.index.health = nil }},
		"Docker has gone":    {func(f *fixture) { f.index.err = errors.New("gone") }, func(f *fixture) { f.index.err = nil }},
		"no systemd":         {func(f *fixture) { f.host.CgroupDriver = "cgroupfs" }, func(f *fixture) { f.host.CgroupDriver = "systemd" }},
		"the pod is busy":    {func(f *fixture) { f.lock = func(*translate.Container) error { return errors.New("busy") } }, func(f *fixture) { f.lock = nil }},
		"it has been stored": {func(f *fixture) { f.must(f.records.keep("c", high("max"))) }, func(f *fixture) { f.must(f.Forget("c")) }},
		"it is gone meanwhile": {func(f *fixture) {
			f.lock = func(c *translate.Container) error { delete(f.index.byID, c.ID); return nil }
		}, func(f *fixture) { f.lock = nil; f.index.byID["c"] = f.gone }},
		"it has exited meanwhile": {func(f *fixture) {
			f.lock = func(c *translate.Container) error {
				now := *c
				now.State = exited
				f.index.byID[c.ID] = &now
				return nil
			}
		}, func(f *fixture) { f.lock = nil; f.index.byID["c"] = f.gone }},
		"it is right meanwhile": {func(f *fixture) {
			f.lock = func(*translate.Container) error { return f.records.keep("c", high("max")) }
		}, func(f *fixture) { f.lock = nil; f.must(f.Forget("c")) }},
	} {
		t.Run(what, func(t *testing.T) {
			f := newFixture(t)
			c := f.add("c", running, high("1000000"), map[string]string{"memory.high": "max"})
			f.gone = c
			test.set(f)
			f.Restore(t.Context())
			f.check(c, map[string]string{"memory.high": "max"})
			if f.held != 0 {
				t.Error("a lock was not released")
			}
			test.unset(f)
			f.Restore(t.Context())
			f.check(c, map[string]string{"memory.high": "1000000"})
		})
	}
}

// TestRestoreOthers: a container that fails does not prevent the restoration of
// others' limits.
func TestRestoreOthers(t *testing.T) {
	f := newFixture(t)
	a := f.add("a", running, &linuxResources{Unified: map[string]string{"memory.high": "1000000", "memory.low": "4096"}}, map[string]string{"memory.high": "max"})
	b := f.add("b", running, high("1000000"), map[string]string{"memory.high": "max"})
	f.Restore(t.Context())
	f.check(a, map[string]string{"memory.high": "1000000"})
	f.check(b, map[string]string{"memory.high": "1000000"})
}

func TestRun(t *testing.T) {
	f := newFixture(t)
	rounds, enough := 0, make(chan struct{})
	f.add("c", running, high("1000000"), map[string]string{"memory.high": "max"})
	f.lock = func(*translate.Container) error {
		if rounds++; rounds == 3 {
			close(enough)
		}
		return errors.New("busy")
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.Run(ctx) }()
	select {
	case <-enough:
	case <-time.After(time.Minute):
		t.Error("limits are not checked again and again")
	}
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("Run returned %v", err)
	}
}
