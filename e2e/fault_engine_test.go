package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// hostPort publishes the pod's port 80.
func hostPort(port int32) podOption {
	return func(cfg *runtimeapi.PodSandboxConfig) {
		cfg.PortMappings = []*runtimeapi.PortMapping{{ContainerPort: 80, HostPort: port}}
	}
}

// bystander is a pod that a fault must not touch.
type bystander struct {
	*pod
	counter, quiet *ctr
	views          []any
	pids           []int
}

func (c *cridock) runBystander(t *testing.T) *bystander {
	t.Helper()
	b := &bystander{pod: c.runPod(t)}
	b.counter = b.start("counter", "i=0; until [ -e /stop ]; do i=$((i+1)); echo $i; usleep 20000; done; echo $i >/count; exec sleep 1000")
	b.quiet = b.start("quiet", "exec sleep 1000")
	b.views, b.pids = views(t, b.pod, b.counter, b.quiet), b.processes()
	return b
}

func (b *bystander) processes() (pids []int) {
	b.t.Helper()
	for _, id := range []string{b.id, b.counter.id, b.quiet.id} {
		pids = append(pids, b.docker.inspect(b.t, id).State.Pid)
	}
	return pids
}

// unharmed checks that the pod is unchanged: the same processes still print
// output and can be used.
func (b *bystander) unharmed(when string) {
	b.t.Helper()
	if diff := cmp.Diff(b.views, views(b.t, b.pod, b.counter, b.quiet), protocmp.Transform()); diff != "" {
		b.t.Errorf("%s: the bystander changed (-before +after):\n%s", when, diff)
	}
	if pids := b.processes(); !slices.Equal(pids, b.pids) {
		b.t.Errorf("%s: the bystander's processes were %v and are %v", when, b.pids, pids)
	}
	eventually(b.t, when+": exec works", time.Minute, func() bool {
		r, err := b.quiet.exec(10, "echo", "works")
		return err == nil && string(r.Stdout) == "works\n"
	})
	lines := len(b.counter.logLines())
	eventually(b.t, when+": the log goes on", time.Minute, func() bool { return len(b.counter.logLines()) > lines })
}

// finish removes the pod after checking its whole log.
func (b *bystander) finish() {
	b.t.Helper()
	count := b.end()
	checkSequence(b.t, b.counter.logLines(), count)
	b.remove()
}

// finishAfterKill is finish after dockerd was killed.
func (b *bystander) finishAfterKill() {
	b.t.Helper()
	count := b.end()
	b.counter.checkKept(count)
	b.remove()
}

// end ends the counter's output, and returns the last number once it is in the log.
func (b *bystander) end() (count int) {
	b.t.Helper()
	count = b.counter.stopCounting()
	b.awaitLast(b.t, b.counter.logPath(), count)
	return count
}

// checkKept is checkSequence after dockerd was killed once. What it had read from
// the container and not yet written to its own file is lost, which makes one gap at
// most. The log must have all that the file has.
func (c *ctr) checkKept(count int) {
	c.t.Helper()
	var texts []string
	last, gaps := 0, 0
	for _, l := range c.logLines() {
		number, err := strconv.Atoi(l.text)
		if err != nil || !l.full || number <= last {
			c.t.Fatalf("after %d comes %q", last, l.text)
		}
		if number > last+1 {
			c.t.Logf("after %d comes %d", last, number)
			gaps++
		}
		last = number
		texts = append(texts, l.text+"\n")
	}
	if last != count || texts[0] != "1\n" || gaps > 1 {
		c.t.Errorf("the log ends with %d, want %d; %d gaps", last, count, gaps)
	}
	if diff := cmp.Diff(c.kept(), texts); diff != "" {
		c.t.Errorf("the log is not what Docker has kept (-Docker +log):\n%s", diff)
	}
}

// kept returns the output in Docker's own file.
func (c *ctr) kept() (texts []string) {
	c.t.Helper()
	file, err := os.Open(c.docker.inspect(c.t, c.id).LogPath)
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	for records := json.NewDecoder(file); ; {
		var record struct {
			Log string `json:"log"`
		}
		switch err := records.Decode(&record); {
		case errors.Is(err, io.EOF):
			return texts
		case err != nil:
			c.t.Fatal(err)
		}
		texts = append(texts, record.Log)
	}
}

// kubelet brings pods up and down as the kubelet does: it reads the state,
// makes the missing calls, and after an error starts over.
type kubelet struct {
	*cridock
	calls       atomic.Int64 // started
	interrupted atomic.Int64 // interrupted by the end of cridock
}

// step makes one call of a pass over a pod.
func step[Req, Resp any](k *kubelet, m method[Req, Resp], req Req) (Resp, error) {
	k.calls.Add(1)
	resp, err := try(m, req)
	if status.Code(err) == codes.Unavailable {
		k.interrupted.Add(1)
	}
	if err != nil {
		err = fmt.Errorf("%T: %w", req, err)
	}
	return resp, err
}

// retry makes passes until one succeeds. The only error that it accepts is that
// cridock was not running.
func (k *kubelet) retry(what string, pass func() error) error {
	for end := time.Now().Add(5 * time.Minute); ; {
		err := pass()
		if err == nil {
			return nil
		}
		var s interface{ GRPCStatus() *status.Status }
		if !errors.As(err, &s) || s.GRPCStatus().Code() != codes.Unavailable {
			return fmt.Errorf("%s: %w", what, err)
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s: not within five minutes, at last: %w", what, err)
		}
	}
}

func (k *kubelet) sandboxes(cfg *runtimeapi.PodSandboxConfig) ([]*runtimeapi.PodSandbox, error) {
	r, err := step(k, k.runtime.ListPodSandbox, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{LabelSelector: cfg.Labels}})
	return r.GetItems(), err
}

// up is one pass towards a running pod; it returns its sandbox and container.
func (k *kubelet) up(cfg *runtimeapi.PodSandboxConfig, ctrCfg *runtimeapi.ContainerConfig) (sandbox, ctr string, err error) {
	if sandbox, err = k.sandboxUp(cfg); err != nil {
		return "", "", err
	}
	list, err := step(k, k.runtime.ListContainers, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{PodSandboxId: sandbox}})
	if err != nil {
		return "", "", err
	}
	ctrCfg = proto.CloneOf(ctrCfg)
	for _, c := range list.Containers {
		if c.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			return sandbox, c.Id, nil
		}
		ctrCfg.Metadata.Attempt = max(ctrCfg.Metadata.Attempt, c.Metadata.Attempt+1)
	}
	ctrCfg.LogPath = fmt.Sprintf("%s_%d.log", ctrCfg.Metadata.Name, ctrCfg.Metadata.Attempt)
	created, err := step(k, k.runtime.CreateContainer, &runtimeapi.CreateContainerRequest{PodSandboxId: sandbox, Config: ctrCfg, SandboxConfig: cfg})
	if err != nil {
		return "", "", err
	}
	_, err = step(k, k.runtime.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: created.ContainerId})
	return sandbox, created.GetContainerId(), err
}

func (k *kubelet) sandboxUp(cfg *runtimeapi.PodSandboxConfig) (string, error) {
	list, err := k.sandboxes(cfg)
	if err != nil {
		return "", err
	}
	cfg = proto.CloneOf(cfg)
	for _, s := range list {
		if s.State == runtimeapi.PodSandboxState_SANDBOX_READY {
			return s.Id, nil
		}
		cfg.Metadata.Attempt = max(cfg.Metadata.Attempt, s.Metadata.Attempt+1)
		if err := k.removeSandbox(s.Id); err != nil {
			return "", err
		}
	}
	r, err := step(k, k.runtime.RunPodSandbox, &runtimeapi.RunPodSandboxRequest{Config: cfg})
	return r.GetPodSandboxId(), err
}

func (k *kubelet) removeSandbox(id string) error {
	if _, err := step(k, k.runtime.StopPodSandbox, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
		return err
	}
	_, err := step(k, k.runtime.RemovePodSandbox, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id})
	return err
}

// down is one pass towards a removed pod.
func (k *kubelet) down(cfg *runtimeapi.PodSandboxConfig) error {
	list, err := k.sandboxes(cfg)
	if err != nil {
		return err
	}
	for _, s := range list {
		if err := k.removeSandbox(s.Id); err != nil {
			return err
		}
	}
	list, err = k.sandboxes(cfg)
	if err == nil && len(list) > 0 {
		err = fmt.Errorf("after their removal there are %v", list)
	}
	return err
}

// cycle brings a pod up, checks that it runs, and takes it down again.
func (k *kubelet) cycle(cfg *runtimeapi.PodSandboxConfig, ctrCfg *runtimeapi.ContainerConfig) error {
	name := cfg.Metadata.Name
	err := k.retry(name+" up", func() error {
		sandbox, ctr, err := k.up(cfg, ctrCfg)
		if err != nil {
			return err
		}
		s, err := step(k, k.runtime.PodSandboxStatus, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: sandbox})
		if err != nil {
			return err
		}
		if s.Status.GetNetwork().GetIp() == "" {
			return fmt.Errorf("a ready sandbox without an address: %v", s.Status)
		}
		r, err := step(k, k.runtime.ExecSync, &runtimeapi.ExecSyncRequest{ContainerId: ctr, Cmd: []string{"echo", "works"}, Timeout: longTimeout})
		if err == nil && string(r.Stdout) != "works\n" {
			err = fmt.Errorf("exec printed %q", r.Stdout)
		}
		return err
	})
	return errors.Join(err, k.retry(name+" down", func() error { return k.down(cfg) }))
}

// killer kills cridock at random moments and restarts it, until stop is closed.
// It waits for some more calls, or for none right after a start, and then up to
// 0.3 s: so that the kill hits the middle of a call.
func (k *kubelet) killer(random *rand.Rand, stop <-chan struct{}) (kills int, err error) {
	for {
		after := k.calls.Load()
		if random.IntN(5) > 0 {
			after += 6 + random.Int64N(24)
		}
		for k.calls.Load() < after {
			select {
			case <-stop:
				return kills, nil
			case <-time.After(time.Millisecond):
			}
		}
		select {
		case <-stop:
			return kills, nil
		case <-time.After(time.Duration(random.Int64N(int64(300 * time.Millisecond)))):
		}
		for _, err := k.process(); err != nil; _, err = k.process() {
			select { // nsenter may not have started cridock yet
			case <-k.done:
				return kills, fmt.Errorf("cridock ended by itself: %v\n%s", k.cmd.ProcessState, k.logTail())
			case <-time.After(time.Millisecond):
			}
		}
		if err := k.kill(); err != nil {
			return kills, err
		}
		kills++
		if err := k.awaitPlugins(); err != nil {
			return kills, err
		}
		if err := k.launch(); err != nil {
			return kills, err
		}
	}
}

// awaitPlugins waits until the CNI plugins of a killed cridock have ended. What such
// an ADD still does after the next cridock's DEL would stay behind.
func (k *kubelet) awaitPlugins() error {
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		programs, err := filepath.Glob(k.seen("/proc/[0-9]*/exe"))
		if err != nil {
			return err
		}
		running := slices.ContainsFunc(programs, func(link string) bool {
			program, err := os.Readlink(link)
			return err == nil && filepath.Dir(program) == cniBinDir // else it has ended
		})
		if !running {
			return nil
		}
		if time.Now().After(end) {
			return errors.New("a CNI plugin runs on a minute after cridock was killed")
		}
	}
}

// TestKilledAtRandom kills cridock again and again while pods come and go, every second
// one with a user namespace and a volume that is mapped into it.
// CRIDOCK_E2E_KILL_CYCLES is the number of pods; CRIDOCK_E2E_SEED repeats the
// choice of moments.
func TestKilledAtRandom(t *testing.T) {
	t.Parallel()
	cycles := setting(t, "CRIDOCK_E2E_KILL_CYCLES", 12)
	seed := setting(t, "CRIDOCK_E2E_SEED", int(time.Now().UnixNano()))
	t.Logf("CRIDOCK_E2E_SEED=%d", seed)
	u := newUsernsTest(t, metricsFlags...)
	u.mustRegister(t)
	if err := u.start(); err != nil {
		t.Fatal(err)
	}
	k := &kubelet{cridock: u.cridock}
	before := k.warmUp(t)
	b := k.runBystander(t)
	volume := t.TempDir()

	type pair struct {
		pod *runtimeapi.PodSandboxConfig
		ctr *runtimeapi.ContainerConfig
	}
	pairs := make(chan pair, cycles)
	for i := range cycles {
		options, ctrOptions := []podOption{hostPort(int32(20000 + i))}, []ctrOption(nil)
		if i%2 == 1 {
			hostID := uint32(i+1) << 16
			options, ctrOptions = append(options, inUserNamespace(hostID)), []ctrOption{mapped(hostID, volume, "/volume")}
		}
		pairs <- pair{k.podConfig(t, options...), b.ctrConfig("main", "echo up; exec sleep 1000", ctrOptions...)}
	}
	close(pairs)
	var workers sync.WaitGroup
	for range 3 {
		workers.Go(func() {
			for p := range pairs {
				if err := k.cycle(p.pod, p.ctr); err != nil {
					t.Error(err)
				}
			}
		})
	}
	stop := make(chan struct{})
	go func() {
		workers.Wait()
		close(stop)
	}()
	kills, err := k.killer(rand.New(rand.NewPCG(uint64(seed), 0)), stop)
	workers.Wait()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d pods, %d calls, %d kills, which ended %d calls", cycles, k.calls.Load(), kills, k.interrupted.Load())
	if kills < cycles/5 || k.interrupted.Load() == 0 {
		t.Error("cridock was not killed at work")
	}
	if err := k.awaitReady(time.Minute); err != nil {
		t.Fatal(err)
	}
	b.unharmed("after all kills")
	b.finish()
	k.checkNothingLeft(t, before)
	u.checkSeamLeft(t)
}

// newFaultyEngine returns a cridock on an engine that can be broken.
func newFaultyEngine(t *testing.T, dockerdFlags ...string) (*ownEngine, *cridock) {
	t.Helper()
	needEngine(t)
	e := newOwnEngine(t, dockerdFlags...)
	return e, newCridock(t, e.node, "cni", append([]string{"--docker-endpoint=unix://" + e.socket()}, metricsFlags...)...)
}

// restartDockerd kills dockerd, calls meanwhile, and starts dockerd again.
func (e *ownEngine) restartDockerd(t *testing.T, c *cridock, signal string, meanwhile func()) {
	t.Helper()
	e.endDockerd(t, signal)
	if meanwhile != nil {
		meanwhile()
	}
	e.startDockerd(t)
	if err := c.awaitReady(time.Minute); err != nil {
		t.Fatal(err)
	}
}

// checkTrue checks that cridock reports the same of containers as Docker.
func (c *cridock) checkTrue(t *testing.T, when string, ctrs ...*ctr) {
	t.Helper()
	for _, ctr := range ctrs {
		var d struct {
			State struct {
				Status   string
				ExitCode int32
			}
		}
		c.docker.must(t, http.MethodGet, "/containers/"+ctr.id+"/json", nil, &d)
		want := map[string]runtimeapi.ContainerState{
			"running": runtimeapi.ContainerState_CONTAINER_RUNNING, "exited": runtimeapi.ContainerState_CONTAINER_EXITED,
		}[d.State.Status]
		if s := ctr.status(); s.State != want || s.ExitCode != d.State.ExitCode {
			t.Errorf("%s: %s is %v, exit code %d; Docker says %s, %d", when, ctr.cfg.Metadata.Name, s.State, s.ExitCode, d.State.Status, d.State.ExitCode)
		}
	}
}

// TestDockerKilledLiveRestore kills dockerd under pods that continue to run.
func TestDockerKilledLiveRestore(t *testing.T) {
	t.Parallel()
	e, c := newFaultyEngine(t, "--live-restore")
	before := c.warmUp(t)
	b := c.runBystander(t)
	p := c.runPod(t)
	ends := p.start("ends", "until [ -e /end ]; do usleep 20000; done; exit 3")
	end := fmt.Sprintf("/proc/%d/root/end", c.docker.inspect(t, ends.id).State.Pid)
	e.restartDockerd(t, c, "KILL", func() {
		eventually(t, "the runtime is not ready", time.Minute, func() bool { return c.runtimeReady(t) != "" })
		_, err := b.quiet.exec(10, "true")
		wantCode(t, err, codes.Unavailable, "")
		e.run(t, "touch", end)
	})
	// 255 is Docker's code for an exit that neither it nor containerd has seen.
	if s := ends.exited(); s.ExitCode != 3 && s.ExitCode != 255 {
		t.Errorf("what ended meanwhile has the exit code %d", s.ExitCode)
	}
	b.unharmed("after dockerd was killed")
	c.checkTrue(t, "after dockerd was killed", ends, b.counter, b.quiet)
	p.start("late", "exec sleep 1000").sh("true")
	p.remove()
	b.finishAfterKill()
	c.checkCensus(t, before)
}

// runtimeReady returns why the runtime is not ready; "" if it is.
func (c *cridock) runtimeReady(t *testing.T) string {
	t.Helper()
	s := rpc(t, c.runtime.Status, &runtimeapi.StatusRequest{}).GetStatus().GetConditions()[0]
	if s.Status {
		return ""
	}
	if s.Type != runtimeapi.RuntimeReady || s.Reason == "" || s.Message == "" {
		t.Errorf("no reason in %v", s)
	}
	return s.Reason + ": " + s.Message
}

// TestDockerKilled kills dockerd without live-restore: all containers exit, and
// the pods are brought up again.
func TestDockerKilled(t *testing.T) {
	t.Parallel()
	e, c := newFaultyEngine(t)
	before := c.warmUp(t)
	for _, signal := range []string{"TERM", "KILL"} {
		when := "dockerd ended with " + signal
		p := c.runPod(t, hostPort(18080))
		tidy := p.start("tidy", "trap 'echo bye; exit 5' TERM; echo up; while :; do usleep 50000; done")
		stubborn, done := p.start("stubborn", "exec sleep 1000"), p.start("done", "echo done; exit 7")
		done.exited()
		eventually(t, "the trap is set", time.Minute, func() bool { return tidy.logText() == "up\n" })
		e.restartDockerd(t, c, signal, nil)

		for ctr, want := range map[*ctr]int32{tidy: 5, stubborn: 137, done: 7} {
			if s := ctr.exited(); s.ExitCode != want {
				t.Errorf("%s: %s has the exit code %d, want %d", when, ctr.cfg.Metadata.Name, s.ExitCode, want)
			}
		}
		c.checkTrue(t, when, tidy, stubborn, done)
		if tidy.logText() != "up\nbye\n" || done.logText() != "done\n" {
			t.Errorf("%s: the logs are %q and %q", when, tidy.logText(), done.logText())
		}
		c.comesAgain(t, when, p)
	}
	c.checkCensus(t, before)
}

// comesAgain expects a pod's sandbox to be not ready, runs the pod's next
// sandbox beside it, and removes both.
func (c *cridock) comesAgain(t *testing.T, when string, p *pod) {
	t.Helper()
	if s := p.status(); s.State != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("%s: the sandbox is %v", when, s.State)
	}
	p.stop() // the kubelet does this before it retries
	again := c.runPod(t, func(cfg *runtimeapi.PodSandboxConfig) {
		proto.Reset(cfg)
		proto.Merge(cfg, p.cfg)
		cfg.Metadata.Attempt++
	})
	main := again.start("main", "echo up; exec sleep 1000")
	if main.sh("echo works") != "works" || again.status().State != runtimeapi.PodSandboxState_SANDBOX_READY {
		t.Errorf("%s: the next attempt is %v", when, again.status())
	}
	if c.plugin == "cni" {
		if held, err := c.addresses(p.id); err != nil || len(held) > 0 {
			t.Errorf("%s: the stopped sandbox holds %v, %v", when, held, err)
		}
	}
	p.remove()
	if s := again.status(); s.State != runtimeapi.PodSandboxState_SANDBOX_READY || main.status().State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("%s: the removal of the old sandbox makes the new one %v", when, s.State)
	}
	again.remove()
	c.checkGone(t, p.cfg.Metadata.Uid, p.id)
}

// TestContainerdKilled kills the engine's containerd, which dockerd starts again.
func TestContainerdKilled(t *testing.T) {
	t.Parallel()
	e, c := newFaultyEngine(t)
	before := c.warmUp(t)
	b := c.runBystander(t)
	p := c.runPod(t)
	ends, killed := p.start("ends", "until [ -e /end ]; do usleep 20000; done; exit 3"), p.start("killed", "exec sleep 1000")
	e.endContainerd(t, "KILL")
	b.unharmed("after containerd was killed")
	// Docker may miss a container's exit before it listens again.
	eventually(t, "exec works", time.Minute, func() bool {
		r, err := ends.exec(10, "touch", "/end")
		return err == nil && r.ExitCode == 0
	})
	checkExited(t, "after containerd was killed", ends, 3, "Error")
	killed.stop(0)
	checkExited(t, "after containerd was killed", killed, 137, "Error")
	c.checkTrue(t, "after containerd was killed", ends, killed, b.counter, b.quiet)
	p.start("late", "exec sleep 1000").sh("true")
	p.remove()
	b.finish()
	c.checkCensus(t, before)
}

// callsWithin returns calls that need an answer from Docker, with the caller's
// deadline.
func callsWithin(p *pod, ctrs []*ctr, fresh *runtimeapi.PodSandboxConfig, limit time.Duration) map[string]func() error {
	within := func(call func(context.Context) error) func() error {
		return func() error {
			ctx, cancel := context.WithTimeout(context.Background(), limit)
			defer cancel()
			return call(ctx)
		}
	}
	r := p.runtime
	return map[string]func() error{
		"RunPodSandbox": within(func(ctx context.Context) error {
			_, err := r.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: fresh})
			return err
		}),
		"CreateContainer": within(func(ctx context.Context) error {
			_, err := r.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: p.id, Config: p.ctrConfig("new", "exec sleep 1000"), SandboxConfig: p.cfg})
			return err
		}),
		"StopContainer": within(func(ctx context.Context) error {
			_, err := r.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: ctrs[0].id, Timeout: 1})
			return err
		}),
		"RemoveContainer": within(func(ctx context.Context) error {
			_, err := r.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: ctrs[1].id})
			return err
		}),
		"ExecSync": within(func(ctx context.Context) error {
			_, err := r.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: ctrs[2].id, Cmd: []string{"true"}})
			return err
		}),
		"ExecSync with a timeout": func() error {
			_, err := ctrs[2].exec(int64(limit.Seconds()), "true")
			return err
		},
		"PullImage": within(func(ctx context.Context) error {
			_, err := p.images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: "127.0.0.1:1/none:1"}})
			return err
		}),
		"StopPodSandbox": within(func(ctx context.Context) error {
			_, err := r.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.id})
			return err
		}),
	}
}

// TestDockerHangs stops dockerd's process for a while. CRIDOCK_E2E_HANG is the
// minimum number of seconds.
func TestDockerHangs(t *testing.T) {
	t.Parallel()
	hang := time.Duration(setting(t, "CRIDOCK_E2E_HANG", 0)) * time.Second
	e, c := newFaultyEngine(t)
	before := c.warmUp(t)
	b := c.runBystander(t)
	p := c.runPod(t)
	ctrs := []*ctr{p.start("stop", "exec sleep 1000"), p.start("remove", "exec sleep 1000"), p.start("exec", "exec sleep 1000")}
	fresh := c.podConfig(t)
	goOn, began := e.hang(t), time.Now()
	defer goOn()
	c.hung(t, "at once", p, ctrs, fresh)
	eventually(t, "the runtime is not ready", time.Minute, func() bool { return c.runtimeReady(t) != "" })
	t.Logf("not ready after %v: %s", time.Since(began).Round(time.Second), c.runtimeReady(t))
	c.hung(t, "known to hang", p, ctrs, fresh)
	// Known state is still served.
	if diff := cmp.Diff(b.views, views(t, b.pod, b.counter, b.quiet), protocmp.Transform()); diff != "" {
		t.Errorf("the bystander changed while dockerd hung (-before +after):\n%s", diff)
	}
	if list := rpc(t, c.runtime.ListContainers, &runtimeapi.ListContainersRequest{}).Containers; len(list) != 5 {
		t.Errorf("containers that were there are %v", list)
	}
	time.Sleep(time.Until(began.Add(hang)))
	goOn()
	if err := c.awaitReady(time.Minute); err != nil {
		t.Fatal(err)
	}
	b.unharmed("after dockerd hung")
	// The kubelet retries. The outcome of its earlier calls is not in the way.
	again := c.runPod(t, func(cfg *runtimeapi.PodSandboxConfig) {
		proto.Reset(cfg)
		proto.Merge(cfg, fresh)
	})
	again.start("main", "exec sleep 1000").sh("true")
	again.remove()
	p.remove()
	b.finish()
	c.checkCensus(t, before)
}

// hung checks that calls that need Docker return when their callers' deadlines
// expire.
func (c *cridock) hung(t *testing.T, when string, p *pod, ctrs []*ctr, fresh *runtimeapi.PodSandboxConfig) {
	t.Helper()
	const patience = 2 * time.Second
	var wg sync.WaitGroup
	for name, call := range callsWithin(p, ctrs, fresh, patience) {
		wg.Go(func() {
			start := time.Now()
			err := call()
			if code := status.Code(err); code != codes.DeadlineExceeded && code != codes.Unavailable {
				t.Errorf("%s, %s: %v", when, name, err)
			}
			if took := time.Since(start); took > time.Minute {
				t.Errorf("%s, %s: ended after %v", when, name, took)
			}
		})
	}
	wg.Wait()
}

// powerCut kills everything on a node at once, and starts the engine with what
// was on its disks.
func (n *node) powerCut(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(n.pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the namespaces end", time.Minute, func() bool {
		return errors.Is(syscall.Kill(n.pid, 0), syscall.ESRCH)
	})
	// This would be in memory on a real machine.
	if err := os.RemoveAll(filepath.Join(n.dir, "exec")); err != nil {
		t.Fatal(err)
	}
	var last string
	defer func() {
		if t.Failed() {
			t.Logf("the last removal of cgroups printed %q", last)
		}
	}()
	// Only these: find fails if other tests' cgroups disappear while it looks.
	name := "cridock-" + filepath.Base(n.dir)
	cgroups, err := globs("/sys/fs/cgroup/"+name, "/sys/fs/cgroup/*/"+name)
	if err != nil {
		t.Fatal(err)
	}
	find := slices.Concat(cgroups, []string{"-mindepth", "1", "-depth", "-type", "d", "-exec", "rmdir", "{}", "+"})
	eventually(t, "the cgroups can be removed", time.Minute, func() bool {
		out, err := exec.Command("find", find...).CombinedOutput()
		last = string(out)
		return err == nil
	})
	if err := n.startEngine(); err != nil {
		t.Fatal(err)
	}
}

// TestPowerCut restarts the machine under running pods.
func TestPowerCut(t *testing.T) {
	t.Parallel()
	for _, plugin := range []string{"cni", "docker"} {
		t.Run(plugin, func(t *testing.T) {
			t.Parallel()
			c := newCridock(t, newNode(t), plugin, metricsFlags...)
			before := c.warmUp(t)
			again, goes, inHost := c.runPod(t, hostPort(18080)), c.runPod(t), c.runPod(t, hostNetwork)
			var ctrs []*ctr
			for _, p := range []*pod{again, goes, inHost} {
				ctrs = append(ctrs, p.start("main", "echo up; exec sleep 1000", imageVolume(c.image, "")))
			}
			for _, ctr := range ctrs {
				eventually(t, "the log is there", time.Minute, func() bool { return ctr.logText() == "up\n" })
			}
			c.powerCut(t)
			<-c.done
			if err := errors.Join(c.check(), os.RemoveAll(c.path("run")), c.start()); err != nil {
				t.Fatal(err)
			}
			for i, p := range []*pod{again, goes, inHost} {
				if s := p.status(); s.State != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
					t.Errorf("after the power cut a sandbox is %v", s)
				}
				// 255 is Docker's code for an exit that it has not seen.
				checkExited(t, "after the power cut", ctrs[i], 255, "Error")
				if log := ctrs[i].logText(); log != "up\n" {
					t.Errorf("after the power cut the log is %q", log)
				}
			}
			c.comesAgain(t, "after the power cut", again)
			goes.remove()
			inHost.remove()
			c.runPod(t).start("main", "exec sleep 1000").sh("true")
			for _, left := range rpc(t, c.runtime.ListPodSandbox, &runtimeapi.ListPodSandboxRequest{}).Items {
				rpc(t, c.runtime.RemovePodSandbox, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: left.Id})
			}
			c.checkCensus(t, before)
		})
	}
}
