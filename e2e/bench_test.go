package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// BenchmarkFullNode measures what a kubelet asks for on a node full of sleeping
// containers. It is run by hand, without the race detector:
//
//	sudo hack/test.sh -race=false ./e2e -run='^$' -bench=FullNode -benchtime=1x -timeout=1h
//
// CRIDOCK_BENCH_PEER is a cri-dockerd to compare with: it serves the same pods.
// CRIDOCK_BENCH_PODS, CRIDOCK_BENCH_SECONDS and CRIDOCK_BENCH_CHURN are the
// number of pods (110), how long lists and statistics are asked for, and a kubelet's
// load lasts (60), and the pods that are run and removed (100).
func BenchmarkFullNode(b *testing.B) {
	f, seconds := newFullNode(b, setting(b, "CRIDOCK_BENCH_PODS", 110)), setting(b, "CRIDOCK_BENCH_SECONDS", 60)
	for _, a := range f.adapters {
		b.Run("idle/"+a.name, func(b *testing.B) { f.idle(b, a, 60) })
		b.Run("lists/"+a.name, func(b *testing.B) { f.lists(b, a, seconds) })
		b.Run("status/"+a.name, func(b *testing.B) { f.status(b, a) })
		b.Run("stats/"+a.name, func(b *testing.B) { f.stats(b, a, seconds) })
	}
	b.Run("generic PLEG", func(b *testing.B) { f.kubelet(b, false, seconds) })
	b.Run("evented PLEG", func(b *testing.B) { f.kubelet(b, true, seconds) })
	b.Run("restart", f.restart)
	b.Run("restart of dockerd", f.restartDockerd)
	b.Run("churn", func(b *testing.B) { f.churn(b, setting(b, "CRIDOCK_BENCH_CHURN", 100)) })
}

func setting(t testing.TB, name string, otherwise int) int {
	t.Helper()
	v := os.Getenv(name)
	if v == "" {
		return otherwise
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// adapter is a CRI server that uses the node's engine.
type adapter struct {
	name    string
	runtime runtimeapi.RuntimeServiceClient
	pid     func() int // the machine's
}

// fullNode is a node full of pods with two containers each.
type fullNode struct {
	*cridock
	engine     *ownEngine
	containerd *exec.Cmd // nsenter
	adapters   []*adapter
	containers int
	pods       []string
	filled     time.Duration // how long it took to run all pods, eight at a time
	peer       *exec.Cmd
}

func newFullNode(b *testing.B, pods int) *fullNode {
	b.Helper()
	engine, containerd := newPackagedEngine(b)
	c, err := install(engine.node, "docker", "--docker-endpoint=unix://"+engine.socket(), "--metrics-bind-address=9911", "--profiling", "--v=0")
	if err != nil {
		b.Fatal(err)
	}
	f := &fullNode{cridock: c, engine: engine, containerd: containerd, containers: 2 * pods}
	if err := c.start(); err != nil {
		b.Fatal(err)
	}
	f.adapters = []*adapter{{name: "cridock", runtime: c.runtime, pid: func() int { return child(b, c.cmd) }}}
	b.Cleanup(func() { f.close(b) })
	work, start := make(chan int), time.Now()
	var mu sync.Mutex
	var workers sync.WaitGroup
	for range 8 {
		workers.Go(func() {
			for range work {
				id := f.sleepingPod(b)
				mu.Lock()
				f.pods = append(f.pods, id)
				mu.Unlock()
			}
		})
	}
	for i := range pods {
		work <- i
	}
	close(work)
	workers.Wait()
	f.filled = time.Since(start)
	if b.Failed() {
		b.FailNow()
	}
	f.startPeer(b)
	return f
}

// newPackagedEngine returns an engine with a containerd that is not dockerd's child, as
// in packages, so that it and the shims outlive dockerd. It has a bridge.
func newPackagedEngine(b *testing.B) (e *ownEngine, containerd *exec.Cmd) {
	b.Helper()
	e = newOwnEngineOn(b, func(e *ownEngine) {
		config, socket := filepath.Join(e.dir, "containerd.toml"), filepath.Join(e.dir, "containerd.sock")
		if err := os.WriteFile(config, []byte("version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n"), 0o644); err != nil {
			b.Fatal(err)
		}
		containerd = e.command("containerd", "--config", config, "--address", socket, "--root", e.dir+"/containerd", "--state", e.dir+"/state")
		log, err := os.Create(filepath.Join(e.dir, "containerd.log"))
		if err != nil {
			b.Fatal(err)
		}
		defer func() { _ = log.Close() }() // the process has its own descriptor
		containerd.Stdout, containerd.Stderr = log, log
		if err := containerd.Start(); err != nil {
			b.Fatal(err)
		}
		eventually(b, "containerd listens", time.Minute, func() bool {
			_, err := os.Stat(socket)
			return err == nil
		})
		e.args = slices.DeleteFunc(e.args, func(arg string) bool { return arg == "--bridge=none" })
		e.args = append(e.args, "--live-restore", "--containerd", socket)
	})
	return e, containerd
}

// sleepingPod runs a pod with two containers. It is called concurrently.
func (f *fullNode) sleepingPod(b *testing.B) (id string) {
	cfg := f.podConfig(b)
	sandbox, err := try(f.runtime.RunPodSandbox, &runtimeapi.RunPodSandboxRequest{Config: cfg})
	if err != nil {
		b.Error(err)
		return ""
	}
	id = sandbox.PodSandboxId
	for i := range 2 {
		created, err := try(f.runtime.CreateContainer, &runtimeapi.CreateContainerRequest{PodSandboxId: id, SandboxConfig: cfg, Config: f.sleeper(i)})
		if err == nil {
			_, err = try(f.runtime.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: created.ContainerId})
		}
		if err != nil {
			b.Error(err)
		}
	}
	return id
}

// sleeper configures the ith container of a pod.
func (f *fullNode) sleeper(i int) *runtimeapi.ContainerConfig {
	return &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: fmt.Sprint("c", i)}, Image: &runtimeapi.ImageSpec{Image: f.image},
		Command: []string{"sleep", "100000"}, LogPath: fmt.Sprintf("c%d_0.log", i), Linux: &runtimeapi.LinuxContainerConfig{},
	}
}

func (f *fullNode) removePod(b *testing.B, id string) {
	if _, err := try(f.runtime.StopPodSandbox, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
		b.Error(err)
	}
	if _, err := try(f.runtime.RemovePodSandbox, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
		b.Error(err)
	}
}

// startPeer starts cri-dockerd on the same engine, if one is given.
func (f *fullNode) startPeer(b *testing.B) {
	b.Helper()
	path := os.Getenv("CRIDOCK_BENCH_PEER")
	if path == "" {
		return
	}
	socket := "unix://" + filepath.Join(f.node.dir, "peer.sock")
	f.peer = f.command(path, "--container-runtime-endpoint", socket, "--docker-endpoint", "unix://"+f.engine.socket(),
		"--cri-dockerd-root-directory", filepath.Join(f.node.dir, "peer"), "--network-plugin=", "--pod-infra-container-image", f.image, "--streaming-bind-addr", "127.0.0.1:0")
	log, err := os.Create(filepath.Join(f.node.dir, "peer.log"))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = log.Close() }() // the process has its own descriptor
	f.peer.Stdout, f.peer.Stderr = log, log
	if err := f.peer.Start(); err != nil {
		b.Fatal(err)
	}
	conn, err := grpc.NewClient(socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.WaitForReady(true), grpc.MaxCallRecvMsgSize(16<<20)))
	if err != nil {
		b.Fatal(err)
	}
	a := &adapter{name: "cri-dockerd", runtime: runtimeapi.NewRuntimeServiceClient(conn), pid: func() int { return child(b, f.peer) }}
	if _, err := try(a.runtime.Version, &runtimeapi.VersionRequest{}); err != nil {
		b.Fatalf("%v\n%s", err, read(b, log.Name()))
	}
	f.adapters = append(f.adapters, a)
}

// close removes the pods and stops both adapters.
func (f *fullNode) close(b *testing.B) {
	ids := make(chan string)
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			for id := range ids {
				f.removePod(b, id)
			}
		})
	}
	for _, id := range f.pods {
		ids <- id
	}
	close(ids)
	workers.Wait()
	if f.peer != nil {
		_ = syscall.Kill(child(b, f.peer), syscall.SIGKILL)
		_ = f.peer.Wait()
	}
	if err := f.cridock.close(); err != nil {
		b.Error(err)
	}
}

// child returns the PID of the process that nsenter runs.
func child(b *testing.B, cmd *exec.Cmd) int {
	b.Helper()
	pid := cmd.Process.Pid
	n, err := strconv.Atoi(strings.TrimSpace(read(b, fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))))
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// cpu returns the CPU time that a process has used, to 10 ms.
func cpu(b *testing.B, stat string) time.Duration {
	b.Helper()
	s := read(b, stat)
	fields := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
	var ticks int
	for _, f := range fields[11:13] { // user and system time
		n, err := strconv.Atoi(f)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// used returns a function that measures the CPU time used by the adapter and
// the engine until it is called.
func (f *fullNode) used(b *testing.B, a *adapter) func() (adapter, engine time.Duration) {
	b.Helper()
	spent := func(pid int) time.Duration { return cpu(b, fmt.Sprintf("/proc/%d/stat", pid)) }
	now := func() (time.Duration, time.Duration) {
		return spent(a.pid()), spent(child(b, f.engine.cmd)) + spent(child(b, f.containerd))
	}
	adapter, engine := now()
	return func() (time.Duration, time.Duration) {
		adapterNow, engineNow := now()
		return adapterNow - adapter, engineNow - engine
	}
}

// shimsCPU returns the CPU time that all shims have used.
func (f *fullNode) shimsCPU(b *testing.B) (sum time.Duration) {
	b.Helper()
	for _, pid := range f.shims(b) {
		sum += cpu(b, fmt.Sprintf("/proc/%d/root/proc/%s/stat", f.pid, pid))
	}
	return sum
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// reportCPU reports the CPU time of one of n rounds.
func reportCPU(b *testing.B, used func() (adapter, engine time.Duration), n int) {
	adapter, engine := used()
	b.ReportMetric(ms(adapter)/float64(n), "adapter-cpu-ms")
	b.ReportMetric(ms(engine)/float64(n), "engine-cpu-ms")
}

// idle measures the CPU time used while nobody makes a call, and reports how long it
// took to fill the node.
func (f *fullNode) idle(b *testing.B, a *adapter, seconds int) {
	b.ReportMetric(0, "ns/op")
	for b.Loop() {
		used, shims := f.used(b, a), f.shimsCPU(b)
		time.Sleep(time.Duration(seconds) * time.Second)
		reportCPU(b, used, 1)
		b.ReportMetric(ms(f.shimsCPU(b)-shims), "shims-cpu-ms")
		b.ReportMetric(f.filled.Seconds(), "fill-s")
	}
}

// lists requests both lists once a second, as the kubelet does, and reports
// what cridock holds before and after.
func (f *fullNode) lists(b *testing.B, a *adapter, seconds int) {
	b.ReportMetric(0, "ns/op")
	for b.Loop() {
		var podsTook, containersTook []time.Duration
		if a == f.adapters[0] {
			f.held(b, "start")
		}
		used := f.used(b, a)
		tick := time.NewTicker(time.Second)
		for range seconds {
			<-tick.C
			start := time.Now()
			pods := rpc(b, a.runtime.ListPodSandbox, &runtimeapi.ListPodSandboxRequest{}).Items
			podsTook = append(podsTook, time.Since(start))
			start = time.Now()
			containers := rpc(b, a.runtime.ListContainers, &runtimeapi.ListContainersRequest{}).Containers
			containersTook = append(containersTook, time.Since(start))
			if len(pods) != len(f.pods) || len(containers) != f.containers {
				b.Fatalf("%d pods and %d containers", len(pods), len(containers))
			}
		}
		tick.Stop()
		reportCPU(b, used, 1)
		if a == f.adapters[0] {
			f.held(b, "end")
		}
		reportTimes(b, "sandboxes", podsTook)
		reportTimes(b, "containers", containersTook)
	}
}

// reportTimes reports the median and the 99th percentile.
func reportTimes(b *testing.B, name string, took []time.Duration) {
	b.Helper()
	slices.Sort(took)
	b.ReportMetric(ms(took[len(took)/2]), name+"-p50-ms")
	b.ReportMetric(ms(took[(len(took)*99-1)/100]), name+"-p99-ms")
}

// status requests each container's status, ten times. The CPU time is that of one time.
func (f *fullNode) status(b *testing.B, a *adapter) {
	const rounds = 10
	list := rpc(b, a.runtime.ListContainers, &runtimeapi.ListContainersRequest{}).Containers
	b.ReportMetric(0, "ns/op")
	for b.Loop() {
		var took []time.Duration
		used := f.used(b, a)
		for range rounds {
			start := time.Now()
			for _, c := range list {
				rpc(b, a.runtime.ContainerStatus, &runtimeapi.ContainerStatusRequest{ContainerId: c.Id})
			}
			took = append(took, time.Since(start))
		}
		reportCPU(b, used, rounds)
		reportTimes(b, "all", took)
	}
}

// stats requests the statistics of all containers once a second, or as often as the
// adapter can. The first answer, during which an adapter may have to find their sources,
// counts like the others. The CPU time is that of one answer.
func (f *fullNode) stats(b *testing.B, a *adapter, seconds int) {
	b.ReportMetric(0, "ns/op")
	for b.Loop() {
		var took []time.Duration
		used, tick := f.used(b, a), time.NewTicker(time.Second)
		for end := time.Now().Add(time.Duration(seconds) * time.Second); time.Now().Before(end); {
			<-tick.C
			start := time.Now()
			list := rpc(b, a.runtime.ListContainerStats, &runtimeapi.ListContainerStatsRequest{}).Stats
			took = append(took, time.Since(start))
			if len(list) != f.containers {
				b.Fatalf("stats of %d containers, want %d", len(list), f.containers)
			}
		}
		tick.Stop()
		reportCPU(b, used, len(took))
		b.ReportMetric(float64(len(took)), "answers")
		reportTimes(b, "all", took)
	}
}

// kubelet asks cridock for what a kubelet asks for: with its generic PLEG, both lists
// every second, and the status of a pod that comes or goes; with its evented PLEG, events,
// and both lists every five minutes. In both cases it asks for all statistics every ten
// seconds, and as often a pod comes and goes.
func (f *fullNode) kubelet(b *testing.B, evented bool, seconds int) {
	b.ReportMetric(0, "ns/op")
	for b.Loop() {
		relist, events := time.Second, func() int { return 0 }
		if evented {
			relist, events = 5*time.Minute, f.events(b)
		}
		var lists, stats []time.Duration
		var load sync.WaitGroup
		pods := 0
		f.held(b, "start")
		used := f.used(b, f.adapters[0])
		ctx, cancel := context.WithTimeout(b.Context(), time.Duration(seconds)*time.Second)
		load.Go(func() {
			lists = timed(ctx, b, relist, func() error {
				_, err := try(f.runtime.ListPodSandbox, &runtimeapi.ListPodSandboxRequest{})
				if err == nil {
					_, err = try(f.runtime.ListContainers, &runtimeapi.ListContainersRequest{})
				}
				return err
			})
		})
		load.Go(func() {
			stats = timed(ctx, b, 10*time.Second, func() error {
				_, err := try(f.runtime.ListContainerStats, &runtimeapi.ListContainerStatsRequest{})
				return err
			})
		})
		load.Go(func() {
			timed(ctx, b, 10*time.Second, func() error {
				id := f.sleepingPod(b)
				var err error
				if !evented {
					err = f.podStatus(id)
				}
				f.removePod(b, id)
				pods++
				return err
			})
		})
		load.Wait()
		cancel()
		time.Sleep(5 * time.Second) // for the last events
		reportCPU(b, used, seconds)
		f.held(b, "end")
		reportTimes(b, "lists", lists)
		reportTimes(b, "stats", stats)
		b.ReportMetric(float64(events())/float64(pods), "events/pod")
	}
}

// podStatus asks for what a kubelet asks for when it sees that a pod has changed.
func (f *fullNode) podStatus(id string) error {
	_, err := try(f.runtime.PodSandboxStatus, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id})
	if err != nil {
		return err
	}
	list, err := try(f.runtime.ListContainers, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{PodSandboxId: id}})
	if err != nil {
		return err
	}
	for _, c := range list.Containers {
		if _, err := try(f.runtime.ContainerStatus, &runtimeapi.ContainerStatusRequest{ContainerId: c.Id}); err != nil {
			return err
		}
	}
	return nil
}

// timed calls do at once and then in each period until ctx ends, and returns how long
// each call took.
func timed(ctx context.Context, b *testing.B, period time.Duration, do func() error) (took []time.Duration) {
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		start := time.Now()
		if err := do(); err != nil {
			b.Error(err)
		}
		took = append(took, time.Since(start))
		select {
		case <-ctx.Done():
			return took
		case <-tick.C:
		}
	}
}

// restart measures the time from the start of cridock to its first list.
func (f *fullNode) restart(b *testing.B) {
	b.ReportMetric(0, "ns/op")
	for b.Loop() {
		var took []time.Duration
		for range 5 {
			took = append(took, f.restartOnce(b))
		}
		slices.Sort(took)
		b.ReportMetric(ms(took[2]), "p50-ms")
		b.ReportMetric(ms(took[4]), "max-ms")
	}
}

func (f *fullNode) restartOnce(b *testing.B) time.Duration {
	b.Helper()
	if err := f.kill(); err != nil {
		b.Fatal(err)
	}
	_ = f.conn.Close() // it would wait a second before it reconnects
	f.conn = nil
	start := time.Now()
	if err := f.launch(); err != nil {
		b.Fatal(err)
	}
	eventually(b, "the socket answers", time.Minute, func() bool {
		conn, err := net.Dial("unix", f.socket())
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	if list := rpc(b, f.runtime.ListContainers, &runtimeapi.ListContainersRequest{}).Containers; len(list) != f.containers {
		b.Fatalf("the first list has %d containers", len(list))
	}
	return time.Since(start)
}

// restartDockerd kills dockerd under pods that go on, and starts it again. It measures
// the time until Docker answers, and from then until cridock, which compares all that it
// knows with Docker, is ready.
func (f *fullNode) restartDockerd(b *testing.B) {
	b.ReportMetric(0, "ns/op")
	for b.Loop() {
		start := time.Now()
		f.engine.endDockerd(b, "KILL")
		if err := f.awaitReadiness(false); err != nil {
			b.Fatal(err)
		}
		f.engine.startDockerd(b)
		answers := time.Now()
		if err := f.awaitReadiness(true); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(answers.Sub(start).Seconds(), "dockerd-s")
		b.ReportMetric(ms(time.Since(answers)), "ready-ms")
		running := 0
		for _, c := range rpc(b, f.runtime.ListContainers, &runtimeapi.ListContainersRequest{}).Containers {
			if c.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
				running++
			}
		}
		if running != f.containers {
			b.Errorf("%d of %d containers run", running, f.containers)
		}
	}
}

// awaitReadiness waits until the runtime is ready, or is not.
func (f *fullNode) awaitReadiness(ready bool) error {
	for limit := time.Now().Add(5 * time.Minute); time.Now().Before(limit); time.Sleep(5 * time.Millisecond) {
		s, err := try(f.runtime.Status, &runtimeapi.StatusRequest{})
		if err != nil {
			return err
		}
		if s.Status.Conditions[0].Status == ready {
			return nil
		}
	}
	return fmt.Errorf("the runtime's readiness is not %t", ready)
}

// churn runs and removes pods; what cridock holds must not grow with their
// number, and a subscriber gets all events.
func (f *fullNode) churn(b *testing.B, pods int) {
	b.ReportMetric(0, "ns/op")
	for b.Loop() {
		events, used := f.events(b), f.used(b, f.adapters[0])
		f.held(b, "start")
		took := f.runAndRemove(b, pods/2)
		f.held(b, "half")
		took += f.runAndRemove(b, pods-pods/2)
		f.held(b, "end")
		reportCPU(b, used, pods)
		n := events()
		b.ReportMetric(float64(n)/took.Seconds(), "events/s")
		b.ReportMetric(float64(n)/float64(pods), "events/pod")
	}
}

// events subscribes to events. The returned function ends this and says how many came.
func (f *fullNode) events(b *testing.B) (count func() int) {
	b.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := f.runtime.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
	if err != nil {
		b.Fatal(err)
	}
	n, done := 0, make(chan struct{})
	go func() {
		defer close(done)
		for _, err := stream.Recv(); err == nil; _, err = stream.Recv() {
			n++
		}
	}()
	return func() int {
		cancel()
		<-done
		return n
	}
}

// runAndRemove runs and removes pods, four at a time, and returns how long that took.
func (f *fullNode) runAndRemove(b *testing.B, pods int) time.Duration {
	b.Helper()
	var running sync.WaitGroup
	slots, start := make(chan struct{}, 4), time.Now()
	for range pods {
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			if id := f.sleepingPod(b); id != "" {
				f.removePod(b, id)
			}
		})
	}
	running.Wait()
	took := time.Since(start)
	time.Sleep(5 * time.Second) // for cleanup in the background
	return took
}

// held reports cridock's memory, descriptors and goroutines.
func (f *fullNode) held(b *testing.B, when string) {
	b.Helper()
	m := f.metrics(b)
	b.ReportMetric(m["process_resident_memory_bytes"]/1e6, when+"-MB")
	b.ReportMetric(m["process_open_fds"], when+"-fds")
	b.ReportMetric(m["go_goroutines"], when+"-goroutines")
}

// metrics returns cridock's own metrics, by name with labels.
func (c *cridock) metrics(t testing.TB) map[string]float64 {
	t.Helper()
	resp, err := c.http().Get("http://127.0.0.1:9911/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("metrics: %s", resp.Status)
	}
	values := map[string]float64{}
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if v, err := strconv.ParseFloat(value, 64); err == nil && name != "#" {
			values[name] = v
		}
	}
	return values
}

// BenchmarkShims compares one shim per pod with one per container: pods of four
// containers, alternating, on an engine with API 1.43 or later.
func BenchmarkShims(b *testing.B) {
	f := newFullNode(b, 0)
	for b.Loop() {
		starts, memory, shims := map[bool][]time.Duration{}, map[bool]float64{}, map[bool]float64{}
		const rounds, pods, containers = 4, 5, 4
		for i := range 2 * rounds {
			grouped := i%2 == 0
			if err := f.stop(); err != nil {
				b.Fatal(err)
			}
			f.flags = append(f.flags[:4:4], fmt.Sprintf("--shim-grouping=%t", grouped))
			if err := f.start(); err != nil {
				b.Fatal(err)
			}
			var ids []string
			for range pods {
				id, took := f.startedPod(b, containers)
				ids, starts[grouped] = append(ids, id), append(starts[grouped], took...)
			}
			for _, pid := range f.shims(b) {
				shims[grouped] += 1.0 / (rounds * pods)
				memory[grouped] += pss(b, fmt.Sprintf("/proc/%d/root/proc/%s/smaps_rollup", f.pid, pid)) / (rounds * pods)
			}
			for _, id := range ids {
				f.removePod(b, id)
			}
		}
		for grouped, name := range map[bool]string{true: "grouped", false: "apart"} {
			slices.Sort(starts[grouped])
			b.ReportMetric(ms(starts[grouped][len(starts[grouped])/2]), name+"-start-ms")
			b.ReportMetric(shims[grouped], name+"-shims/pod")
			b.ReportMetric(memory[grouped]/1e6, name+"-MB/pod")
		}
	}
}

// startedPod runs a pod and measures how long each container took to start.
func (f *fullNode) startedPod(b *testing.B, containers int) (id string, took []time.Duration) {
	b.Helper()
	cfg := f.podConfig(b)
	id = rpc(b, f.runtime.RunPodSandbox, &runtimeapi.RunPodSandboxRequest{Config: cfg}).PodSandboxId
	for i := range containers {
		created := rpc(b, f.runtime.CreateContainer, &runtimeapi.CreateContainerRequest{PodSandboxId: id, SandboxConfig: cfg, Config: f.sleeper(i)})
		start := time.Now()
		rpc(b, f.runtime.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: created.ContainerId})
		took = append(took, time.Since(start))
	}
	return id, took
}

// pss is the memory of a process, with its proportional share of shared memory.
func pss(b *testing.B, rollup string) float64 {
	b.Helper()
	for line := range strings.Lines(read(b, rollup)) {
		if f := strings.Fields(line); f[0] == "Pss:" {
			kb, err := strconv.Atoi(f[1])
			if err != nil {
				b.Fatal(err)
			}
			return float64(kb) * 1024
		}
	}
	b.Fatalf("%s has no Pss", rollup)
	return 0
}
