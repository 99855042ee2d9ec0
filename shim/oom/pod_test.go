package oom

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/beneath"
)

const podUID = "12-ab"

// podTest is the control group of a pod on cgroup v2, as far as its counts go.
type podTest struct {
	*testing.T
	w    *Watcher
	root string
}

// count sets the count of a group; "" is the pod's.
func (p *podTest) count(group string, kills int) {
	p.Helper()
	path := filepath.Join(p.root, group, counterV2)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		p.Fatal(err)
	}
	if err := os.WriteFile(path, fmt.Appendf(nil, "oom 9\noom_kill %d\noom_group_kill 0\n", kills), 0o644); err != nil {
		p.Fatal(err)
	}
}

// watch watches a group as [Watcher.Watch] does, but for the notifications, which only
// a real group has.
func (p *podTest) watch(group string, kills int) {
	p.Helper()
	p.count(group, kills)
	g, err := open(beneath.Root(p.root), filepath.Join(group, counterV2))
	if err != nil {
		p.Fatal(err)
	}
	p.w.mu.Lock()
	defer p.w.mu.Unlock()
	p.w.groups[group] = g
	if err := g.read(); err != nil {
		p.Fatal(err)
	}
	p.w.joinLocked(g, podUID, beneath.Root(p.root), counterV2)
}

// notify delivers the notification of a change of the pod's count. What is loose then
// stays so for the time given.
func (p *podTest) notify(loose time.Duration) {
	p.Helper()
	for fd, pod := range p.w.podEvents {
		if g := p.w.noticed(fd); g != nil {
			p.Error("the pod is taken for a group")
		}
		pod.until = time.Now().Add(loose)
	}
}

// vanish makes the count of a group unreadable.
func (p *podTest) vanish(groups ...string) {
	p.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		p.Fatal(err)
	}
	defer func() { _ = null.Close() }()
	for _, group := range groups {
		if err := unix.Dup3(int(null.Fd()), p.w.groups[group].counter, unix.O_CLOEXEC); err != nil {
			p.Fatal(err)
		}
	}
}

func (p *podTest) killed(group string, want bool) {
	p.Helper()
	if p.w.Killed(group) != want {
		p.Errorf("%s: killed %v", group, !want)
	}
}

func newPod(t *testing.T, groups ...string) *podTest {
	p := &podTest{T: t, w: newWatcher(t), root: t.TempDir()}
	p.count("", 5) // of containers that are gone
	for _, group := range groups {
		p.watch(group, 0)
	}
	return p
}

// TestGoneBeforeRead: groups are removed before their counts are read. The pod's count
// says how many containers were killed.
func TestGoneBeforeRead(t *testing.T) {
	p := newPod(t, "a", "b", "c", "stopped")
	p.count("", 5+2)
	p.vanish("a", "b")
	p.notify(time.Hour)
	p.killed("a", true)
	p.killed("b", true)
	p.vanish("stopped")
	p.killed("stopped", false)
	p.killed("a", true) // still
	p.killed("c", false)
}

// TestKillsOfOthers: kills that the count of another container explains are not taken
// for those of one that was stopped.
func TestKillsOfOthers(t *testing.T) {
	p := newPod(t, "restarts", "stopped")
	for kills := range 3 {
		p.count("restarts", kills)
		p.count("", 5+kills)
		p.killed("restarts", kills > 0)
	}
	// One more, which nobody has asked for.
	p.count("restarts", 3)
	p.count("", 5+3)
	p.vanish("stopped")
	p.killed("stopped", false)
}

// TestWatchedLate: kills of a container before it is watched are its own, whether
// they are in the pod's count since the pod is watched or were there before.
func TestWatchedLate(t *testing.T) {
	p := newPod(t, "stopped")
	p.count("", 5+2)
	p.notify(time.Hour)
	p.watch("late", 2)
	p.vanish("stopped")
	p.killed("stopped", false)

	p.watch("running before", 5)
	p.watch("next", 0)
	p.count("", 5+2+1)
	p.vanish("next")
	p.killed("next", true)
}

// TestClaimed: a kill that is known otherwise is not taken for that of another container.
func TestClaimed(t *testing.T) {
	p := newPod(t, "watched", "read", "stopped")
	p.count("", 5+3)
	p.count("read", 1)
	p.vanish("watched")
	p.notify(time.Hour)
	for range 2 {
		for _, c := range []string{"never watched", "watched", "read"} {
			p.w.Claim(c, podUID)
			p.killed(c, true)
		}
	}
	p.vanish("stopped")
	p.killed("stopped", false)

	p.w.Claim("in no known pod", "")
	p.w.Forget("never watched")
	p.killed("never watched", false)
	if len(p.w.pods) != 0 || len(p.w.podEvents) != 0 {
		t.Errorf("%d pods are left", len(p.w.pods))
	}
}

// TestLooseKills: kills that no container explains are nobody's a little later. These
// are of processes of one container that were killed at once, and of containers that
// were killed before they were watched.
func TestLooseKills(t *testing.T) {
	p := newPod(t, "group", "stopped", "other")
	p.count("", 5+3)
	p.vanish("group")
	p.notify(time.Hour)
	p.killed("group", true)
	p.notify(-time.Second)
	p.vanish("stopped")
	p.killed("stopped", false)
	p.count("", 5+3+1)
	p.notify(-time.Second)
	p.vanish("other")
	p.killed("other", false)
	if len(p.w.pods) != 0 || len(p.w.podEvents) != 0 {
		t.Errorf("%d pods are left", len(p.w.pods))
	}
}

func TestPodWithoutCount(t *testing.T) {
	p := &podTest{T: t, w: newWatcher(t), root: t.TempDir()}
	p.watch("a", 0)
	p.vanish("a")
	p.killed("a", false)
}
