package e2e

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// fakeSystemd starts and stops the processes of a node, as systemctl asks for it. Its
// kubelet does nothing.
type fakeSystemd struct {
	c        *cridock
	old      oldAdapter // cri-docker.service
	dir      string
	requests chan string
	reply    *os.File
	active   map[string]bool
	enabled  map[string]bool
	asked    []string // what changes something
}

// oldAdapter is the one that a node is migrated from.
type oldAdapter struct {
	start, stop func(*testing.T)
	socket      string
	command     []string
}

// systemctl hands its arguments over, and waits for the answer.
const systemctl = `#!/bin/sh
cd "${0%/*}/.." || exit
echo "$*" >request
read -r status <reply
cat output
exit "$status"
`

// migrateHere runs cridock migrate with the fake systemctl, and with /etc and
// /run/systemd of its own.
const migrateHere = `set -e
mount --bind "$1/etc" /etc
mkdir -p /run/systemd
mount -t tmpfs none /run/systemd
mkdir /run/systemd/system
PATH=$1/bin:$PATH
shift
exec "$@"
`

func newFakeSystemd(t *testing.T, c *cridock, old oldAdapter) *fakeSystemd {
	t.Helper()
	s := &fakeSystemd{
		c: c, old: old, dir: c.path("systemd"), requests: make(chan string, 1),
		active: map[string]bool{"kubelet.service": true, "cri-docker.service": true}, enabled: map[string]bool{"kubelet.service": true, "cri-docker.service": true},
	}
	units := "etc/systemd/system/"
	s.write(t, "bin/systemctl", systemctl)
	s.write(t, units+"kubelet.service", "[Service]\nEnvironmentFile=-"+s.dir+"/kubelet.env\nExecStart=/usr/bin/kubelet --config="+s.dir+"/config.yaml $KUBELET_ARGS\n")
	s.write(t, "kubelet.env", "# flags\nKUBELET_ARGS=\"--v=2 \\\n  --container-runtime-endpoint unix://"+old.socket+"\"\n")
	s.write(t, units+"cri-docker.service", "[Service]\nExecStart="+strings.Join(old.command, " ")+"\n")
	s.write(t, units+"cridock.service", "[Service]\nExecStart="+binary+" "+strings.Join(c.serve(), " ")+"\n")
	for _, name := range []string{"request", "reply"} {
		if err := unix.Mkfifo(filepath.Join(s.dir, name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// Opened for both, no end waits for the other.
	f, err := os.OpenFile(filepath.Join(s.dir, "request"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if s.reply, err = os.OpenFile(filepath.Join(s.dir, "reply"), os.O_RDWR, 0); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for lines := bufio.NewScanner(f); lines.Scan(); {
			s.requests <- lines.Text()
		}
	}()
	t.Cleanup(func() {
		_ = f.Close()
		_ = s.reply.Close()
		<-done
	})
	return s
}

func (s *fakeSystemd) write(t *testing.T, name, content string) {
	t.Helper()
	path := filepath.Join(s.dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o755)); err != nil {
		t.Fatal(err)
	}
}

// migrate runs the command and returns what it prints.
func (s *fakeSystemd) migrate(t *testing.T, args ...string) string {
	t.Helper()
	cmd := s.c.command(append([]string{"unshare", "--mount", "sh", "-c", migrateHere, "sh", s.dir, binary, "migrate"}, args...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for limit := time.After(5 * time.Minute); ; {
		select {
		case request := <-s.requests:
			s.write(t, "output", s.answer(t, strings.Fields(request)))
			if _, err := s.reply.WriteString("0\n"); err != nil {
				t.Fatal(err)
			}
		case err := <-ended:
			if err != nil {
				t.Fatalf("migrate %q: %v\n%s", args, err, &out)
			}
			return out.String()
		case <-limit:
			_ = cmd.Process.Kill()
			t.Fatalf("migrate %q does not end\n%s", args, &out)
		}
	}
}

// answer does what systemctl is asked for.
func (s *fakeSystemd) answer(t *testing.T, args []string) string {
	t.Helper()
	verb, name := args[0], args[len(args)-1]
	if verb == "show" {
		return s.show(name)
	}
	s.asked = append(s.asked, strings.Join(args, " "))
	switch verb {
	case "enable", "disable":
		s.enabled[name] = verb == "enable"
	case "stop":
		s.stop(t, name)
	case "start":
		s.start(t, name)
	case "restart":
		s.stop(t, name)
		s.start(t, name)
	}
	return ""
}

func (s *fakeSystemd) show(name string) string {
	load, active, enabled := "not-found", "inactive", "disabled"
	if _, err := os.Stat(filepath.Join(s.dir, "etc/systemd/system", name)); err == nil {
		load = "loaded"
	}
	if s.active[name] {
		active = "active"
	}
	if s.enabled[name] {
		enabled = "enabled"
	}
	return fmt.Sprintf("Id=%s\nLoadState=%s\nActiveState=%s\nUnitFileState=%s\nMainPID=1\n", name, load, active, enabled)
}

func (s *fakeSystemd) start(t *testing.T, name string) {
	t.Helper()
	if s.active[name] {
		return
	}
	s.active[name] = true
	switch name {
	case "cri-docker.service":
		s.old.start(t)
	case "cridock.service":
		if err := s.c.start(); err != nil {
			t.Fatal(err)
		}
	}
}

func (s *fakeSystemd) stop(t *testing.T, name string) {
	t.Helper()
	if !s.active[name] {
		return
	}
	s.active[name] = false
	var err error
	switch name {
	case "cri-docker.service":
		s.old.stop(t)
	case "cridock.service":
		err = s.c.stop()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (s *fakeSystemd) files(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	paths, err := filesBelow(filepath.Join(s.dir, "etc"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		all[path] = ""
	}
	b, err := os.ReadFile(filepath.Join(s.dir, "kubelet.env"))
	if err != nil {
		t.Fatal(err)
	}
	all["kubelet.env"] = string(b)
	return all
}

// TestMigrate moves a node from an adapter that answers no CRI v1, with a pod like
// cri-dockerd's, to cridock and back, and again, with the command.
func TestMigrate(t *testing.T) {
	t.Parallel()
	c := newMigrating(t, newNode(t))
	pod := newWorkload(t, c, &foreign{cridock: c, mounts: true, root: c.path("cri-dockerd")}, 18085)
	nothing := func(*testing.T) {}
	socket := c.path("cri-dockerd.sock")
	s := newFakeSystemd(t, c, oldAdapter{start: nothing, stop: nothing, socket: socket, command: []string{
		"/usr/bin/cri-dockerd", "--docker-endpoint=unix://" + c.node.dir + "/docker.sock",
		"--cni-conf-dir=" + c.confDir(), "--cni-bin-dir=" + c.binDir(), "--cni-cache-dir=" + c.cacheDir(), "--container-runtime-endpoint", "unix://" + socket,
	}})
	s.thereAndBack(t, pod, func() {
		if now := pod.processes(t); !cmp.Equal(pod.ran, now) {
			t.Errorf("processes were %v and are %v", pod.ran, now)
		}
		for _, running := range []*ctr{pod.counter, pod.server} {
			if _, err := os.Readlink(running.logPath()); err != nil {
				t.Errorf("the log is no link to Docker's: %v", err)
			}
		}
	})
}

// TestMigrateCRIDockerd does so with a real cri-dockerd. CRIDOCK_E2E_CRI_DOCKERD is as
// in TestCRIDockerd.
func TestMigrateCRIDockerd(t *testing.T) {
	path := os.Getenv("CRIDOCK_E2E_CRI_DOCKERD")
	if path == "" {
		t.Skip("CRIDOCK_E2E_CRI_DOCKERD is not set: the path of a cri-dockerd")
	}
	t.Parallel()
	c := newMigrating(t, newNode(t, runtimeFlags(t)...))
	d := newCRIDockerd(t, path, c)
	d.start(t)
	pod := newWorkload(t, c, cri{d.runtime}, 18086)
	s := newFakeSystemd(t, c, oldAdapter{start: d.start, socket: d.socket(), command: d.serve(), stop: func(t *testing.T) {
		if err := d.kill(); err != nil {
			t.Fatal(err)
		}
	}})
	s.thereAndBack(t, pod, func() { pod.checkAt(d) })
}

func newMigrating(t *testing.T, n *node) *cridock {
	t.Helper()
	c := installCridock(t, n, "cni")
	conf := c.path("conf.d")
	if err := os.Mkdir(conf, 0o755); err != nil {
		t.Fatal(err)
	}
	c.flags = []string{"--config-dir=" + conf}
	return c
}

// thereAndBack ends on cridock. atOld checks the pod back on the old adapter.
func (s *fakeSystemd) thereAndBack(t *testing.T, pod *workload, atOld func()) {
	t.Helper()
	before := s.files(t)
	if out := s.migrate(t, "--from=cri-dockerd", "--dry-run"); len(s.asked) > 0 || !strings.Contains(out, "Nothing was changed") {
		t.Errorf("a dry run asked for %q and says\n%s", s.asked, out)
	}
	s.checkFiles(t, before)

	out := s.migrate(t, "--from=cri-dockerd", "--yes")
	if !strings.Contains(out, "the same as before: 1 sandboxes with 1 host ports, 5 containers, of which 2 run") {
		t.Errorf("it says\n%s", out)
	}
	s.checkRunning(t, "cridock.service")
	pod.checkTaken()

	s.migrate(t, "--back", "--yes")
	s.checkRunning(t, "cri-docker.service")
	s.checkFiles(t, before)
	if pins, err := os.ReadDir(s.c.netns()); err != nil || len(pins) > 0 {
		t.Errorf("pins are left: %v (%v)", pins, err)
	}
	atOld()

	s.migrate(t, "--from=cri-dockerd", "--yes")
	s.checkRunning(t, "cridock.service")
	pod.checkTaken()
	pod.checkUsable()
}

// checkRunning: one adapter runs, and the kubelet.
func (s *fakeSystemd) checkRunning(t *testing.T, adapter string) {
	t.Helper()
	for _, name := range []string{"cridock.service", "cri-docker.service", "kubelet.service"} {
		if want := name == adapter || name == "kubelet.service"; s.active[name] != want || s.enabled[name] != want {
			t.Errorf("%s runs: %t, is enabled: %t", name, s.active[name], s.enabled[name])
		}
	}
}

func (s *fakeSystemd) checkFiles(t *testing.T, before map[string]string) {
	t.Helper()
	if now := s.files(t); fmt.Sprint(now) != fmt.Sprint(before) {
		t.Errorf("files were %v\nand are %v", before, now)
	}
}
