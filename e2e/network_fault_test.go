package e2e

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// faultyPlugIn installs a CNI plugin, last in the network's configuration, that
// runs a shell script for each pod: see behave. Without a script it passes the
// previous plugin's result on.
func (c *cridock) faultyPlugIn(t *testing.T) {
	t.Helper()
	script := fmt.Sprintf(`#!/bin/sh
case $CNI_COMMAND in
VERSION) echo '{"cniVersion": "1.0.0", "supportedVersions": ["0.4.0", "1.0.0"]}' ;;
*)
	conf=$(cat)
	pod=${CNI_ARGS##*K8S_POD_NAME=} pod=${pod%%%%;*}
	pids=%[1]s/pids-$pod
	[ ! -e %[1]s/$CNI_COMMAND-$pod ] || . %[1]s/$CNI_COMMAND-$pod
	[ $CNI_COMMAND != ADD ] || echo "$conf" | jq -c .prevResult
	;;
esac
`, c.path())
	if err := os.WriteFile(filepath.Join(c.binDir(), "e2e-faulty"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	c.useConf(t, strings.TrimSuffix(c.conflist(), "]}")+`,{"type": "e2e-faulty"}]}`)
}

// behave sets the script that the plugin runs for a verb and a pod; "true" does
// nothing.
func (c *cridock) behave(t *testing.T, verb string, m *runtimeapi.PodSandboxMetadata, script string) {
	t.Helper()
	path := c.path(verb + "-" + m.Name)
	if err := os.WriteFile(path+".new", []byte(script+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// cniFault is a way for a plugin to fail, and what the caller is told. A plugin
// that hangs writes the PIDs of its processes, the shell and its child, to the
// file $pids.
type cniFault struct {
	script, want string
	code         codes.Code
}

var (
	failsPolitely = cniFault{`echo '{"cniVersion": "1.0.0", "code": 100, "msg": "e2e says no"}'; exit 1`, "e2e says no", codes.Unknown}
	cniFaults     = map[string]cniFault{
		"fails":         failsPolitely,
		"dies":          {"kill -9 $$", "signal: killed", codes.Unknown},
		"says nonsense": {"echo nonsense; exit 1", "nonsense", codes.Unknown},
		"says too much": {"head -c 1000000 /dev/zero | tr '\\0' x; exit 1", "xxx", codes.Unknown},
		"does not stop": {"exec yes", "e2e-faulty", codes.Unknown},
		"hangs":         {"trap '' TERM INT HUP; sleep 1000 & echo $$ $! >$pids; wait", "e2e-faulty killed", codes.DeadlineExceeded},
	}
)

// faultyCall makes a call that must fail before its deadline. The error must
// state the plugin's reason and name plugin, network and pod, and no process of
// the plugin may be left.
func faultyCall[Req, Resp any](t *testing.T, c *cridock, verb string, fault cniFault, pod *runtimeapi.PodSandboxMetadata, m method[Req, Resp], req Req) {
	t.Helper()
	deadline := rpcTimeout
	if fault.code == codes.DeadlineExceeded {
		deadline = c.hangLimit(t)
	}
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	_, err := m(ctx, req)
	if status.Code(err) != fault.code {
		t.Errorf("error is %.3000v; want %v", err, fault.code)
	}
	text := fmt.Sprint(err)
	for _, want := range []string{fault.want, "CNI " + verb, "e2e-faulty", `network "e2e"`, pod.Namespace + "/" + pod.Name} {
		if !strings.Contains(text, want) {
			t.Errorf("error is %.3000v; want %q in it", err, want)
		}
	}
	if len(text) > 5000 {
		t.Errorf("the error's text has %d bytes", len(text))
	}
	if fault.code != codes.DeadlineExceeded {
		return
	}
	pids := c.path("pids-" + pod.Name)
	for _, pid := range strings.Fields(read(t, pids)) {
		eventually(t, "process "+pid+" of the plugin is killed", time.Minute, func() bool {
			return c.command("test", "-e", "/proc/"+pid).Run() != nil
		})
	}
	if err := os.Remove(pids); err != nil {
		t.Fatal(err)
	}
}

// hangLimit returns the deadline of a call to a plugin that hangs: 30 times as long as
// this machine, with other tests running, takes to run and remove a pod, as a tenth of
// the deadline, but no more than ten seconds, is left to undo the pod and to answer the
// caller. The pod has a host port: its rules take the longest.
func (c *cridock) hangLimit(t *testing.T) time.Duration {
	t.Helper()
	start := time.Now()
	c.runPod(t, hostPort(18079)).remove()
	took := time.Since(start)
	return max(30*time.Second, min(30*took, 100*time.Second), 10*took)
}

// TestFaultyADD makes a plugin fail in every way while a pod is attached: the
// work of the plugins before it is undone, and the retry succeeds.
func TestFaultyADD(t *testing.T) {
	t.Parallel()
	c := newCridock(t, newNode(t), "cni", metricsFlags...)
	c.faultyPlugIn(t)
	faults := maps.Clone(cniFaults)
	faults["has no result"] = cniFault{"exit 0", "e2e-faulty", codes.Unknown}
	faults["takes nonsense for success"] = cniFault{"echo nonsense; exit 0", "e2e-faulty", codes.Unknown}
	before := c.warmUp(t)
	t.Run("faults", func(t *testing.T) {
		port := int32(18080)
		for name, fault := range faults {
			port++
			published := hostPort(port) // each pod has its own
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				cfg := c.podConfig(t, published)
				c.behave(t, "ADD", cfg.Metadata, fault.script)
				faultyCall(t, c, "ADD", fault, cfg.Metadata, c.runtime.RunPodSandbox, &runtimeapi.RunPodSandboxRequest{Config: cfg})
				c.checkGone(t, cfg.Metadata.Uid, "")
				c.behave(t, "ADD", cfg.Metadata, "true")
				c.runPod(t, func(retry *runtimeapi.PodSandboxConfig) {
					retry.Metadata, retry.PortMappings = cfg.Metadata, cfg.PortMappings
				})
			})
		}
	})
	c.checkNothingLeft(t, before)
}

// TestFaultyDEL makes a plugin fail in every way while a pod is stopped: the
// pod stays, with its addresses, and a later StopPodSandbox releases them.
func TestFaultyDEL(t *testing.T) {
	t.Parallel()
	c := newCridock(t, newNode(t), "cni", metricsFlags...)
	c.faultyPlugIn(t)
	before := c.warmUp(t)
	t.Run("faults", func(t *testing.T) {
		for name, fault := range cniFaults {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				p := c.runPod(t)
				main := p.start("main", "sleep 1000")
				c.behave(t, "DEL", p.cfg.Metadata, fault.script)
				faultyCall(t, c, "DEL", fault, p.cfg.Metadata, c.runtime.StopPodSandbox, &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.id})
				if s := main.status(); s.State != runtimeapi.ContainerState_CONTAINER_EXITED {
					t.Errorf("the container is %v", s.State)
				}
				if fault.code == codes.DeadlineExceeded {
					fault = failsPolitely // once is enough to hang
					c.behave(t, "DEL", p.cfg.Metadata, fault.script)
				}
				// RemovePodSandbox must not lose what is still to be released either.
				faultyCall(t, c, "DEL", fault, p.cfg.Metadata, c.runtime.RemovePodSandbox, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.id})
				if s := p.status(); s.Id != p.id {
					t.Errorf("the sandbox is %v", s)
				}
				c.behave(t, "DEL", p.cfg.Metadata, "true")
				p.stop()
				if s := p.status(); s.State != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
					t.Errorf("the stopped sandbox is %v", s.State)
				}
				if ips, err := c.addresses(p.id); err != nil || len(ips) > 0 {
					t.Errorf("addresses that are still taken: %v, %v", ips, err)
				}
			})
		}
	})
	c.checkNothingLeft(t, before)
}

// TestFaultyADDAndDEL makes both the attachment of a pod and its rollback fail:
// the sandbox stays, not ready, for StopPodSandbox to retry DEL, and is removed
// although that fails as well.
func TestFaultyADDAndDEL(t *testing.T) {
	t.Parallel()
	c := newCridock(t, newNode(t), "cni", metricsFlags...)
	c.faultyPlugIn(t)
	before := c.warmUp(t)
	cfg := c.podConfig(t)
	for _, verb := range []string{"ADD", "DEL"} {
		c.behave(t, verb, cfg.Metadata, failsPolitely.script)
	}
	faultyCall(t, c, "ADD", failsPolitely, cfg.Metadata, c.runtime.RunPodSandbox, &runtimeapi.RunPodSandboxRequest{Config: cfg})
	list := rpc(t, c.runtime.ListPodSandbox, &runtimeapi.ListPodSandboxRequest{}).Items
	if len(list) != 1 || list[0].State != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
		t.Fatalf("there is %v; want the sandbox, not ready", list)
	}
	stop := &runtimeapi.StopPodSandboxRequest{PodSandboxId: list[0].Id}
	rpc(t, c.runtime.StopPodSandbox, stop)
	rpc(t, c.runtime.RemovePodSandbox, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: list[0].Id})
	c.checkNothingLeft(t, before)
}
