package e2e

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// eventProxy stands between cridock and the engine, and passes everything on
// except the events that it is told to drop.
type eventProxy struct {
	socket string

	mu      sync.Mutex
	away    bool // streams are cut, none can be opened, and containers cannot be listed
	deaf    bool // streams stay open, but their events are lost
	lost    int
	streams map[*eventStream]struct{}
}

// newEventProxy serves until the test ends.
func newEventProxy(t *testing.T, n *node) *eventProxy {
	t.Helper()
	p := &eventProxy{socket: n.dir + "/events.sock", streams: map[*eventStream]struct{}{}}
	l, err := net.Listen("unix", p.socket)
	if err != nil {
		t.Fatal(err)
	}
	engine := n.dir + "/docker.sock"
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "http", "docker"
		},
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", engine)
		}},
		FlushInterval:  -1,
		ModifyResponse: p.filter,
		ErrorHandler:   func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() {
		_ = srv.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return p
}

// filter wraps the responses that are streams of events. While these are cut it
// refuses lists of containers, too: beside each attempt to open a stream, cridock lists
// what has changed.
func (p *eventProxy) filter(r *http.Response) error {
	events := strings.HasSuffix(r.Request.URL.Path, "/events")
	if !events && !strings.HasSuffix(r.Request.URL.Path, "/containers/json") {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.away {
		_ = r.Body.Close()
		return io.ErrUnexpectedEOF
	}
	if !events {
		return nil
	}
	s := &eventStream{proxy: p, body: r.Body, lines: bufio.NewReader(r.Body)}
	p.streams[s] = struct{}{}
	r.Body = s
	return nil
}

// cut ends all streams; no new one can be opened until mend.
func (p *eventProxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.away = true
	for s := range p.streams {
		_ = s.body.Close()
	}
}

func (p *eventProxy) mend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.away, p.deaf = false, false
}

func (p *eventProxy) dropAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deaf = true
}

// dropped returns how many events were dropped.
func (p *eventProxy) dropped() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lost
}

// eventStream is the body of one response.
type eventStream struct {
	proxy *eventProxy
	body  io.ReadCloser
	lines *bufio.Reader
	rest  []byte
}

func (s *eventStream) Read(b []byte) (int, error) {
	for len(s.rest) == 0 {
		line, err := s.lines.ReadBytes('\n')
		if err != nil {
			return 0, err
		}
		s.proxy.mu.Lock()
		if s.proxy.deaf {
			s.proxy.lost++
			line = nil
		}
		s.proxy.mu.Unlock()
		s.rest = line
	}
	n := copy(b, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

func (s *eventStream) Close() error {
	s.proxy.mu.Lock()
	delete(s.proxy.streams, s)
	s.proxy.mu.Unlock()
	return s.body.Close()
}

// behindItsBack changes cridock's containers as an administrator would.
type behindItsBack struct {
	*cridock
	killed, removed, orphan *ctr
	lame, goes              *pod // whose sandboxes are killed, and removed
}

func (c *cridock) beforeChanges(t *testing.T) *behindItsBack {
	t.Helper()
	b := &behindItsBack{cridock: c, lame: c.runPod(t), goes: c.runPod(t)}
	b.killed, b.removed = b.lame.start("killed", "exec sleep 1000"), b.lame.start("removed", "exec sleep 1000")
	b.orphan = b.goes.start("orphan", "exec sleep 1000")
	return b
}

func (b *behindItsBack) change(t *testing.T) {
	t.Helper()
	b.docker.must(t, http.MethodPost, "/containers/"+b.killed.id+"/kill", nil, nil)
	b.docker.must(t, http.MethodPost, "/containers/"+b.lame.id+"/kill", nil, nil)
	b.docker.must(t, http.MethodDelete, "/containers/"+b.removed.id+"?force=1", nil, nil)
	b.docker.must(t, http.MethodDelete, "/containers/"+b.goes.id+"?force=1", nil, nil)
	b.docker.tag(t, b.image, "localhost/e2e/behind", "1")
}

// seen reports whether cridock knows all of the changes.
func (b *behindItsBack) seen(t *testing.T) bool {
	t.Helper()
	state := map[string]bool{}
	for _, c := range rpc(t, b.runtime.ListContainers, &runtimeapi.ListContainersRequest{}).Containers {
		state[c.Id] = c.State == runtimeapi.ContainerState_CONTAINER_RUNNING
	}
	ready := map[string]bool{}
	for _, s := range rpc(t, b.runtime.ListPodSandbox, &runtimeapi.ListPodSandboxRequest{}).Items {
		ready[s.Id] = s.State == runtimeapi.PodSandboxState_SANDBOX_READY
	}
	running, known := state[b.killed.id]
	_, removed := state[b.removed.id]
	_, goes := ready[b.goes.id]
	return known && !running && !removed && state[b.orphan.id] && !ready[b.lame.id] && !goes && b.imageStatus(t, "localhost/e2e/behind:1") != nil
}

// undo removes what is left, and checks that all of it is gone.
func (b *behindItsBack) undo(t *testing.T) {
	t.Helper()
	eventually(t, "the sandbox that was removed has released its address", time.Minute, func() bool {
		held, err := b.addresses(b.goes.id)
		return err == nil && len(held) == 0
	})
	b.orphan.stop(0)
	rpc(t, b.runtime.RemoveContainer, &runtimeapi.RemoveContainerRequest{ContainerId: b.orphan.id})
	b.lame.remove()
	b.docker.must(t, http.MethodDelete, "/images/localhost/e2e/behind:1", nil, nil)
	b.checkGone(t, b.goes.cfg.Metadata.Uid, b.goes.id)
	b.checkGone(t, b.lame.cfg.Metadata.Uid, b.lame.id)
}

// stops counts the exits of a container that a subscriber is told of.
type stops struct {
	mu    sync.Mutex
	count map[string]int
}

func (c *cridock) countStops(t *testing.T) *stops {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := c.runtime.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	s, done := &stops{count: map[string]int{}}, make(chan struct{})
	go func() {
		defer close(done)
		for {
			e, err := stream.Recv()
			if err != nil {
				return
			}
			if e.ContainerEventType == runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT {
				s.mu.Lock()
				s.count[e.ContainerId]++
				s.mu.Unlock()
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return s
}

func (s *stops) of(id string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count[id]
}

// eventFault is a cridock behind an event proxy, and the changes that it must
// know after the proxy's faults.
type eventFault struct {
	*cridock
	t         *testing.T
	proxy     *eventProxy
	before    census
	bystander *bystander
	told      *stops
	changes   *behindItsBack
}

func newEventFault(t *testing.T) *eventFault {
	t.Helper()
	needEngine(t)
	n := newNode(t)
	f := &eventFault{t: t, proxy: newEventProxy(t, n)}
	f.cridock = newCridock(t, n, "cni", append([]string{"--docker-endpoint=unix://" + f.proxy.socket}, metricsFlags...)...)
	f.before = f.warmUp(t)
	f.bystander, f.told = f.runBystander(t), f.countStops(t)
	f.changes = f.beforeChanges(t)
	return f
}

// finish checks that the faults have caused no damage and left nothing behind.
func (f *eventFault) finish(when string) {
	f.t.Helper()
	f.bystander.unharmed(when)
	f.bystander.finish()
	f.checkCensus(f.t, f.before)
}

// TestEventsCut cuts the stream of events, and changes containers meanwhile.
func TestEventsCut(t *testing.T) {
	t.Parallel()
	f := newEventFault(t)
	c, proxy, changes := f.cridock, f.proxy, f.changes
	proxy.cut()
	eventually(t, "the runtime is not ready", time.Minute, func() bool { return c.runtimeReady(t) != "" })
	changes.change(t)
	// Docker answers calls: pods can still be used.
	if s := changes.killed.status(); s.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("without events the killed container is %v: the stream was not cut", s.State)
	}
	f.bystander.unharmed("without events")
	proxy.mend()
	if err := c.awaitReady(time.Minute); err != nil {
		t.Fatal(err)
	}
	// Once ready, cridock is in sync.
	if !changes.seen(t) {
		t.Error("changes were not seen although the runtime is ready")
	}
	eventually(t, "the subscriber is told of the end", time.Minute, func() bool { return f.told.of(changes.killed.id) > 0 })
	changes.undo(t)
	for range 10 { // cut during RunPodSandbox
		p := c.runPod(t)
		proxy.cut()
		proxy.mend()
		p.start("main", "exec sleep 1000").stop(0)
		p.remove()
	}
	if n := f.told.of(changes.killed.id); n != 1 {
		t.Errorf("the subscriber was told %d times of one end", n)
	}
	f.finish("after the cuts")
}

// TestEventsLost only loses events: no broken connection reveals it.
func TestEventsLost(t *testing.T) {
	t.Parallel()
	f := newEventFault(t)
	c, proxy, changes := f.cridock, f.proxy, f.changes
	proxy.dropAll()
	// cridock needs no events for its own changes.
	own := c.runPod(t)
	main := own.start("main", "exec sleep 1000")
	if main.sh("echo works") != "works" {
		t.Error("exec needs events")
	}
	main.stop(0)
	checkExited(t, "without events", main, 137, "Error")
	own.remove()

	changes.change(t)
	start := time.Now()
	// The relist comes once a minute; the rest allows for a busy machine.
	eventually(t, "the changes are seen without events", 150*time.Second, func() bool { return changes.seen(t) })
	t.Logf("seen after %v, %d events lost", time.Since(start).Round(time.Second), proxy.dropped())
	if reason := c.runtimeReady(t); reason != "" {
		t.Errorf("lost events make the runtime not ready: %s", reason)
	}
	if proxy.dropped() == 0 {
		t.Error("no event was lost")
	}
	proxy.mend()
	eventually(t, "the subscriber is told of the end", time.Minute, func() bool { return f.told.of(changes.killed.id) == 1 })
	changes.undo(t)
	f.finish("after events were lost")
}
