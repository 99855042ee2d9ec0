package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	randomClients = 16
	// changesAtOnce limits the calls that make Docker create or remove something:
	// more at a time would only wait for each other.
	changesAtOnce = 8
	// changeTimeout is the deadline of these calls, on a machine of any speed.
	changeTimeout = 5 * time.Minute
)

// randomly is a run of clients that make random calls.
type randomly struct {
	*cridock
	end     time.Time
	changes chan struct{} // holds a token for each change in progress

	mu    sync.Mutex
	known []string       // IDs of all clients' sandboxes and containers, including removed ones
	calls map[string]int // how often each step was made
}

// client is one of the clients. It alone changes its pods, so it knows their
// state.
type client struct {
	*randomly
	*rand.Rand
	name string
	pods []*modelPod
}

type modelPod struct {
	cfg   *runtimeapi.PodSandboxConfig
	id    string
	ready bool
	ctrs  []*modelCtr
}

type modelCtr struct {
	cfg   *runtimeapi.ContainerConfig
	id    string
	state runtimeapi.ContainerState
}

// TestRandomClients has many clients make random calls for a while, and
// compares every answer with what the client knows about its own pods.
// CRIDOCK_E2E_RANDOM is the duration; CRIDOCK_E2E_SEED repeats a choice of
// steps.
func TestRandomClients(t *testing.T) {
	t.Parallel()
	c := newCridock(t, newNode(t), "cni", metricsFlags...)
	span, seed := 30*time.Second, uint64(time.Now().UnixNano())
	if v := os.Getenv("CRIDOCK_E2E_RANDOM"); v != "" {
		var err error
		if span, err = time.ParseDuration(v); err != nil {
			t.Fatal(err)
		}
	}
	if v := os.Getenv("CRIDOCK_E2E_SEED"); v != "" {
		var err error
		if seed, err = strconv.ParseUint(v, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("CRIDOCK_E2E_SEED=%d", seed)
	before := c.warmUp(t)
	r := &randomly{cridock: c, end: time.Now().Add(span), changes: make(chan struct{}, changesAtOnce), known: []string{"no-such-id"}, calls: map[string]int{}}
	var clients sync.WaitGroup
	for i := range randomClients {
		cl := &client{randomly: r, Rand: rand.New(rand.NewPCG(seed, uint64(i))), name: fmt.Sprintf("client-%d", i)}
		clients.Go(func() {
			err := cl.run(t)
			if err != nil {
				t.Errorf("%s: %v", cl.name, err)
			}
			if err := cl.leave(); err != nil {
				t.Errorf("%s, at the end: %v", cl.name, err)
			}
		})
	}
	clients.Wait()
	c.checkNothingLeft(t, before)
	if err := c.check(); err != nil {
		t.Error(err)
	}
	total := 0
	for name := range steps {
		total += r.calls[name]
		if r.calls[name] == 0 {
			t.Errorf("%q was never done", name)
		}
	}
	t.Logf("%d clients made %d steps in %v: %v", randomClients, total, span, r.calls)
}

// errNothing means that the client has nothing to make a step with.
var errNothing = errors.New("nothing to do")

// steps are what a client can do, with their relative frequencies.
var steps = map[string]struct {
	weight int
	do     func(*client, testing.TB) error
}{
	"run a pod":           {6, (*client).runPod},
	"run a pod again":     {2, (*client).runPodAgain},
	"stop a pod":          {2, (*client).stopPod},
	"remove a pod":        {3, (*client).removePod},
	"create a container":  {8, (*client).create},
	"start a container":   {8, (*client).startCtr},
	"stop a container":    {4, (*client).stopCtr},
	"remove a container":  {3, (*client).removeCtr},
	"resize a container":  {6, (*client).resize},
	"exec":                {6, (*client).execSync},
	"reopen a log":        {3, (*client).reopen},
	"ask for a session":   {3, (*client).session},
	"look at everything":  {10, (*client).lookAtAll},
	"look at lists":       {10, (*client).lookAtLists},
	"look at others":      {10, (*client).lookAtOthers},
	"look at stats":       {6, (*client).lookAtStats},
	"look at the node":    {4, (*client).lookAtNode},
	"read streamed lists": {4, (*client).readStreams},
}

func (cl *client) run(t testing.TB) error {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(steps)) {
		for range steps[name].weight {
			names = append(names, name)
		}
	}
	for !cl.over() {
		name := names[cl.IntN(len(names))]
		if missing := cl.missing(); len(missing) > 0 && cl.IntN(2) == 0 {
			name = missing[cl.IntN(len(missing))]
		}
		err := steps[name].do(cl, t)
		if errors.Is(err, errNothing) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		cl.mu.Lock()
		cl.calls[name]++
		cl.mu.Unlock()
	}
	return nil
}

// missing returns the steps that nobody has made, once the time is up.
func (r *randomly) missing() (names []string) {
	if time.Now().Before(r.end) {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(steps)) {
		if r.calls[name] == 0 {
			names = append(names, name)
		}
	}
	return names
}

// over ends the run when its time is up and each step has been made once, at
// most five minutes later on a slow machine.
func (r *randomly) over() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	late := time.Since(r.end)
	return late > 5*time.Minute || late > 0 && len(r.calls) == len(steps)
}

// leave removes everything that the client has.
func (cl *client) leave() error {
	for len(cl.pods) > 0 {
		if err := cl.remove(cl.pods[0]); err != nil {
			return err
		}
	}
	return nil
}

// change makes a call that causes work for Docker.
func change[Req, Resp any](cl *client, m method[Req, Resp], req Req) (Resp, error) {
	cl.changes <- struct{}{}
	defer func() { <-cl.changes }()
	ctx, cancel := context.WithTimeout(context.Background(), changeTimeout)
	defer cancel()
	return m(ctx, req)
}

// wantErr returns nil if err has the code.
func wantErr(err error, code codes.Code) error {
	if status.Code(err) != code {
		return fmt.Errorf("error is %w; want %v", err, code)
	}
	return nil
}

func (cl *client) learn(id string) {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	cl.known = append(cl.known, id)
}

// anyPod returns one of the client's pods, nil if it has none; anyCtr returns
// one of its containers.
func (cl *client) anyPod() *modelPod {
	if len(cl.pods) == 0 {
		return nil
	}
	return cl.pods[cl.IntN(len(cl.pods))]
}

func (cl *client) anyCtr() (*modelPod, *modelCtr) {
	p := cl.anyPod()
	if p == nil || len(p.ctrs) == 0 {
		return nil, nil
	}
	return p, p.ctrs[cl.IntN(len(p.ctrs))]
}

func (cl *client) runPod(t testing.TB) error {
	if len(cl.pods) == 2 {
		return errNothing
	}
	cfg := cl.podConfig(t)
	cfg.Labels["client"] = cl.name
	r, err := change(cl, cl.runtime.RunPodSandbox, &runtimeapi.RunPodSandboxRequest{Config: cfg})
	if err != nil {
		return err
	}
	cl.learn(r.PodSandboxId)
	cl.pods = append(cl.pods, &modelPod{cfg: cfg, id: r.PodSandboxId, ready: true})
	return nil
}

func (cl *client) runPodAgain(testing.TB) error {
	p := cl.anyPod()
	if p == nil || !p.ready {
		return errNothing
	}
	r, err := change(cl, cl.runtime.RunPodSandbox, &runtimeapi.RunPodSandboxRequest{Config: p.cfg})
	if err == nil && r.PodSandboxId != p.id {
		err = fmt.Errorf("it was %s and is %s", p.id, r.PodSandboxId)
	}
	return err
}

func (cl *client) stopPod(testing.TB) error {
	p := cl.anyPod()
	if p == nil {
		return errNothing
	}
	_, err := change(cl, cl.runtime.StopPodSandbox, &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.id})
	p.ready = false
	for _, c := range p.ctrs {
		if c.state == runtimeapi.ContainerState_CONTAINER_RUNNING {
			c.state = runtimeapi.ContainerState_CONTAINER_EXITED
		}
	}
	return err
}

func (cl *client) removePod(testing.TB) error {
	if p := cl.anyPod(); p != nil {
		return cl.remove(p)
	}
	return errNothing
}

func (cl *client) remove(p *modelPod) error {
	if _, err := change(cl, cl.runtime.RemovePodSandbox, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.id}); err != nil {
		return err
	}
	cl.pods = slices.DeleteFunc(cl.pods, func(q *modelPod) bool { return q == p })
	_, err := try(cl.runtime.PodSandboxStatus, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.id})
	if err := wantErr(err, codes.NotFound); err != nil {
		return fmt.Errorf("status of a removed pod: %w", err)
	}
	for _, c := range p.ctrs {
		_, err := try(cl.runtime.ContainerStatus, &runtimeapi.ContainerStatusRequest{ContainerId: c.id})
		if err := wantErr(err, codes.NotFound); err != nil {
			return fmt.Errorf("status of a removed pod's container: %w", err)
		}
	}
	return nil
}

func (cl *client) create(testing.TB) error {
	p := cl.anyPod()
	if p == nil || len(p.ctrs) == 3 {
		return errNothing
	}
	cfg := (&pod{cridock: cl.cridock, cfg: p.cfg, id: p.id}).ctrConfig(fmt.Sprintf("c%d", cl.Uint32()), "exec sleep 100000")
	cfg.Labels = map[string]string{"client": cl.name}
	request := &runtimeapi.CreateContainerRequest{PodSandboxId: p.id, Config: cfg, SandboxConfig: p.cfg}
	r, err := change(cl, cl.runtime.CreateContainer, request)
	if !p.ready {
		return wantErr(err, codes.FailedPrecondition)
	}
	if err != nil {
		return err
	}
	cl.learn(r.ContainerId)
	p.ctrs = append(p.ctrs, &modelCtr{cfg: cfg, id: r.ContainerId})
	if cl.IntN(4) == 0 { // the answer was lost
		again, err := change(cl, cl.runtime.CreateContainer, request)
		if err != nil {
			return fmt.Errorf("again: %w", err)
		}
		if again.ContainerId != r.ContainerId {
			return fmt.Errorf("created again: %s, was %s", again.ContainerId, r.ContainerId)
		}
	}
	return nil
}

func (cl *client) startCtr(testing.TB) error {
	p, c := cl.anyCtr()
	if c == nil {
		return errNothing
	}
	_, err := change(cl, cl.runtime.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: c.id})
	if !p.ready || c.state != runtimeapi.ContainerState_CONTAINER_CREATED {
		return wantErr(err, codes.FailedPrecondition)
	}
	c.state = runtimeapi.ContainerState_CONTAINER_RUNNING
	return err
}

func (cl *client) stopCtr(testing.TB) error {
	_, c := cl.anyCtr()
	if c == nil {
		return errNothing
	}
	_, err := change(cl, cl.runtime.StopContainer, &runtimeapi.StopContainerRequest{ContainerId: c.id})
	if c.state == runtimeapi.ContainerState_CONTAINER_RUNNING {
		c.state = runtimeapi.ContainerState_CONTAINER_EXITED
	}
	return err
}

func (cl *client) removeCtr(testing.TB) error {
	p, c := cl.anyCtr()
	if c == nil {
		return errNothing
	}
	p.ctrs = slices.DeleteFunc(p.ctrs, func(d *modelCtr) bool { return d == c })
	for range 1 + cl.IntN(2) {
		if _, err := change(cl, cl.runtime.RemoveContainer, &runtimeapi.RemoveContainerRequest{ContainerId: c.id}); err != nil {
			return err
		}
	}
	return nil
}

func (cl *client) resize(testing.TB) error {
	// Any container would hardly ever be a running one where every step takes long.
	var running []*modelCtr
	for _, p := range cl.pods {
		for _, c := range p.ctrs {
			if c.state == runtimeapi.ContainerState_CONTAINER_RUNNING {
				running = append(running, c)
			}
		}
	}
	if len(running) == 0 {
		return errNothing
	}
	c := running[cl.IntN(len(running))]
	shares := 100 + cl.Int64N(1000)
	if _, err := change(cl, cl.runtime.UpdateContainerResources, &runtimeapi.UpdateContainerResourcesRequest{
		ContainerId: c.id, Linux: &runtimeapi.LinuxContainerResources{CpuShares: shares},
	}); err != nil {
		return err
	}
	r, err := try(cl.runtime.ContainerStatus, &runtimeapi.ContainerStatusRequest{ContainerId: c.id})
	if got := r.GetStatus().GetResources().GetLinux().GetCpuShares(); err == nil && got != shares {
		return fmt.Errorf("CPU shares are %d, want %d", got, shares)
	}
	return err
}

func (cl *client) execSync(testing.TB) error {
	_, c := cl.anyCtr()
	if c == nil {
		return errNothing
	}
	r, err := change(cl, cl.runtime.ExecSync, &runtimeapi.ExecSyncRequest{ContainerId: c.id, Cmd: []string{"sh", "-c", "echo " + c.id + "; exit 3"}})
	if c.state != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return wantErr(err, codes.FailedPrecondition)
	}
	if err != nil || r.ExitCode != 3 || string(r.Stdout) != c.id+"\n" {
		return fmt.Errorf("exit code %d, %q: %w", r.GetExitCode(), r.GetStdout(), err)
	}
	return nil
}

func (cl *client) reopen(testing.TB) error {
	_, c := cl.anyCtr()
	if c == nil {
		return errNothing
	}
	_, err := try(cl.runtime.ReopenContainerLog, &runtimeapi.ReopenContainerLogRequest{ContainerId: c.id})
	if c.state != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return wantErr(err, codes.FailedPrecondition)
	}
	return err
}

// session requests the URLs of sessions that nobody starts.
func (cl *client) session(testing.TB) error {
	p, c := cl.anyCtr()
	if c == nil {
		return errNothing
	}
	_, execErr := try(cl.runtime.Exec, &runtimeapi.ExecRequest{ContainerId: c.id, Cmd: []string{"true"}, Stdout: true})
	_, attachErr := try(cl.runtime.Attach, &runtimeapi.AttachRequest{ContainerId: c.id, Stdout: true})
	want := codes.OK
	if c.state != runtimeapi.ContainerState_CONTAINER_RUNNING {
		want = codes.FailedPrecondition
	}
	for _, err := range []error{execErr, attachErr} {
		if err := wantErr(err, want); err != nil {
			return err
		}
	}
	_, err := try(cl.runtime.PortForward, &runtimeapi.PortForwardRequest{PodSandboxId: p.id})
	if want = codes.OK; !p.ready {
		want = codes.FailedPrecondition
	}
	return wantErr(err, want)
}

// lookAtAll reads the status of everything that the client has.
func (cl *client) lookAtAll(testing.TB) error {
	if len(cl.pods) == 0 {
		return errNothing
	}
	for _, p := range cl.pods {
		r, err := try(cl.runtime.PodSandboxStatus, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.id, Verbose: cl.IntN(5) == 0})
		s := r.GetStatus()
		if err != nil || s.Metadata.Uid != p.cfg.Metadata.Uid || (s.State == runtimeapi.PodSandboxState_SANDBOX_READY) != p.ready || (s.GetNetwork().GetIp() != "") != p.ready {
			return fmt.Errorf("sandbox, ready %v, is %v: %w", p.ready, s, err)
		}
		for _, c := range p.ctrs {
			r, err := try(cl.runtime.ContainerStatus, &runtimeapi.ContainerStatusRequest{ContainerId: c.id, Verbose: cl.IntN(5) == 0})
			if s := r.GetStatus(); err != nil || s.State != c.state || s.Metadata.Name != c.cfg.Metadata.Name || s.Labels["client"] != cl.name {
				return fmt.Errorf("container, %v, is %v: %w", c.state, s, err)
			}
		}
	}
	return nil
}

// mine returns the client's sandboxes and containers, with their states.
func (cl *client) mine() (sandboxes map[string]runtimeapi.PodSandboxState, ctrs map[string]runtimeapi.ContainerState) {
	sandboxes, ctrs = map[string]runtimeapi.PodSandboxState{}, map[string]runtimeapi.ContainerState{}
	for _, p := range cl.pods {
		sandboxes[p.id] = runtimeapi.PodSandboxState_SANDBOX_NOTREADY
		if p.ready {
			sandboxes[p.id] = runtimeapi.PodSandboxState_SANDBOX_READY
		}
		for _, c := range p.ctrs {
			ctrs[c.id] = c.state
		}
	}
	return sandboxes, ctrs
}

// lookAtLists reads the lists; either it or cridock selects the client's own
// entries.
func (cl *client) lookAtLists(testing.TB) error {
	var labels map[string]string
	if cl.IntN(2) == 0 {
		labels = map[string]string{"client": cl.name}
	}
	pods, err := try(cl.runtime.ListPodSandbox, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{LabelSelector: labels}})
	if err != nil {
		return err
	}
	list, err := try(cl.runtime.ListContainers, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{LabelSelector: labels}})
	if err != nil {
		return err
	}
	return cl.compare(pods.Items, list.Containers, labels != nil)
}

// compare compares lists with what the client has; selected lists contain
// nothing else.
func (cl *client) compare(pods []*runtimeapi.PodSandbox, list []*runtimeapi.Container, picked bool) error {
	gotPods, gotCtrs := map[string]runtimeapi.PodSandboxState{}, map[string]runtimeapi.ContainerState{}
	count := 0
	for _, p := range pods {
		if p.Labels["client"] == cl.name {
			gotPods[p.Id] = p.State
			count++
		} else if picked {
			return fmt.Errorf("listed for %s: %v", cl.name, p)
		}
	}
	for _, c := range list {
		if c.Labels["client"] == cl.name {
			gotCtrs[c.Id] = c.State
			count++
		} else if picked {
			return fmt.Errorf("listed for %s: %v", cl.name, c)
		}
	}
	wantPods, wantCtrs := cl.mine()
	if !maps.Equal(gotPods, wantPods) || !maps.Equal(gotCtrs, wantCtrs) || count != len(wantPods)+len(wantCtrs) {
		return fmt.Errorf("listed are %v, %v (%d); want %v, %v", gotPods, gotCtrs, count, wantPods, wantCtrs)
	}
	return nil
}

// readStreams is lookAtLists with the streamed lists.
func (cl *client) readStreams(testing.TB) error {
	ctx, cancel := context.WithTimeout(context.Background(), rpcTimeout)
	defer cancel()
	var pods []*runtimeapi.PodSandbox
	ps, err := cl.runtime.StreamPodSandboxes(ctx, &runtimeapi.StreamPodSandboxesRequest{})
	if err != nil {
		return err
	}
	for m, err := ps.Recv(); err == nil; m, err = ps.Recv() {
		pods = append(pods, m.GetPodSandboxes()...)
	}
	var list []*runtimeapi.Container
	cs, err := cl.runtime.StreamContainers(ctx, &runtimeapi.StreamContainersRequest{})
	if err != nil {
		return err
	}
	for m, err := cs.Recv(); err == nil; m, err = cs.Recv() {
		list = append(list, m.GetContainers()...)
	}
	return cl.compare(pods, list, false)
}

// lookAtOthers reads objects that another client may be removing or that never
// existed: the only error allowed is NotFound.
func (cl *client) lookAtOthers(testing.TB) error {
	cl.mu.Lock()
	id := cl.known[cl.IntN(len(cl.known))]
	cl.mu.Unlock()
	verbose := cl.IntN(3) == 0
	_, err1 := try(cl.runtime.PodSandboxStatus, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id, Verbose: verbose})
	_, err2 := try(cl.runtime.ContainerStatus, &runtimeapi.ContainerStatusRequest{ContainerId: id, Verbose: verbose})
	_, err3 := try(cl.runtime.ContainerStats, &runtimeapi.ContainerStatsRequest{ContainerId: id})
	_, err4 := try(cl.runtime.PodSandboxStats, &runtimeapi.PodSandboxStatsRequest{PodSandboxId: id})
	for i, err := range []error{err1, err2, err3, err4} {
		// Only running containers have stats.
		if code := status.Code(err); code != codes.OK && code != codes.NotFound && (code != codes.FailedPrecondition || i < 2) {
			return fmt.Errorf("read %d of %s: %w", i+1, id, err)
		}
	}
	return nil
}

// lookAtStats checks the stats of all the client's running containers.
func (cl *client) lookAtStats(testing.TB) error {
	r, err := try(cl.runtime.ListContainerStats, &runtimeapi.ListContainerStatsRequest{Filter: &runtimeapi.ContainerStatsFilter{LabelSelector: map[string]string{"client": cl.name}}})
	if err != nil {
		return err
	}
	got := map[string]bool{}
	for _, s := range r.Stats {
		got[s.GetAttributes().GetId()] = true
	}
	_, ctrs := cl.mine()
	for id, state := range ctrs {
		if state == runtimeapi.ContainerState_CONTAINER_RUNNING && !got[id] {
			return fmt.Errorf("no stats of %s among %v", id, got)
		}
		delete(got, id)
	}
	if len(got) > 0 {
		return fmt.Errorf("stats of others: %v", got)
	}
	if _, err := try(cl.runtime.ListPodSandboxStats, &runtimeapi.ListPodSandboxStatsRequest{}); err != nil {
		return err
	}
	_, err = try(cl.runtime.ListPodSandboxMetrics, &runtimeapi.ListPodSandboxMetricsRequest{})
	return err
}

func (cl *client) lookAtNode(testing.TB) error {
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Second) {
		s, err := try(cl.runtime.Status, &runtimeapi.StatusRequest{Verbose: cl.IntN(2) == 0})
		if err == nil && conditionsMet(s) {
			break
		}
		if err != nil || time.Now().After(end) { // Docker may be slow to answer for a moment
			return fmt.Errorf("status is %v: %w", s.GetStatus(), err)
		}
	}
	i, err := try(cl.images.ImageStatus, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: cl.image}})
	if err != nil || i.Image == nil {
		return fmt.Errorf("image is %v: %w", i, err)
	}
	list, err := try(cl.images.ListImages, &runtimeapi.ListImagesRequest{})
	if err != nil || len(list.Images) == 0 {
		return fmt.Errorf("images are %v: %w", list, err)
	}
	_, err = try(cl.images.ImageFsInfo, &runtimeapi.ImageFsInfoRequest{})
	return err
}
