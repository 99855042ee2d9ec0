package shim_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/testing/protocmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestPod follows a pod from creation to removal, on both kinds of network.
func TestPod(t *testing.T) {
	for name, newNode := range map[string]func(testing.TB, ...func(*node)) *node{"docker network": newNode, "CNI": newCNINode} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			before := n.remains()
			cfg := n.podConfig("web")
			before.Files = n.remains().Files
			pod := n.runPod(cfg)
			st := n.podStatus(pod)
			if st.State != runtimeapi.PodSandboxState_SANDBOX_READY || st.Network.Ip == "" {
				t.Errorf("pod is %v with address %q, want ready with an address", st.State, st.Network.Ip)
			}
			if diff := cmp.Diff(cfg.Metadata, st.Metadata, protocmp.Transform()); diff != "" {
				t.Errorf("metadata (-want +got):\n%s", diff)
			}
			id := n.runContainer(pod, containerConfig("main", "sleep", "1"))
			if got := n.status(id).State; got != runtimeapi.ContainerState_CONTAINER_RUNNING {
				t.Errorf("container is %v, want running", got)
			}
			n.must(n.stopContainer(id, 0))
			if got := n.status(id); got.State != runtimeapi.ContainerState_CONTAINER_EXITED || got.ExitCode != 137 || got.FinishedAt == 0 {
				t.Errorf("after the stop: %v", got)
			}
			n.must(n.removeContainer(id))
			n.must(n.stopPod(pod))
			if st := n.podStatus(pod); st.State != runtimeapi.PodSandboxState_SANDBOX_NOTREADY || st.Network.Ip != "" {
				t.Errorf("after the stop the pod is %v with address %q", st.State, st.Network.Ip)
			}
			n.must(n.removePod(pod))
			after := n.remains()
			// The log belongs to the kubelet.
			before.Files = append(before.Files, "/pods/web/main_0.log")
			if diff := cmp.Diff(before, after, sortStrings); diff != "" {
				t.Errorf("left behind (-want +got):\n%s", diff)
			}
		})
	}
}

// TestHostNetwork: CNI is not used for a pod in the node's own network.
func TestHostNetwork(t *testing.T) {
	n := newCNINode(t)
	cfg := n.podConfig("web")
	cfg.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE}
	pod := n.runPod(cfg)
	st := n.podStatus(pod)
	if st.State != runtimeapi.PodSandboxState_SANDBOX_READY || st.Network.Ip != "" {
		t.Errorf("pod is %v with address %q, want ready without one", st.State, st.Network.Ip)
	}
	n.must(n.stopPod(pod))
	n.must(n.removePod(pod))
	if n.plugins.count("ADD")+n.plugins.count("DEL") != 0 || len(n.remains().Mounts) != 0 {
		t.Error("CNI was called, or a namespace pinned")
	}
}

// TestExecSync runs commands in a container.
func TestExecSync(t *testing.T) {
	n := newNode(t)
	id := n.runContainer(n.runPod(n.podConfig("web")), containerConfig("main", "sleep", "1"))
	r, err := n.runtime.ExecSync(n.ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", "echo out; echo err >&2; exit 3"}})
	n.must(err)
	if r.ExitCode != 3 || string(r.Stdout) != "out\n" || string(r.Stderr) != "err\n" {
		t.Errorf("exec = %v", r)
	}
	if _, err := n.runtime.ExecSync(n.ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"/no/such/program"}}); err == nil {
		t.Error("a program that is not there was run")
	}
}

// TestLinkedLogs: if the CRI log is a link to Docker's own file, the link is
// removed with the container, and there is nothing to reopen.
func TestLinkedLogs(t *testing.T) {
	n := newNode(t, func(n *node) { n.cfg.SymlinkLogs = true })
	id := n.runContainer(n.runPod(n.podConfig("web")), containerConfig("main", "sh", "-c", "echo hello; sleep 1"))
	path := n.status(id).LogPath
	n.eventually("the line is in Docker's file", func() bool {
		b, err := os.ReadFile(path)
		return err == nil && strings.Contains(string(b), "hello")
	})
	if link, err := os.Readlink(path); err != nil || !strings.HasPrefix(link, n.docker.Root()) {
		t.Errorf("log links to %q (%v), want Docker's file", link, err)
	}
	_, err := n.runtime.ReopenContainerLog(n.ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: id})
	wantCode(t, err, codes.FailedPrecondition, id)
	n.must(n.removeContainer(id))
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the link is left behind: %v", err)
	}
}

// TestOrphans: a container whose sandbox has been removed is listed, and can be
// stopped and removed.
func TestOrphans(t *testing.T) {
	n := newNode(t)
	pod := n.runPod(n.podConfig("web"))
	id := n.runContainer(pod, containerConfig("main", "sleep", "1"))
	later := n.create(pod, containerConfig("later", "sleep", "1"))
	n.must(n.call().ContainerRemove(n.ctx, pod))
	n.eventually("the sandbox is gone", func() bool { return len(n.sandboxes()) == 0 })
	if c := n.listed(id); c == nil || c.PodSandboxId != pod {
		t.Errorf("container = %v", c)
	}
	wantCode(t, n.tryStart(later), codes.FailedPrecondition, pod)
	n.must(n.stopContainer(id, 0))
	for _, c := range []string{id, later} {
		n.must(n.removeContainer(c))
	}
	n.must(n.removePod(pod))
	if left := n.docker.Containers(); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestRemovedBehindItsBack: what another client removes leaves nothing behind,
// without waiting for the next start.
func TestRemovedBehindItsBack(t *testing.T) {
	n := newCNINode(t)
	before := n.remains()
	cfg := n.podConfig("web")
	pod := n.runPod(cfg)
	id := n.runContainer(pod, containerConfig("main", "sleep", "1"))
	docker := n.call()
	n.must(docker.ContainerRemove(n.ctx, pod))
	n.eventually("the sandbox's network is released while its container runs", func() bool {
		return len(n.plugins.attached()) == 0 && len(n.remains().Mounts) == len(before.Mounts)
	})
	if c := n.listed(id); c.GetState() != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the container is %v", c)
	}
	n.must(docker.ContainerRemove(n.ctx, id))
	n.must(os.RemoveAll(cfg.LogDirectory)) // the kubelet's
	n.eventually("nothing is left", func() bool { return cmp.Equal(before.Files, n.remains().Files) })
}

// TestOOM: OOM kills are distinguished from other exits, even if Docker learns
// of them late.
func TestOOM(t *testing.T) {
	n := newNode(t)
	id := n.runContainer(n.runPod(n.podConfig("web")), containerConfig("main", "sleep", "1"))
	n.docker.OOM(id)
	n.eventually("it has exited", func() bool { return n.status(id).State == runtimeapi.ContainerState_CONTAINER_EXITED })
	if st := n.status(id); st.Reason != "OOMKilled" || st.ExitCode != 137 {
		t.Errorf("status = %v, want OOMKilled with 137", st)
	}
}

// TestNetworkCheck: a verbose status has CNI check the pod's network.
func TestNetworkCheck(t *testing.T) {
	n := newCNINode(t)
	pod := n.runPod(n.podConfig("web"))
	check := func(want string) {
		t.Helper()
		r, err := n.runtime.PodSandboxStatus(n.ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: pod, Verbose: true})
		n.must(err)
		if info := r.Info["info"]; !strings.Contains(info, `"cniCheck":"`+want) {
			t.Errorf("want %q in %s", want, info)
		}
	}
	n.podStatus(pod)
	if c := n.plugins.count("CHECK"); c != 0 {
		t.Errorf("a status that is not verbose ran CHECK %d times", c)
	}
	check("ok")
	n.plugins.respond(func(_ context.Context, command, _ string) error {
		if command == "CHECK" {
			return errBroken
		}
		return nil
	})
	check(`network \"pods\": CNI CHECK: `)
	if c := n.plugins.count("CHECK"); c != 2 {
		t.Errorf("CHECK ran %d times, want 2", c)
	}
}

// TestHostPortsNobodyTakes: the pod runs, as some networks publish host ports
// on their own; the log says that no plugin was told of them.
func TestHostPortsNobodyTakes(t *testing.T) {
	const warning = "CNI does not publish the host ports of a pod"
	n := newCNINode(t)
	n.runPod(n.podConfig("plain"))
	if got := n.logs.Lines(warning); got != "" {
		t.Errorf("a pod without host ports: %s", got)
	}
	cfg := n.podConfig("web")
	cfg.PortMappings = []*runtimeapi.PortMapping{{HostPort: 8080, ContainerPort: 80}}
	n.runPod(cfg)
	if got := n.logs.Lines(warning); !strings.Contains(got, "8080") || !strings.Contains(got, "default/web") || !strings.Contains(got, "10-pods.conflist") {
		t.Errorf("logged %q, want the pod, its port and the configuration", got)
	}
	host := n.podConfig("host")
	host.PortMappings = cfg.PortMappings
	host.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE}
	n.runPod(host)
	if got := strings.Count(n.logs.Lines(warning), warning); got != 1 {
		t.Errorf("warned %d times, want once: the host's network needs no port published", got)
	}
}
