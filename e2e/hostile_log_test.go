package e2e

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var logAttacks = []attack{
	{"a pod replaces its logs", func(t *testing.T, p *pod) {
		l := newLogAttack(t, p.cridock)
		l.reopen(t)
		l.replace()
		l.check(t)
	}},
	{"a pod puts a link in place of a log that is being made", racedLog},
}

var logRestarts = []restartAttack{
	{"a pod has replaced its logs", func(t *testing.T, c *cridock) (func(), func(*testing.T)) {
		l := newLogAttack(t, c)
		l.replace()
		return nil, l.check
	}},
}

// logTricks are what a pod that can write to the log directory puts in place of
// a log; LOG is its path, OUT a directory of the node, and VICTIM another pod's
// log.
var logTricks = map[string]string{
	"directory":    "rm LOG; mkdir LOG",
	"fifo":         "rm LOG; mkfifo LOG",
	"hard-link":    "rm LOG; ln VICTIM LOG",
	"link":         "rm LOG; ln -s OUT/secret LOG",
	"dead-link":    "rm LOG; ln -s OUT/new LOG",
	"device":       "rm LOG; mknod LOG c 1 3",
	"old-link":     "mv LOG LOG.20060102-150405; ln -s OUT/secret LOG.20060102-150406; ln -s OUT/tmp LOG.tmp",
	"linked-above": "mv DIR DIR.moved; ln -s OUT DIR",
}

// logAttack is a set of containers that replace their own logs.
type logAttack struct {
	*cridock
	ctrs        map[string]*ctr
	out, victim string
	before      any
}

func newLogAttack(t *testing.T, c *cridock) *logAttack {
	t.Helper()
	l := &logAttack{cridock: c, ctrs: map[string]*ctr{}}
	var before map[string]string
	l.out, before = outside(t)
	l.before = before
	l.victim = c.path("logs", fmt.Sprint("victim-", podCount.Add(1)))
	if err := os.WriteFile(l.victim, []byte("secret\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	p, above := c.runPod(t), c.runPod(t)
	for name := range logTricks {
		of := p
		if name == "linked-above" {
			of = above // its trick replaces the directory
		}
		l.ctrs[name] = of.start(name, "trap 'exit 0' TERM; echo first; sleep 100000 & wait", mounting(c.path("logs"), "/logs"))
	}
	for _, c := range l.ctrs {
		eventuallyLog(t, c, "first")
	}
	return l
}

// replace performs the tricks.
func (l *logAttack) replace() {
	for name, c := range l.ctrs {
		dir := "/logs/" + filepath.Base(c.pod.cfg.LogDirectory)
		c.sh(strings.NewReplacer("DIR", dir, "LOG", dir+"/"+c.cfg.LogPath, "OUT", l.out, "VICTIM", "/logs/"+filepath.Base(l.victim)).Replace(logTricks[name]))
	}
}

// reopen rotates the logs as usual, so that they are being written when they
// are replaced.
func (l *logAttack) reopen(t *testing.T) {
	t.Helper()
	for _, c := range l.ctrs {
		rpc(t, l.runtime.ReopenContainerLog, &runtimeapi.ReopenContainerLogRequest{ContainerId: c.id})
	}
}

// check has the containers print and exit, and reopens their logs.
func (l *logAttack) check(t *testing.T) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(l.ctrs)) {
		l.ctrs[name].in(t).checkReplaced(name)
	}
	for name, c := range l.ctrs {
		c = c.in(t)
		// More than a pipe can hold.
		c.sh("yes 'more than a pipe holds, of a log that is not there any more' | head -n 3000 >/proc/1/fd/1")
		c.checkReplaced(name)
		if _, err := inTime(t, l.runtime.StopContainer, &runtimeapi.StopContainerRequest{ContainerId: c.id, Timeout: longTimeout}); err != nil {
			t.Errorf("%s: stop: %v", name, err)
		}
		if s := c.exited(); s.ExitCode != 0 {
			t.Errorf("%s: exit code %d", name, s.ExitCode)
		}
		if _, err := inTime(t, l.runtime.RemoveContainer, &runtimeapi.RemoveContainerRequest{ContainerId: c.id}); err != nil {
			t.Errorf("%s: remove: %v", name, err)
		}
	}
	if diff := cmp.Diff(l.before, any(tree(t, l.out))); diff != "" {
		t.Errorf("outside of the logs (-before +after):\n%s", diff)
	}
	if got := read(t, l.victim); got != "secret\n" {
		t.Errorf("the log of another pod has %.200q", got)
	}
}

// checkReplaced reopens a log. The call must either fail or create the log
// again.
func (c *ctr) checkReplaced(name string) {
	c.t.Helper()
	_, err := inTime(c.t, c.runtime.ReopenContainerLog, &runtimeapi.ReopenContainerLogRequest{ContainerId: c.id})
	if err != nil {
		c.t.Logf("%s: reopen: %v", name, err)
		return
	}
	info, err := os.Lstat(c.logPath())
	if err != nil || !info.Mode().IsRegular() || links(info) != 1 {
		c.t.Errorf("%s: reopened, and the log is %v, %v", name, info, err)
	}
}

func links(info fs.FileInfo) int {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0
	}
	return int(s.Nlink)
}

// racedLog keeps changing what is at the path of a log, and at that of its
// replacement, while containers start.
func racedLog(t *testing.T, p *pod) {
	dir, before := outside(t)
	q := p.runPod(t)
	log := filepath.Join(q.cfg.LogDirectory, "raced_0.log")
	if err := os.MkdirAll(q.cfg.LogDirectory, 0o755); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var racers sync.WaitGroup
	race := func(do func()) {
		racers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					do()
					time.Sleep(50 * time.Microsecond) // leaves cridock a processor
				}
			}
		})
	}
	// As the pod would, with its directory mounted. An error is a lost race.
	race(func() { _ = os.Symlink(filepath.Join(dir, "secret"), log+".tmp") })
	race(func() { _ = os.Symlink(filepath.Join(dir, "new"), log+".tmp") })
	race(func() {
		_ = os.Symlink(filepath.Join(dir, "new"), log+".mine")
		_ = os.Rename(log+".mine", log)
		time.Sleep(time.Millisecond) // lets cridock get past its first check now and then
	})
	end := sync.OnceFunc(func() { close(stop); racers.Wait() })
	defer end()
	for i := range 8 {
		c := q.create("raced", "echo raced", func(cfg *runtimeapi.ContainerConfig) { cfg.Metadata.Attempt = uint32(i) })
		_, err := inTime(t, p.runtime.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: c.id})
		if err != nil {
			t.Logf("start: %v", err)
		}
		rpc(t, p.runtime.StopContainer, &runtimeapi.StopContainerRequest{ContainerId: c.id})
		rpc(t, p.runtime.RemoveContainer, &runtimeapi.RemoveContainerRequest{ContainerId: c.id})
		if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
			t.Fatalf("outside of the logs (-before +after):\n%s", diff)
		}
	}
}
