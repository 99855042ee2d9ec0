package migrate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/google/go-cmp/cmp"

	"github.com/cridock/cridock/translate"
)

var fromCRIDockerd = Request{From: FromCRIDockerd}

// checkMigrated: the node runs on cridock alone.
func (n *node) checkMigrated() {
	n.t.Helper()
	want := map[string]string{"kubelet.service": "true true", "cri-docker.service": "false false", "cri-docker.socket": "false false", "cridock.service": "true true"}
	state := n.state()
	for name := range n.units {
		if state[name] != want[name] {
			n.t.Errorf("%s is active and enabled: %s, want %s", name, state[name], want[name])
		}
	}
	if got, want := n.read("/var/lib/kubelet/kubeadm-flags.env"), "KUBELET_KUBEADM_ARGS=\"--container-runtime-endpoint=unix:///run/cridock/cridock.sock --pod-infra-container-image=pause:3.9\"\n"; got != want {
		n.t.Errorf("flags are %q, want %q", got, want)
	}
	if n.annotation != "unix:///run/cridock/cridock.sock" {
		n.t.Errorf("the annotation is %s", n.annotation)
	}
	if n.Root.Exists(dropInLogs) {
		n.t.Errorf("%s is left", dropInLogs)
	}
}

func (n *node) checkBefore(before map[string]string) {
	n.t.Helper()
	if diff := cmp.Diff(without(before), without(n.state())); diff != "" {
		n.t.Errorf("the node changed (-before +after):\n%s\n%s", diff, n.out)
	}
}

func TestForwardAndBack(t *testing.T) {
	n := newNode(t)
	if err := os.Chown(n.Root.Path("/var/lib/kubelet/kubeadm-flags.env"), 0, 7); err != nil {
		t.Fatal(err)
	}
	before := n.state()
	if err := n.migrate(t.Context(), fromCRIDockerd); err != nil {
		t.Fatal(err, n.out)
	}
	n.checkMigrated()
	if diff := cmp.Diff([]string{
		"systemctl stop kubelet.service",
		"systemctl stop cri-docker.socket", "systemctl stop cri-docker.service",
		"systemctl disable cri-docker.socket", "systemctl disable cri-docker.service",
		"systemctl daemon-reload",
		"systemctl enable cridock.service", "systemctl start cridock.service",
		"systemctl start kubelet.service",
		"kubectl --kubeconfig=" + n.Root.Path("/etc/kubernetes/kubelet.conf") + " --request-timeout=10s annotate node node1 --overwrite kubeadm.alpha.kubernetes.io/cri-socket=unix:///run/cridock/cridock.sock",
	}, n.changes()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	info, err := os.Stat(n.Root.Path("/var/lib/kubelet/kubeadm-flags.env"))
	if err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode is %v (%v)", info.Mode(), err)
	}
	backups, err := filepath.Glob(n.Root.Path("/var/lib/cridock/migration/*-kubeadm-flags.env"))
	if err != nil || len(backups) != 1 {
		t.Fatalf("backups %q (%v)", backups, err)
	}
	if got := n.read(n.Root.Shown(backups[0])); got != nodeFiles["/var/lib/kubelet/kubeadm-flags.env"] {
		t.Errorf("the backup is %q", got)
	}

	// Again: nothing to do.
	migrated := n.state()
	n.calls = nil
	for _, r := range []Request{fromCRIDockerd, {Resume: true}} {
		if err := n.migrate(t.Context(), r); err != nil {
			t.Errorf("%+v again: %v", r, err)
		}
	}
	if diff := cmp.Diff(migrated, n.state()); diff != "" || len(n.changes()) > 0 {
		t.Errorf("a second call changed (-before +after):\n%s%q", diff, n.changes())
	}
	if err := n.migrate(t.Context(), Request{From: FromDockershim}); err == nil {
		t.Error("a migrated node was migrated from dockershim")
	}

	if err := n.migrate(t.Context(), Request{Back: true}); err != nil {
		t.Fatal(err, n.out)
	}
	n.checkBefore(before)
	if n.Root.Exists("/var/lib/cridock/migration") {
		t.Error("the journal is left")
	}
	if err := n.migrate(t.Context(), Request{Back: true}); err == nil || !strings.Contains(err.Error(), "no record") {
		t.Errorf("back again: %v", err)
	}
}

// TestDryRun changes nothing, in any state of a node.
func TestDryRun(t *testing.T) {
	n := newNode(t)
	check := func(r Request) {
		t.Helper()
		r.DryRun = true
		before := n.state()
		n.calls = nil
		n.out.Reset()
		if err := n.migrate(t.Context(), r); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(before, n.state()); diff != "" || len(n.changes()) > 0 {
			t.Errorf("%+v changed (-before +after):\n%s%q", r, diff, n.changes())
		}
		if !strings.Contains(n.out.String(), "stop kubelet.service") || !strings.Contains(n.out.String(), "+ KUBELET_KUBEADM_ARGS=\"") || !strings.Contains(n.out.String(), "Nothing was changed") {
			t.Errorf("it says:\n%s", n.out)
		}
	}
	if err := os.RemoveAll(n.Root.Path("/var/lib/cridock")); err != nil {
		t.Fatal(err)
	}
	check(fromCRIDockerd)
	n.killedAfter(1, true, fromCRIDockerd)
	before := n.state()
	r := fromCRIDockerd
	r.DryRun = true
	if err := n.migrate(t.Context(), r); err == nil || !strings.Contains(err.Error(), "--resume") {
		t.Errorf("with a journal: %v", err)
	}
	if diff := cmp.Diff(before, n.state()); diff != "" {
		t.Error(diff)
	}
	if err := n.migrate(t.Context(), Request{Resume: true}); err != nil {
		t.Fatal(err)
	}
	check(Request{Back: true})
}

// TestNotConfirmed: without an answer nothing happens.
func TestNotConfirmed(t *testing.T) {
	n := newNode(t)
	before := n.state()
	for _, answer := range []string{"", "\n", "n\n", "yess\n"} {
		n.In = strings.NewReader(answer)
		if err := Run(t.Context(), n.Host, fromCRIDockerd); err == nil || !strings.Contains(err.Error(), "not confirmed") {
			t.Errorf("%q: %v", answer, err)
		}
	}
	n.checkBefore(before)
	n.In = strings.NewReader("y\n")
	if err := Run(t.Context(), n.Host, fromCRIDockerd); err != nil {
		t.Fatal(err)
	}
}

// faults are ways in which steps fail.
func (n *node) faults() map[string]func() {
	return map[string]func(){
		"a pod is not listed":      func() { n.cridockLists, n.Patience = 1, 30*time.Millisecond },
		"no pod is listed":         func() { n.cridockLists, n.Patience = 0, 30*time.Millisecond },
		"another address":          func() { n.cridockIP = "10.77.0.9" },
		"no address":               func() { n.cridockIP = "" },
		"the kubelet does not run": func() { n.kubeletDies = true },
		"the old adapter runs again": func() {
			n.onCall("systemctl start kubelet.service", func() { n.units["cri-docker.socket"].active = true })
		},
		"a pod is gone": func() { n.onCall("systemctl start cridock.service", func() { n.list = n.list[1:] }) },
		"a container restarted": func() {
			n.Patience = 100 * time.Millisecond
			n.onCall("systemctl start cridock.service", func() { n.list[1].Names = []string{"/k8s_web_web_default_u1_3"} })
		},
		"the journal cannot be written": func() {
			n.onCall("systemctl stop cri-docker.service", func() { n.write("/var/lib/cridock/migration/.journal.json.cridock-migrate/in/the/way", "") })
		},
		"Docker does not answer once": func() {
			n.onCall("systemctl start cridock.service", func() { n.failLists = 1 })
		},
		"a host port is gone": func() {
			n.onCall("systemctl start cridock.service", func() { _ = os.RemoveAll(n.Root.Path("/var/lib/cni/cache/results")) })
		},
	}
}

// onCall does something when a program has run for the first time.
func (n *node) onCall(call string, f func()) {
	run := n.Run
	n.Run = func(ctx context.Context, name string, args ...string) (string, error) {
		out, err := run(ctx, name, args...)
		if name+" "+strings.Join(args, " ") == call && f != nil {
			f()
			f = nil
		}
		return out, err
	}
}

// TestFaultIsUndone: whatever fails, the node is as before.
func TestFaultIsUndone(t *testing.T) {
	for name := range newNode(t).faults() {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			n.faults()[name]()
			before := n.state()
			err := n.migrate(t.Context(), fromCRIDockerd)
			if err == nil || !strings.Contains(err.Error(), "All steps were undone") {
				t.Fatalf("error is %v\n%s", err, n.out)
			}
			ignored := []string{"/var/lib/cni/cache"} // a fault itself
			if diff := cmp.Diff(without(before, ignored...), without(n.state(), ignored...)); diff != "" {
				t.Errorf("the node changed (-before +after):\n%s", diff)
			}
		})
	}
}

// TestEachCallFails: each program fails in turn, once.
func TestEachCallFails(t *testing.T) {
	n := newNode(t)
	if err := n.migrate(t.Context(), fromCRIDockerd); err != nil {
		t.Fatal(err)
	}
	for i, call := range n.changes() {
		t.Run(call, func(t *testing.T) {
			n := newNode(t)
			before := n.state()
			failed := false
			run := n.Run
			n.Run = func(ctx context.Context, name string, args ...string) (string, error) {
				if done := len(n.changes()); !failed && done == i && args[0] != "show" && !slices.Contains(args, "get") {
					failed = true
					return "", errors.New("it fails")
				}
				return run(ctx, name, args...)
			}
			err := n.migrate(t.Context(), fromCRIDockerd)
			if strings.HasPrefix(call, "kubectl") {
				if err != nil || !failed || n.annotation != "unix:///var/run/cri-dockerd.sock" || !strings.Contains(n.out.String(), "is unchanged (it fails); run: kubectl") {
					t.Errorf("kubectl failed: %v\n%s", err, n.out)
				}
				return
			}
			if err == nil || !failed {
				t.Fatalf("error is %v", err)
			}
			n.checkBefore(before)
		})
	}
}

// TestFileChanged: what somebody else has written is not overwritten.
func TestFileChanged(t *testing.T) {
	const flags = "/var/lib/kubelet/kubeadm-flags.env"
	n := newNode(t)
	n.onCall("systemctl stop kubelet.service", func() { n.write(flags, "theirs") })
	err := n.migrate(t.Context(), fromCRIDockerd)
	if err == nil || !strings.Contains(err.Error(), "changed by somebody else") || n.read(flags) != "theirs" {
		t.Fatalf("error is %v, the file %q", err, n.read(flags))
	}
	// It says what to do, and then undoes the rest.
	n.write(flags, nodeFiles[flags])
	if err := n.migrate(t.Context(), Request{Back: true}); err != nil {
		t.Fatal(err)
	}
	if n.Root.Exists(dropInPath) || !n.units["kubelet.service"].active {
		t.Error("not all was undone")
	}

	if err := n.migrate(t.Context(), fromCRIDockerd); err != nil {
		t.Fatal(err)
	}
	n.write(flags, "theirs")
	before := n.state()
	if err := n.migrate(t.Context(), Request{Back: true}); err == nil || !strings.Contains(err.Error(), "cp -p /var/lib/cridock/migration/") {
		t.Errorf("error is %v", err)
	}
	n.checkBefore(before)
}

// TestInterrupted: a signal is an error like any other.
func TestInterrupted(t *testing.T) {
	for _, at := range []string{"systemctl stop kubelet.service", "systemctl start cridock.service", "systemctl start kubelet.service"} {
		t.Run(at, func(t *testing.T) {
			n := newNode(t)
			before := n.state()
			ctx, cancel := context.WithCancel(t.Context())
			n.onCall(at, cancel)
			if err := n.migrate(ctx, fromCRIDockerd); !errors.Is(err, context.Canceled) {
				t.Fatalf("error is %v", err)
			}
			n.checkBefore(before)
		})
	}
}

type killed struct{}

// reboot starts what is enabled; pods get new addresses.
func (n *node) reboot() {
	n.write("/proc/sys/kernel/random/boot_id", "another")
	for _, name := range slices.Sorted(maps.Keys(n.units)) {
		n.stop(name)
	}
	if err := os.RemoveAll(n.Root.Path("/run/cridock/netns")); err != nil {
		n.t.Fatal(err)
	}
	n.cridockIP, n.oldIP = "10.77.0.7", "10.77.0.7"
	for _, name := range slices.Sorted(maps.Keys(n.units)) { // the kubelet last
		if n.units[name].enabled && name != kubeletService {
			n.start(name)
		}
	}
	n.units[kubeletService].active = true // whether it finds its adapter or not
}

// TestReboot: the machine restarts at any step.
func TestReboot(t *testing.T) {
	for writes, reached := 1, true; reached; writes += 2 {
		for _, r := range []Request{{Back: true}, {Resume: true}} {
			t.Run(fmt.Sprintf("%d back=%t", writes, r.Back), func(t *testing.T) {
				n := newNode(t)
				n.write("/proc/sys/kernel/random/boot_id", "one")
				if reached = n.killedAfter(writes, true, fromCRIDockerd); !reached {
					return
				}
				n.reboot()
				if err := n.migrate(t.Context(), r); err != nil {
					t.Fatal(err, n.out)
				}
				if !r.Back {
					n.checkMigrated()
					return
				}
				for name, want := range map[string]bool{"kubelet.service": true, "cri-docker.service": true, "cri-docker.socket": true, "cridock.service": false} {
					if u := n.units[name]; u.active != want || u.enabled != want {
						t.Errorf("%s is %+v", name, u)
					}
				}
				if got := n.read("/var/lib/kubelet/kubeadm-flags.env"); got != nodeFiles["/var/lib/kubelet/kubeadm-flags.env"] {
					t.Errorf("flags are %q", got)
				}
			})
		}
	}
}

// killedAt ends the command right after a program.
func (n *node) killedAt(call string, r Request) {
	n.t.Helper()
	run := n.Run
	n.onCall(call, func() { panic(killed{}) })
	defer func() {
		n.Run = run
		if v := recover(); v != (killed{}) {
			n.t.Errorf("not killed: %v\n%s", v, n.out)
		}
	}()
	_ = n.migrate(n.t.Context(), r)
}

// TestKilledWithinStep: also within the steps of several parts.
func TestKilledWithinStep(t *testing.T) {
	for _, call := range []string{"systemctl restart cridock.service", "systemctl stop cridock.service", "systemctl start kubelet.service"} {
		for _, r := range []Request{{Back: true}, {Resume: true}} {
			t.Run(fmt.Sprintf("%s back=%t", call, r.Back), func(t *testing.T) {
				n := newNode(t)
				before := n.state()
				if call == "systemctl start kubelet.service" {
					n.killedAt(call, fromCRIDockerd)
				} else if err := n.migrate(t.Context(), fromCRIDockerd); err != nil {
					t.Fatal(err)
				} else {
					n.killedAt(call, Request{Back: true})
				}
				n.goOn(r, before)
			})
		}
	}
}

// killedAfter ends the command right after or before the given write of the journal, which
// is after a step that the journal does not know of. It reports whether it came that far.
func (n *node) killedAfter(writes int, written bool, r Request) (was bool) {
	n.t.Helper()
	n.journaled = func(is bool) {
		if is == written {
			writes--
		}
		if writes == 0 {
			panic(killed{})
		}
	}
	defer func() {
		n.journaled = nil
		switch v := recover(); v {
		case nil:
		case killed{}:
			was = true
		default:
			panic(v)
		}
	}()
	if err := n.migrate(n.t.Context(), r); err != nil {
		n.t.Fatal(err, n.out)
	}
	return false
}

// TestKilled: wherever the command is killed, on its way forward or back, the next call
// changes nothing, and both directions end in a whole state.
func TestKilled(t *testing.T) {
	for _, when := range []struct {
		going   string
		written bool
	}{{"forward", true}, {"forward", false}, {"back", true}, {"back", false}} {
		first := 1
		if when.going == "forward" && !when.written {
			first = 2 // nothing is done before the first write
		}
		for writes := first; ; writes++ {
			reached := false
			for _, r := range []Request{{Back: true}, {Resume: true}} {
				t.Run(fmt.Sprintf("%s %d written=%t back=%t", when.going, writes, when.written, r.Back), func(t *testing.T) {
					n := newNode(t)
					before := n.state()
					begin := fromCRIDockerd
					if when.going == "back" {
						if err := n.migrate(t.Context(), begin); err != nil {
							t.Fatal(err)
						}
						begin = Request{Back: true}
					}
					if reached = n.killedAfter(writes, when.written, begin); !reached {
						return
					}
					n.goOn(r, before)
				})
			}
			if !reached {
				break
			}
			if t.Failed() {
				return
			}
		}
	}
}

// goOn calls the command after it was killed.
func (n *node) goOn(r Request, before map[string]string) {
	t := n.t
	j, err := (&migration{Host: n.Host, settings: Settings{RootDir: "/var/lib/cridock"}}).readJournal()
	if err != nil || j == nil {
		t.Fatalf("journal is %v (%v)", j, err)
	}
	if j.State != complete {
		between := n.state()
		n.calls = nil
		if err := n.migrate(t.Context(), fromCRIDockerd); err == nil || !strings.Contains(err.Error(), "--resume") || !strings.Contains(err.Error(), "--back") {
			t.Errorf("the next call says %v", err)
		}
		if diff := cmp.Diff(between, n.state()); diff != "" || len(n.changes()) > 0 {
			t.Errorf("the next call changed (-before +after):\n%s%q", diff, n.changes())
		}
	}
	if err := n.migrate(t.Context(), r); err != nil {
		t.Fatal(err, n.out)
	}
	if r.Back {
		n.checkBefore(before)
	} else {
		n.checkMigrated()
	}
}

// TestBackFails: a complete migration that cannot be undone is done again.
func TestBackFails(t *testing.T) {
	for name, fault := range map[string]func(*node){
		"no old adapter": func(n *node) { n.fail["systemctl start cri-docker.service"] = errors.New("it fails") },
		"other address":  func(n *node) { n.oldIP = "10.77.0.9" },
		"interrupted":    nil,
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			if err := n.migrate(t.Context(), fromCRIDockerd); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if fault != nil {
				fault(n)
			} else {
				n.onCall("systemctl stop cridock.service", cancel)
			}
			if err := n.migrate(ctx, Request{Back: true}); err == nil || !strings.Contains(err.Error(), "runs on cridock as before") {
				t.Fatalf("error is %v\n%s", err, n.out)
			}
			n.checkMigrated()
			clear(n.fail)
			n.oldIP = n.cridockIP
			if err := n.migrate(t.Context(), Request{Back: true}); err != nil {
				t.Errorf("back at last: %v", err)
			}
		})
	}
}

// TestBackWithHostPorts: pods whose ports the old adapter would not release are not
// stopped, but named.
func TestBackWithHostPorts(t *testing.T) {
	n := newNode(t)
	if err := n.migrate(t.Context(), fromCRIDockerd); err != nil {
		t.Fatal(err)
	}
	n.list = append(n.list, ownWithHostPort())
	before := n.state()
	err := n.migrate(t.Context(), Request{Back: true})
	if err == nil || !strings.Contains(err.Error(), "default/own") || !strings.Contains(err.Error(), "stopp dd") {
		t.Errorf("error is %v", err)
	}
	n.checkBefore(before)
	n.list[len(n.list)-1].State = "exited"
	n.Patience = 100 * time.Millisecond
	if err := n.migrate(t.Context(), Request{Back: true}); err == nil {
		t.Error("cridock does not list the exited sandbox, and no error")
	}
}

const ownID = "dd"

// ownWithHostPort is a sandbox that cridock has made.
func ownWithHostPort() container.Summary {
	own := container.Summary{ID: ownID, Names: []string{"/k8s_POD_own_default_u2_0"}, State: "running", Labels: map[string]string{
		translate.LabelType: "podsandbox", translate.LabelConfig: `{"portMappings":[{"hostPort":80}]}`, translate.LabelPodName: "own", translate.LabelPodNamespace: "default",
	}}
	own.HostConfig.NetworkMode = "none"
	return own
}

// TestUndoneWithHostPorts: a migration fails after the kubelet has had cridock make a pod
// with host ports. It is undone all the same, and the pod is named.
func TestUndoneWithHostPorts(t *testing.T) {
	n := newNode(t)
	n.kubeletDies = true
	n.onCall("systemctl start kubelet.service", func() { n.list = append(n.list, ownWithHostPort()) })
	err := n.migrate(t.Context(), fromCRIDockerd)
	if err == nil || !strings.Contains(err.Error(), "All steps were undone") {
		t.Fatalf("error is %v\n%s", err, n.out)
	}
	for _, want := range []string{"note: the old adapter does not release the host ports", "default/own (sandboxes dd)"} {
		if !strings.Contains(n.out.String(), want) {
			t.Errorf("the output lacks %q:\n%s", want, n.out)
		}
	}
}

// TestInterruptedBackWithHostPorts: an unfinished migration is undone whatever pods there
// are; they are named, and nothing says that nothing was changed.
func TestInterruptedBackWithHostPorts(t *testing.T) {
	n := newNode(t)
	if err := n.migrate(t.Context(), fromCRIDockerd); err != nil {
		t.Fatal(err)
	}
	const journal = "/var/lib/cridock/migration/journal.json"
	n.write(journal, strings.Replace(n.read(journal), `"state": "complete"`, `"state": "forward"`, 1))
	n.list = append(n.list, ownWithHostPort())
	n.out.Reset()
	if err := n.migrate(t.Context(), Request{Back: true, Yes: true}); err != nil {
		t.Fatalf("error is %v\n%s", err, n.out)
	}
	if out := n.out.String(); strings.Count(out, "default/own") != 1 || strings.Contains(out, "Nothing was changed") {
		t.Errorf("the output is\n%s", out)
	}
}

// TestOldAdapterWithoutV1: the pods are compared by what Docker has.
func TestOldAdapterWithoutV1(t *testing.T) {
	n := newNode(t)
	n.stopCRI("/run/cri-dockerd.sock")
	n.oldV1 = false
	n.serveCRI("/run/cri-dockerd.sock", true)
	before := n.state()
	if err := n.migrate(t.Context(), fromCRIDockerd); err != nil {
		t.Fatal(err)
	}
	n.checkMigrated()
	if err := n.migrate(t.Context(), Request{Back: true}); err != nil {
		t.Fatal(err)
	}
	n.checkBefore(before)
}

// TestStoppedKubelet stays so.
func TestStoppedKubelet(t *testing.T) {
	n := newNode(t)
	n.stop("kubelet.service")
	if err := n.migrate(t.Context(), fromCRIDockerd); err != nil {
		t.Fatal(err)
	}
	if n.units["kubelet.service"].active || !n.units["cridock.service"].active || !strings.Contains(n.out.String(), "the kubelet does not run") {
		t.Errorf("%+v\n%s", n.units, n.out)
	}
	// No step would stop it on the way back.
	n.start("kubelet.service")
	before := n.state()
	if err := n.migrate(t.Context(), Request{Back: true}); err == nil || !strings.Contains(err.Error(), "stop it first") {
		t.Errorf("error is %v", err)
	}
	n.checkBefore(before)
}

// TestRefused: nothing is done where the command cannot do all.
func TestRefused(t *testing.T) {
	checkRefused(t, map[string]refusal{
		"nothing asked":   {func(*node) {}, Request{}, "want one of"},
		"two directions":  {func(*node) {}, Request{From: FromCRIDockerd, Back: true}, "want one of"},
		"unknown adapter": {func(*node) {}, Request{From: "crio"}, "want cri-dockerd or dockershim"},
		"no root":         {func(n *node) { n.UID = 1000 }, fromCRIDockerd, "needs root"},
		"no systemd":      {func(n *node) { _ = os.RemoveAll(n.Root.Path("/run/systemd")) }, fromCRIDockerd, "does not run systemd"},
		"no cridock":      {func(n *node) { delete(n.units, "cridock.service") }, fromCRIDockerd, "install cridock"},
		"wrong settings": {func(n *node) {
			n.Load = func([]string) (Settings, error) { return Settings{}, errors.New("wrong") }
		}, fromCRIDockerd, "wrong"},
		"others' file": {func(n *node) {
			if err := os.Chmod(n.Root.Path("/var/lib/kubelet/kubeadm-flags.env"), 0o666); err != nil {
				n.t.Fatal(err)
			}
		}, fromCRIDockerd, "writable for users other than its owner"},
		"others' journal": {func(n *node) {
			n.write("/var/lib/cridock/migration/journal.json", `{"version":1}`)
			if err := os.Chown(n.Root.Path("/var/lib/cridock/migration/journal.json"), 1, -1); err != nil {
				n.t.Fatal(err)
			}
		}, Request{Back: true}, "belongs to user 1"},
		"other journal": {func(n *node) { n.write("/var/lib/cridock/migration/journal.json", `{"version":9}`) }, Request{Back: true}, "another version's"},
		"in the way":    {func(n *node) { n.write(dropInLogs, "v: 4") }, fromCRIDockerd, "is in the way"},
	})
}

// TestRefusedSettings: nor where settings are in the way.
func TestRefusedSettings(t *testing.T) {
	checkRefused(t, map[string]refusal{
		"two adapters": {func(n *node) { n.units["cridock.service"].active = true }, fromCRIDockerd, "runs already"},
		"containerd": {func(n *node) {
			n.write("/var/lib/kubelet/kubeadm-flags.env", "KUBELET_KUBEADM_ARGS=--container-runtime-endpoint=unix:///run/containerd/containerd.sock\n")
		}, fromCRIDockerd, "and not cri-dockerd's"},
		"no endpoint":   {func(n *node) { n.write("/var/lib/kubelet/kubeadm-flags.env", "") }, fromCRIDockerd, "no container runtime endpoint"},
		"no dockershim": {func(n *node) { n.write("/etc/default/kubelet", "KUBELET_EXTRA_ARGS=--container-runtime=remote\n") }, Request{From: FromDockershim}, "does not use dockershim"},
		"other network": {func(n *node) {
			n.write("/lib/systemd/system/cri-docker.service", "[Service]\nExecStart=/usr/bin/cri-dockerd --network-plugin= --x\n")
		}, fromCRIDockerd, "network-plugin is docker"},
		"kubenet": {func(n *node) {
			n.write("/lib/systemd/system/cri-docker.service", "[Service]\nExecStart=/usr/bin/cri-dockerd --network-plugin kubenet\n")
		}, fromCRIDockerd, "kubenet"},
		"other directories": {func(n *node) {
			n.write("/lib/systemd/system/cri-docker.service", "[Service]\nExecStart=/usr/bin/cri-dockerd --cni-bin-dir=/other --cni-conf-dir=/conf --cni-cache-dir=/cache\n")
		}, fromCRIDockerd, "cni-cache-dir is /cache"},
		"kubelet starts the old": {func(n *node) {
			n.write("/etc/systemd/system/kubelet.service.d/a.conf", "[Unit]\nWants=x.service cri-docker.service\n")
		}, fromCRIDockerd, "would start it again"},
		"package's unit": {func(n *node) {
			n.write("/var/lib/kubelet/kubeadm-flags.env", "")
			n.write("/lib/systemd/system/kubelet.service.d/kubeadm.conf", "[Service]\nExecStart=\nExecStart=/usr/bin/kubelet --container-runtime-endpoint=unix:///run/cri-dockerd.sock\n")
		}, fromCRIDockerd, "belongs to a package"},
		"hidden flags": {func(n *node) {
			n.write("/var/lib/kubelet/kubeadm-flags.env", "")
			n.write("/lib/systemd/system/kubelet.service.d/kubeadm.conf", "[Service]\nExecStart=\nExecStart=/bin/sh -c \"kubelet --container-runtime-endpoint=unix:///run/cri-dockerd.sock\"\n")
		}, fromCRIDockerd, "change it by hand"},
	})
}

// refusal is a node that is not migrated, and why.
type refusal struct {
	change func(n *node)
	r      Request
	want   string
}

func checkRefused(t *testing.T, refusals map[string]refusal) {
	t.Helper()
	for name, tt := range refusals {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			tt.change(n)
			before := n.state()
			if err := n.migrate(t.Context(), tt.r); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error is %v, want %q", err, tt.want)
			}
			if diff := cmp.Diff(before, n.state()); diff != "" || len(n.changes()) > 0 {
				t.Errorf("it changed (-before +after):\n%s%q", diff, n.changes())
			}
		})
	}
}

// TestMigratedByHand: there is nothing to do, and nothing is done.
func TestMigratedByHand(t *testing.T) {
	n := newNode(t)
	for _, u := range []string{"kubelet.service", "cri-docker.socket", "cri-docker.service"} {
		n.stop(u)
	}
	n.write("/var/lib/kubelet/kubeadm-flags.env", "KUBELET_KUBEADM_ARGS=--container-runtime-endpoint=unix:///run/cridock/cridock.sock\n")
	n.start("cridock.service")
	before := n.state()
	if err := n.migrate(t.Context(), fromCRIDockerd); err != nil || !strings.Contains(n.out.String(), "Nothing to do") {
		t.Errorf("%v\n%s", err, n.out)
	}
	n.checkBefore(before)
}

// TestSecondCommand: two do not run at once.
func TestSecondCommand(t *testing.T) {
	n := newNode(t)
	n.onCall("systemctl stop kubelet.service", func() {
		if err := n.migrate(t.Context(), Request{Back: true}); err == nil || !strings.Contains(err.Error(), "another migration") {
			t.Errorf("error is %v", err)
		}
	})
	if err := n.migrate(t.Context(), fromCRIDockerd); err != nil {
		t.Fatal(err)
	}
}

// TestDockershim: a kubelet of 1.23 by kubeadm, and back.
func TestDockershim(t *testing.T) {
	n := newNode(t)
	n.stop("cri-docker.service")
	delete(n.units, "cri-docker.service")
	delete(n.units, "cri-docker.socket")
	n.annotation = "/var/run/dockershim.sock"
	n.write("/var/lib/kubelet/kubeadm-flags.env", "KUBELET_KUBEADM_ARGS=\"--network-plugin=cni --pod-infra-container-image=pause:3.6\"\n")
	n.write("/etc/default/kubelet", "KUBELET_EXTRA_ARGS='--node-ip 10.0.0.1 --cni-conf-dir /etc/cni/net.d'\n")
	n.serveCRI("/run/dockershim.sock", true)
	before := n.state()
	if err := n.migrate(t.Context(), Request{From: FromDockershim}); err != nil {
		t.Fatal(err, n.out)
	}
	if got, want := n.read("/var/lib/kubelet/kubeadm-flags.env"), "KUBELET_KUBEADM_ARGS=\"--pod-infra-container-image=pause:3.6 --container-runtime=remote --container-runtime-endpoint=unix:///run/cridock/cridock.sock\"\n"; got != want {
		t.Errorf("flags are %q, want %q", got, want)
	}
	if got, want := n.read("/etc/default/kubelet"), "KUBELET_EXTRA_ARGS='--node-ip 10.0.0.1'\n"; got != want {
		t.Errorf("flags are %q, want %q", got, want)
	}
	if !slices.Contains(n.changes(), "systemctl start cridock.service") || n.annotation != "unix:///run/cridock/cridock.sock" {
		t.Errorf("calls %q, annotation %s", n.changes(), n.annotation)
	}
	if err := n.migrate(t.Context(), Request{Back: true}); err != nil {
		t.Fatal(err, n.out)
	}
	n.checkBefore(before)
}
