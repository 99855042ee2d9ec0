package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// diagnosis is the output of cridock doctor, by check.
type diagnosis map[string]struct{ State, Why, Cure string }

// doctor runs the checks with cridock's settings, and compares the exit status
// with the worst result.
func (c *cridock) doctor(t *testing.T) diagnosis {
	t.Helper()
	args := append([]string{binary, "doctor", "-o", "json", "--daemon-config=" + c.node.dir + "/daemon.json"}, c.serve()[1:]...)
	cmd := c.command(append(args, "--v=0")...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := time.Now()
	err := cmd.Run()
	if took := time.Since(start); took > time.Minute {
		t.Errorf("cridock doctor took %v", took)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	var report struct {
		State   string
		Results []struct{ Check, State, Why, Cure string }
	}
	if err := json.Unmarshal(stdout.Bytes(), &report); err != nil {
		t.Fatalf("%v, exit status %v: %s%s", err, exit, &stdout, &stderr)
	}
	if code, want := cmd.ProcessState.ExitCode(), map[string]int{"ok": 0, "warning": 2, "error": 3}[report.State]; code != want || stderr.Len() > 0 {
		t.Errorf("exit status %d with state %s, want %d; it says on standard error: %s", code, report.State, want, &stderr)
	}
	d := diagnosis{}
	for _, r := range report.Results {
		d[r.Check] = struct{ State, Why, Cure string }{r.State, r.Why, r.Cure}
	}
	return d
}

// want compares the states of checks, and a part of their reasons.
func (d diagnosis) want(t *testing.T, when, state, why string, checks ...string) {
	t.Helper()
	for _, check := range checks {
		if got := d[check]; got.State != state || !strings.Contains(got.Why, why) || (got.Cure == "") != (state == "ok" || state == "skipped") {
			t.Errorf("%s: %s is %+v, want %s because of %q", when, check, got, state, why)
		}
	}
}

// nodeState is everything that the doctor could change.
func (c *cridock) nodeState(t *testing.T) (state []string) {
	t.Helper()
	files, err := filesBelow(c.dir)
	mounts, mountErr := c.mounts()
	rules, rulesErr := c.allRules()
	containers, listErr := c.docker.withLabel("io.kubernetes.pod.uid")
	if err := errors.Join(err, mountErr, rulesErr, listErr); err != nil {
		t.Fatal(err)
	}
	return slices.Concat(files, mounts, rules, containers)
}

var leftoverChecks = []string{"leftover-addresses", "leftover-namespaces", "leftover-mounts", "leftover-logs"}

// TestDoctor runs the checks before and after cridock runs, and with various
// faults on the node. Other results depend on the machine.
func TestDoctor(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	c := installCridock(t, n, "cni")
	usual := []string{"engine", "storage", "daemon-json", "overlay", "ip-forwarding", "cni-config", "cni-plugins", "cni-status", "host-ports", "forward-policy", "other-sockets", "served-socket"}

	before := c.nodeState(t)
	d := c.doctor(t)
	d.want(t, "before", "ok", "", append(usual, leftoverChecks...)...)
	for check, r := range d {
		if r.State != "ok" {
			t.Logf("before: %s: %s: %s", check, r.State, r.Why)
		}
	}
	d.want(t, "before", "skipped", "does not run", "served-status", "served-settings")
	d.want(t, "before", "warning", "live-restore is off", "live-restore")
	if diff := cmp.Diff(before, c.nodeState(t)); diff != "" {
		t.Errorf("it changed the node (-before +after):\n%s", diff)
	}

	t.Run("forward policy", func(t *testing.T) { c.doctorFindsForwardDrop(t) })
	if err := c.start(); err != nil {
		t.Fatal(err)
	}
	p := c.runPod(t)
	d = c.doctor(t)
	d.want(t, "with cridock", "ok", "", slices.Concat(usual, leftoverChecks, []string{"served-status", "served-settings"})...)
	if want := n.docker.engineVersion(t); !strings.Contains(d["engine"].Why, "Docker "+want+" ") {
		t.Errorf("%+v, want version %s", d["engine"], want)
	}

	t.Run("missing plugin", func(t *testing.T) { c.doctorFindsMissingPlugin(t) })
	t.Run("other adapter", func(t *testing.T) { c.doctorFindsOtherAdapter(t) })
	t.Run("leftovers", func(t *testing.T) { c.doctorFindsLeftovers(t, p.id) })
	t.Run("hanging engine", func(t *testing.T) { c.doctorOutlastsDocker(t) })
	c.doctor(t).want(t, "at the end", "ok", "", slices.Concat(usual, leftoverChecks)...)
}

// engineVersion returns the version of the engine that its API reports.
func (d *docker) engineVersion(t *testing.T) string {
	t.Helper()
	var v struct{ Version string }
	d.must(t, http.MethodGet, "/version", nil, &v)
	return v.Version
}

// doctorFindsForwardDrop: dockerd has to turn on forwarding itself.
func (c *cridock) doctorFindsForwardDrop(t *testing.T) {
	c.run(t, "sh", "-c", "echo 0 >/proc/sys/net/ipv4/ip_forward")
	killed := c.dockerd(t)
	c.run(t, "kill", "-KILL", killed) // and restarted
	eventually(t, "another dockerd answers", time.Minute, func() bool {
		_, err := c.docker.call(http.MethodGet, "/version", nil, nil)
		return err == nil && c.dockerd(t) != killed
	})
	defer c.run(t, "iptables", "-P", "FORWARD", "ACCEPT")
	d := c.doctor(t)
	d.want(t, "after dockerd's start", "ok", "", "engine", "ip-forwarding")
	d.want(t, "after dockerd's start", "error", "FORWARD chain is DROP", "forward-policy")
	c.run(t, "iptables", "-A", "FORWARD", "-i", "e2e0", "-j", "ACCEPT")
	defer c.run(t, "iptables", "-D", "FORWARD", "-i", "e2e0", "-j", "ACCEPT")
	c.doctor(t).want(t, "with a rule for pods", "ok", "-i e2e0", "forward-policy")
}

// dockerd returns its PID on the node; "" while it does not run.
func (c *cridock) dockerd(t *testing.T) string {
	t.Helper()
	pid, err := os.ReadFile(filepath.Join(c.node.dir, "dockerd.pid"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(pid))
}

func (c *cridock) doctorFindsMissingPlugin(t *testing.T) {
	c.useConf(t, c.conflist(`{"type": "e2e-absent"}`))
	defer c.useConf(t, c.conflist())
	d := c.doctor(t)
	d.want(t, "absent", "error", "needs the plugin e2e-absent", "cni-plugins")
	d.want(t, "absent", "error", "e2e-absent", "cni-status", "served-status")
}

func (c *cridock) doctorFindsOtherAdapter(t *testing.T) {
	// In the node's own /run, under the name that the kernel then lists.
	var l net.Listener
	err := c.inNetNS(func() (err error) {
		mounts, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", c.pid))
		if err != nil {
			return err
		}
		defer func() { _ = mounts.Close() }()
		// The thread exits with inNetNS.
		if err := errors.Join(unix.Unshare(unix.CLONE_FS), unix.Setns(int(mounts.Fd()), unix.CLONE_NEWNS)); err != nil {
			return err
		}
		l, err = net.Listen("unix", "/run/cri-dockerd.sock")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	defer func() { _ = os.Remove(fmt.Sprintf("/proc/%d/root/run/cri-dockerd.sock", c.pid)) }()
	c.doctor(t).want(t, "served", "error", "cri-dockerd serves /run/cri-dockerd.sock", "other-sockets")
	_ = l.Close()
	c.doctor(t).want(t, "stale", "warning", "Nobody listens", "other-sockets")
}

// doctorFindsLeftovers: the pod's container is removed while cridock does not
// run.
func (c *cridock) doctorFindsLeftovers(t *testing.T, id string) {
	if err := c.kill(); err != nil {
		t.Fatal(err)
	}
	c.docker.must(t, http.MethodDelete, "/containers/"+id+"?force=1", nil, nil)
	d := c.doctor(t)
	d.want(t, "killed", "error", "Nobody listens", "served-socket")
	d.want(t, "killed", "warning", "10.77.", "leftover-addresses")
	d.want(t, "killed", "warning", filepath.Join(c.netns(), id), "leftover-namespaces")
	if err := c.start(); err != nil {
		t.Fatal(err)
	}
	// The cure that the doctor names.
	eventually(t, "nothing is left over", time.Minute, func() bool {
		d = c.doctor(t)
		return d["leftover-addresses"].State == "ok" && d["leftover-namespaces"].State == "ok"
	})
}

// doctorOutlastsDocker: dockerd accepts connections and never responds.
func (c *cridock) doctorOutlastsDocker(t *testing.T) {
	pid := c.dockerd(t)
	c.run(t, "kill", "-STOP", pid)
	defer c.run(t, "kill", "-CONT", pid)
	d := c.doctor(t)
	d.want(t, "stopped", "error", "does not answer", "engine")
	d.want(t, "stopped", "skipped", "", "storage", "leftover-addresses")
	d.want(t, "stopped", "ok", "", "cni-plugins", "forward-policy")
}
