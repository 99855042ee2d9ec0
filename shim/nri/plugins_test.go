package nri

import (
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
)

// notes is a plugin that notes what it is told of containers.
type notes struct {
	mu     sync.Mutex
	events []string
}

func (n *notes) note(event string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.events = append(n.events, event)
}

func (n *notes) told() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.events)
}

func (n *notes) StartContainer(context.Context, *api.PodSandbox, *api.Container) error {
	n.note("start")
	return nil
}

func (n *notes) PostStartContainer(context.Context, *api.PodSandbox, *api.Container) error {
	n.note("started")
	return nil
}

func (n *notes) StopContainer(context.Context, *api.PodSandbox, *api.Container) ([]*api.ContainerUpdate, error) {
	n.note("stop")
	return nil, nil
}

// serve runs Plugins with one plugin until the test ends.
func serve(t *testing.T, plugin any) *Plugins {
	t.Helper()
	dir := t.TempDir()
	p := New(Config{
		SocketPath: filepath.Join(dir, "nri.sock"), PluginPath: filepath.Join(dir, "plugins"), PluginConfigPath: filepath.Join(dir, "conf.d"),
		RegistrationTimeout: time.Minute, RequestTimeout: time.Minute,
	}, nothing{})
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	t.Cleanup(func() {
		end()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	if err := p.WaitStarted(ctx); err != nil {
		t.Fatal(err)
	}
	var s stub.Stub
	for connected := false; !connected; time.Sleep(time.Millisecond) {
		var err error
		if s, err = stub.New(plugin, stub.WithPluginIdx("10"), stub.WithPluginName("notes"), stub.WithSocketPath(p.cfg.SocketPath), stub.WithOnClose(func() {})); err != nil {
			t.Fatal(err)
		}
		connected = s.Start(ctx) == nil
	}
	t.Cleanup(s.Stop)
	for !p.Active() {
		time.Sleep(time.Millisecond)
	}
	return p
}

// TestStartedAfterStop: a container that exits while it is being started is not told as
// started afterwards.
func TestStartedAfterStop(t *testing.T) {
	n := &notes{}
	p := serve(t, n)
	pod := &api.PodSandbox{Id: "pod"}
	for _, id := range []string{"stays", "exits"} {
		c := &api.Container{Id: id, PodSandboxId: pod.Id}
		if err := p.Start(t.Context(), pod, c); err != nil {
			t.Fatal(err)
		}
		if id == "exits" {
			p.Stop(t.Context(), pod, c)
		}
		p.Started(t.Context(), pod, c)
	}
	if got := n.told(); !slices.Equal(got, []string{"start", "started", "start", "stop"}) {
		t.Errorf("the plugin was told %q", got)
	}
}

// refusing is a listener that cannot accept at first.
type refusing struct {
	net.Listener
	errs []error
}

func (s *refusing) Accept() (net.Conn, error) {
	if len(s.errs) > 0 {
		err := s.errs[0]
		s.errs = s.errs[1:]
		return nil, err
	}
	return s.Listener.Accept()
}

// TestForwardGoesOn: connections that cannot be accepted do not end the service.
func TestForwardGoesOn(t *testing.T) {
	dir := t.TempDir()
	own, err := listen(filepath.Join(dir, "own"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = own.Close() }()
	l, err := listen(filepath.Join(dir, "sock"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- forward(ctx, &refusing{l, []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ECONNABORTED}}, own.Addr().String())
	}()
	in, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	if _, err := in.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	passed := make(chan error, 1)
	go func() {
		out, err := own.Accept()
		if err == nil {
			_, err = io.ReadFull(out, make([]byte, 1))
			err = errors.Join(err, out.Close())
		}
		passed <- err
	}()
	select {
	case err := <-passed:
		if err != nil {
			t.Error(err)
		}
	case err := <-ended:
		t.Fatalf("it has ended: %v", err)
	}
	end()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestForwardWithoutSocket: it fails if its listener is closed by somebody else.
func TestForwardWithoutSocket(t *testing.T) {
	l, err := listen(filepath.Join(t.TempDir(), "sock"))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := forward(t.Context(), l, "/nowhere"); !errors.Is(err, net.ErrClosed) {
		t.Errorf("forward: %v", err)
	}
}
