package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ownEngine is an engine beside a node's own, in the same namespaces, which
// outlive it. Its containers do not use Docker's networks.
type ownEngine struct {
	*node
	dir  string
	args []string
	cmd  *exec.Cmd     // nsenter
	done chan struct{} // closed when the running dockerd has exited
}

// newOwnEngine starts an engine that replaces the node's own.
func newOwnEngine(t *testing.T, dockerdFlags ...string) *ownEngine {
	t.Helper()
	return newOwnEngineOn(t, func(e *ownEngine) { e.args = append(e.args, dockerdFlags...) })
}

// newOwnEngineOn is newOwnEngine with a preparation before dockerd starts.
func newOwnEngineOn(t testing.TB, prepare func(*ownEngine)) *ownEngine {
	t.Helper()
	n := newNode(t)
	image, err := n.docker.call(http.MethodGet, "/images/"+n.image+"/get", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	e := &ownEngine{node: n, dir: filepath.Join(n.dir, "own")}
	if err := os.Mkdir(e.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	e.args = append([]string{
		"dockerd", "--config-file", filepath.Join(n.dir, "daemon.json"), "--data-root", e.dir + "/root", "--exec-root", e.dir + "/exec",
		"--pidfile", e.dir + "/pid", "--host", "unix://" + e.socket(), "--bridge=none", "--iptables=false",
		"--cgroup-parent", "/cridock-" + filepath.Base(n.dir),
	}, strings.Fields(os.Getenv("CRIDOCK_ENGINE_FLAGS"))...)
	prepare(e)
	n.docker = newDocker(e.socket())
	e.startDockerd(t)
	if _, err := n.docker.call(http.MethodPost, "/images/load", http.Header{"Content-Type": {"application/x-tar"}}, bytes.NewReader(image)); err != nil {
		t.Fatal(err)
	}
	return e
}

func (e *ownEngine) socket() string { return filepath.Join(e.dir, "docker.sock") }

// startDockerd starts dockerd and waits until it answers. It is stopped with
// the node.
func (e *ownEngine) startDockerd(t testing.TB) {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(e.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }() // the process has its own descriptor
	cmd, done := e.command(e.args...), make(chan struct{})
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	e.cmd, e.done = cmd, done
	go func() {
		_ = cmd.Wait() // its exit status does not matter
		close(done)
	}()
	eventually(t, "dockerd answers", time.Minute, func() bool {
		_, err := e.docker.call(http.MethodGet, "/_ping", nil, nil)
		return err == nil
	})
}

// endDockerd sends dockerd a signal and waits for it to exit.
func (e *ownEngine) endDockerd(t testing.TB, signal string) {
	t.Helper()
	e.run(t, "kill", "-"+signal, strings.TrimSpace(read(t, e.dir+"/pid")))
	select {
	case <-e.done:
	case <-time.After(2 * time.Minute):
		t.Fatal("dockerd does not end")
	}
}

// hang stops dockerd's process until the returned function is called.
func (e *ownEngine) hang(t *testing.T) (goOn func()) {
	t.Helper()
	pid := strings.TrimSpace(read(t, e.dir+"/pid"))
	e.run(t, "kill", "-STOP", pid)
	return sync.OnceFunc(func() {
		e.run(t, "kill", "-CONT", pid)
		// nsenter stops itself together with its child.
		if err := e.cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Error(err)
		}
	})
}

// endContainerd sends the engine's containerd a signal; dockerd restarts it.
func (e *ownEngine) endContainerd(t *testing.T, signal string) {
	t.Helper()
	pidFile := filepath.Join(e.dir, "exec", "containerd", "containerd.pid")
	before := strings.TrimSpace(read(t, pidFile))
	e.run(t, "kill", "-"+signal, before)
	eventually(t, "dockerd starts another containerd", time.Minute, func() bool {
		b, err := os.ReadFile(pidFile)
		after := strings.TrimSpace(string(b))
		return err == nil && after != "" && after != before
	})
}

func read(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// shims returns the PIDs of all shims on the node.
func (n *node) shims(t testing.TB) []string {
	t.Helper()
	return strings.Fields(n.run(t, "sh", "-c", `for d in /proc/[0-9]*; do
		read -r pid comm state rest <$d/stat 2>/dev/null && [ "$comm $state" = "(containerd-shim) S" ] && echo $pid; done; true`))
}

// shimOf returns the PID of the shim of a running container.
func (n *node) shimOf(t testing.TB, id string) string {
	t.Helper()
	stat := n.run(t, "cat", fmt.Sprintf("/proc/%d/stat", n.docker.inspect(t, id).State.Pid))
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	return fields[1]
}

// needAnnotations skips a test on engines that cannot group.
func needAnnotations(t *testing.T) {
	t.Helper()
	needEngine(t)
	if minor := newDocker(strings.TrimPrefix(os.Getenv("CRIDOCK_E2E_DOCKER"), "unix://")).apiMinor(t); minor < 43 {
		t.Skipf("one shim for a pod needs API 1.43 (Docker 24), this engine has 1.%d", minor)
	}
}

// onShims runs a test with one shim per pod, and with one per container. The
// results must be the same unless the test says otherwise.
func onShims(t *testing.T, dockerdFlags []string, test func(t *testing.T, g *shimTest)) {
	t.Helper()
	needAnnotations(t)
	for _, grouped := range []bool{true, false} {
		t.Run(fmt.Sprintf("grouped=%t", grouped), func(t *testing.T) {
			e := newOwnEngine(t, dockerdFlags...)
			c := newCridock(t, e.node, "cni", "--docker-endpoint=unix://"+e.socket(), fmt.Sprintf("--shim-grouping=%t", grouped))
			g := &shimTest{cridock: c, engine: e, grouped: grouped}
			t.Cleanup(func() {
				eventually(t, "no shim is left when all pods are gone", time.Minute, func() bool { return len(g.shims(t)) == 0 })
			})
			test(t, g)
			g.works(t, "after all")
		})
	}
}

type shimTest struct {
	*cridock
	engine  *ownEngine
	grouped bool
}

// works runs a pod and a container in it until they exit.
func (g *shimTest) works(t *testing.T, when string) {
	t.Helper()
	p := g.runPod(t)
	c := p.start("main", "echo up; sleep 1000")
	if out := c.sh("echo works"); out != "works" {
		t.Errorf("%s: exec printed %q", when, out)
	}
	c.stop(0)
	if s := c.status(); s.State != runtimeapi.ContainerState_CONTAINER_EXITED || s.ExitCode != 137 || c.logText() != "up\n" {
		t.Errorf("%s: the new container is %v, exit code %d, log %q", when, s.State, s.ExitCode, c.logText())
	}
	p.remove()
}

// checkShims checks that the containers share the sandbox's shim, or that each
// has its own.
func (g *shimTest) checkShims(t *testing.T, p *pod, ctrs ...*ctr) {
	t.Helper()
	shims := []string{g.shimOf(t, p.id)}
	for _, c := range ctrs {
		shims = append(shims, g.shimOf(t, c.id))
	}
	distinct := slices.Compact(slices.Sorted(slices.Values(shims)))
	if want := map[bool]int{true: 1, false: len(shims)}[g.grouped]; len(distinct) != want {
		t.Errorf("%d containers have the shims %v; want %d", len(shims), shims, want)
	}
}

// checkRuns checks that containers run and can be used.
func checkRuns(t *testing.T, when string, ctrs ...*ctr) {
	t.Helper()
	for _, c := range ctrs {
		if s := c.status(); s.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
			t.Errorf("%s: %s is %v, exit code %d, %s", when, c.cfg.Metadata.Name, s.State, s.ExitCode, s.Reason)
			continue
		}
		if out := c.sh("echo works"); out != "works" {
			t.Errorf("%s: exec in %s printed %q", when, c.cfg.Metadata.Name, out)
		}
	}
}

// checkExited waits for a container to exit.
func checkExited(t *testing.T, when string, c *ctr, code int32, reason string) {
	t.Helper()
	if s := c.exited(); s.ExitCode != code || s.Reason != reason {
		t.Errorf("%s: %s ended with %d, %s; want %d, %s", when, c.cfg.Metadata.Name, s.ExitCode, s.Reason, code, reason)
	}
}

// TestShimGroupLife creates and removes containers of a pod beside each other.
func TestShimGroupLife(t *testing.T) {
	t.Parallel()
	onShims(t, nil, func(t *testing.T, g *shimTest) {
		p, other := g.runPod(t), g.runPod(t)
		witness, neighbour := p.start("witness", "sleep 1000"), other.start("neighbour", "sleep 1000")
		g.checkShims(t, p, witness)
		if g.shimOf(t, p.id) == g.shimOf(t, other.id) {
			t.Error("two pods share a shim")
		}
		ctrs := []*ctr{witness}
		for i := range 8 {
			ctrs = append(ctrs, p.start(fmt.Sprint("many", i), "seq 5000; sleep 1000"))
		}
		g.checkShims(t, p, ctrs...)
		for _, c := range ctrs[1:] {
			eventually(t, "its log is complete", time.Minute, func() bool { return strings.HasSuffix(c.logText(), "\n5000\n") })
			checkSequence(t, c.logLines(), 5000)
		}
		for i := range 10 { // a crash loop
			c := p.start(fmt.Sprint("crash", i), fmt.Sprintf("seq 100; exit %d", i))
			checkExited(t, "crash loop", c, int32(i), map[bool]string{true: "Completed", false: "Error"}[i == 0])
			checkSequence(t, c.logLines(), 100)
			rpc(t, g.runtime.RemoveContainer, &runtimeapi.RemoveContainerRequest{ContainerId: c.id})
		}
		limited, release := waitingGlutton(t)
		hungry := p.start("hungry", glutton, limited)
		release()
		checkExited(t, "no memory", hungry, 137, "OOMKilled")
		g.docker.must(t, http.MethodPost, "/containers/"+ctrs[1].id+"/kill", nil, nil)
		checkExited(t, "killed", ctrs[1], 137, "Error")
		g.execsDuring(t, witness, func() { rpc(t, g.runtime.RemoveContainer, &runtimeapi.RemoveContainerRequest{ContainerId: ctrs[2].id}) })
		checkRuns(t, "after all that", witness, neighbour, ctrs[3])
		g.stopOrders(t)
	})
}

// execsDuring has ten processes in a container print a lot while do runs.
func (g *shimTest) execsDuring(t *testing.T, c *ctr, do func()) {
	t.Helper()
	results := make(chan error, 10)
	for range cap(results) {
		go func() {
			r, err := c.exec(longTimeout, "sh", "-c", "seq 20000; exit 7")
			if err == nil && (r.ExitCode != 7 || bytes.Count(r.Stdout, []byte("\n")) != 20000) {
				err = fmt.Errorf("exit code %d and %d lines", r.ExitCode, bytes.Count(r.Stdout, []byte("\n")))
			}
			results <- err
		}()
	}
	do()
	for range cap(results) {
		if err := <-results; err != nil {
			t.Errorf("exec: %v", err)
		}
	}
}

// stopOrders stops pods in both orders: sandbox first and containers first.
func (g *shimTest) stopOrders(t *testing.T) {
	t.Helper()
	const script = "trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.1; done"
	pauseFirst := g.runPod(t, hostNetwork) // no network, which would be left when the container is removed behind cridock's back
	first, second := pauseFirst.start("first", script), pauseFirst.start("second", script)
	eventually(t, "the traps are set", time.Minute, func() bool { return first.logText() == "up\n" && second.logText() == "up\n" })
	g.docker.must(t, http.MethodPost, "/containers/"+pauseFirst.id+"/kill", nil, nil)
	eventually(t, "the sandbox is not ready", time.Minute, func() bool {
		return pauseFirst.status().State == runtimeapi.PodSandboxState_SANDBOX_NOTREADY
	})
	checkRuns(t, "without the pause process", first, second)
	first.stop(longTimeout)
	checkExited(t, "pause first", first, 5, "Error")
	g.docker.must(t, http.MethodDelete, "/containers/"+pauseFirst.id+"?force=1", nil, nil)
	checkRuns(t, "without the sandbox", second)
	second.stop(longTimeout)
	checkExited(t, "sandbox removed", second, 5, "Error")
	if first.logText() != "up\nbye\n" || second.logText() != "up\nbye\n" {
		t.Errorf("logs are %q and %q", first.logText(), second.logText())
	}
	rpc(t, g.runtime.RemoveContainer, &runtimeapi.RemoveContainerRequest{ContainerId: first.id})
	rpc(t, g.runtime.RemoveContainer, &runtimeapi.RemoveContainerRequest{ContainerId: second.id})
	// cridock's record of the sandbox is removed with another sandbox of the same
	// name.
	g.runPod(t, hostNetwork, func(cfg *runtimeapi.PodSandboxConfig) { cfg.Metadata = pauseFirst.cfg.Metadata }).remove()

	appFirst := g.runPod(t)
	app := appFirst.start("app", script)
	app.stop(longTimeout)
	rpc(t, g.runtime.RemoveContainer, &runtimeapi.RemoveContainerRequest{ContainerId: app.id})
	again := appFirst.start("again", script)
	g.checkShims(t, appFirst, again)
}

func hostNetwork(cfg *runtimeapi.PodSandboxConfig) {
	cfg.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
}

// TestShimGroupKilled kills a shim. Its containers are killed with it, as with
// any shim: all exits are noticed, and nothing else is affected.
func TestShimGroupKilled(t *testing.T) {
	t.Parallel()
	onShims(t, nil, func(t *testing.T, g *shimTest) {
		p, other := g.runPod(t), g.runPod(t)
		first, second, neighbour := p.start("first", "sleep 1000"), p.start("second", "sleep 1000"), other.start("neighbour", "sleep 1000")
		pids := []int{g.docker.inspect(t, p.id).State.Pid, g.docker.inspect(t, first.id).State.Pid, g.docker.inspect(t, second.id).State.Pid}
		g.run(t, "kill", "-KILL", g.shimOf(t, first.id))
		checkExited(t, "without its shim", first, 137, "Error")
		if g.grouped {
			checkExited(t, "without its shim", second, 137, "Error")
			eventually(t, "the sandbox is not ready", time.Minute, func() bool {
				return p.status().State == runtimeapi.PodSandboxState_SANDBOX_NOTREADY
			})
			eventually(t, "the processes are gone", time.Minute, func() bool {
				return !slices.ContainsFunc(pids, func(pid int) bool {
					_, err := os.Stat(fmt.Sprintf("/proc/%d/root/proc/%d", g.pid, pid))
					return err == nil
				})
			})
		} else {
			checkRuns(t, "beside the killed shim", second)
		}
		checkRuns(t, "in another pod", neighbour)
		p.remove()
		again := g.runPod(t, func(cfg *runtimeapi.PodSandboxConfig) {
			cfg.Metadata = &runtimeapi.PodSandboxMetadata{Name: p.cfg.Metadata.Name, Namespace: p.cfg.Metadata.Namespace, Uid: p.cfg.Metadata.Uid}
		})
		c := again.start("main", "sleep 1000")
		g.checkShims(t, again, c)
		checkRuns(t, "in the pod's next sandbox", c)
	})
}

// TestShimGroupRestarts restarts dockerd and containerd under live-restore.
func TestShimGroupRestarts(t *testing.T) {
	t.Parallel()
	onShims(t, []string{"--live-restore"}, func(t *testing.T, g *shimTest) {
		for _, signal := range []string{"TERM", "KILL"} {
			g.survives(t, "dockerd restarted with "+signal, signal == "KILL", func(_ *ctr, end func()) {
				g.engine.endDockerd(t, signal)
				end()
				g.engine.startDockerd(t)
				if err := g.awaitReady(time.Minute); err != nil {
					t.Fatal(err)
				}
			})
			g.survives(t, "containerd restarted with "+signal, false, func(quiet *ctr, end func()) {
				g.engine.endContainerd(t, signal)
				// Docker may miss a container's exit before it listens again, with any kind of
				// shim.
				g.awaitExec(t, quiet)
				end()
			})
		}
	})
}

// survives checks that a pod survives a restart during which one container
// exits. killed tells that restart kills dockerd.
func (g *shimTest) survives(t *testing.T, when string, killed bool, restart func(quiet *ctr, end func())) {
	t.Helper()
	p := g.runPod(t)
	counter := p.start("counter", "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); echo $i; usleep 4000; done; sleep 1000")
	ends, quiet := p.start("ends", "while [ ! -e /end ]; do usleep 50000; done; exit 3"), p.start("quiet", "sleep 1000")
	pids := []int{g.docker.inspect(t, p.id).State.Pid, g.docker.inspect(t, counter.id).State.Pid, g.docker.inspect(t, quiet.id).State.Pid}
	end := fmt.Sprintf("/proc/%d/root/end", g.docker.inspect(t, ends.id).State.Pid)
	restart(quiet, func() { g.run(t, "touch", end) })

	// 255 is Docker's code for an exit that neither it nor containerd has seen.
	if s := ends.exited(); s.ExitCode != 3 && s.ExitCode != 255 {
		t.Errorf("%s: what ended meanwhile has the exit code %d", when, s.ExitCode)
	}
	g.awaitExec(t, quiet)
	checkRuns(t, when, counter, quiet)
	if after := []int{g.docker.inspect(t, p.id).State.Pid, g.docker.inspect(t, counter.id).State.Pid, g.docker.inspect(t, quiet.id).State.Pid}; !slices.Equal(pids, after) {
		t.Errorf("%s: processes were %v and are %v", when, pids, after)
	}
	late := p.start("late", "seq 1000; sleep 1000")
	g.checkShims(t, p, counter, quiet, late)
	checkRuns(t, when, late)
	eventually(t, "the log goes on", 5*time.Minute, func() bool { return strings.HasSuffix(counter.logText(), "\n2000\n") })
	if killed {
		counter.checkKept(2000)
	} else {
		checkSequence(t, counter.logLines(), 2000)
	}
	g.docker.must(t, http.MethodPost, "/containers/"+quiet.id+"/kill", nil, nil)
	checkExited(t, when, quiet, 137, "Error")
	checkRuns(t, when, counter, late)
	p.remove()
}

// awaitExec waits until the engine can run commands in a container again.
func (g *shimTest) awaitExec(t *testing.T, c *ctr) {
	t.Helper()
	eventually(t, "exec works", time.Minute, func() bool {
		r, err := c.exec(10, "true")
		return err == nil && r.ExitCode == 0
	})
}

// TestShimGroupEngineEnds restarts dockerd without live-restore: all containers
// exit, their exits are noticed, and they can be removed.
func TestShimGroupEngineEnds(t *testing.T) {
	t.Parallel()
	onShims(t, nil, func(t *testing.T, g *shimTest) {
		for _, signal := range []string{"TERM", "KILL"} {
			p := g.runPod(t)
			main, second := p.start("main", "trap 'exit 0' TERM; while :; do sleep 0.1; done"), p.start("second", "sleep 1000")
			g.checkShims(t, p, main, second)
			g.engine.endDockerd(t, signal)
			g.engine.startDockerd(t)
			if err := g.awaitReady(time.Minute); err != nil {
				t.Fatal(err)
			}
			main.exited()
			second.exited()
			eventually(t, "the sandbox is not ready", time.Minute, func() bool {
				return p.status().State == runtimeapi.PodSandboxState_SANDBOX_NOTREADY
			})
			p.remove()
			eventually(t, "no shim is left", time.Minute, func() bool { return len(g.shims(t)) == 0 })
			g.works(t, "after "+signal)
		}
	})
}
