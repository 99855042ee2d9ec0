package app

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// systemd stands for systemd's socket for messages of services.
type systemd struct {
	conn *net.UnixConn
	rest string // messages, one a line, that no test has taken
}

func notifySocket(t *testing.T) *systemd {
	t.Helper()
	path := filepath.Join(shortDir(t), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return &systemd{conn: conn}
}

// messages takes what has arrived. A message is in the socket's buffer when its
// sender goes on.
func (s *systemd) messages(t *testing.T) string {
	t.Helper()
	raw, err := s.conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	// Not Read with a deadline: a deadline that has passed hides what has arrived.
	var failed error
	err = raw.Control(func(fd uintptr) {
		for b := make([]byte, 4096); ; {
			n, _, err := unix.Recvfrom(int(fd), b, unix.MSG_DONTWAIT)
			switch {
			case errors.Is(err, unix.EINTR):
			case errors.Is(err, unix.EAGAIN):
				return
			case err != nil:
				failed = err
				return
			default:
				s.rest += string(b[:n]) + "\n"
			}
		}
	})
	if err := errors.Join(err, failed); err != nil {
		t.Fatal(err)
	}
	all := s.rest
	s.rest = ""
	return all
}

// told waits for a message with a text, and takes the messages up to it.
func (s *systemd) told(t *testing.T, text string) {
	t.Helper()
	await(t, "systemd is told "+text, func() bool {
		all := s.messages(t)
		_, rest, ok := strings.Cut(all, text)
		if ok {
			s.rest = rest
		} else {
			s.rest = all
		}
		return ok
	})
}

// await waits for a condition.
func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// setWatchdog is WatchdogSec of the unit.
func setWatchdog(t *testing.T, interval time.Duration) {
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	t.Setenv("WATCHDOG_USEC", strconv.FormatInt(interval.Microseconds(), 10))
}

// TestWatchdog: a process without Docker is alive.
func TestWatchdog(t *testing.T) {
	systemd := notifySocket(t)
	setWatchdog(t, 2*time.Second)
	n := startProcess(t)
	systemd.told(t, "READY=1")
	systemd.told(t, "WATCHDOG=1")
	n.docker.Stop()
	await(t, "Docker is away", func() bool { code, _ := n.get(t, "/readyz"); return code == 503 })
	systemd.messages(t)
	systemd.told(t, "WATCHDOG=1")
	n.stop()
	systemd.told(t, "STOPPING=1")
}

// TestWatchdogWithoutSystemd: a message to systemd that fails does not end the
// process.
func TestWatchdogWithoutSystemd(t *testing.T) {
	log := captureLog(t)
	setWatchdog(t, 20*time.Millisecond)
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "none"))
	l, err := net.Listen("unix", filepath.Join(shortDir(t), "s"))
	if err != nil {
		t.Fatal(err)
	}
	d, srv := &deaf{}, grpc.NewServer()
	runtimeapi.RegisterRuntimeServiceServer(srv, d)
	go func() { _ = srv.Serve(l) }()
	defer srv.Stop()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- watchdog(ctx, l.Addr().String(), func() error { return nil }) }()
	logged(t, log, "Cannot notify systemd", "WATCHDOG=1")
	calls := d.calls.Load()
	await(t, "more calls", func() bool { return d.calls.Load() >= calls+3 || len(done) > 0 })
	cancel()
	if err := <-done; err != nil {
		t.Errorf("the watchdog ended: %v", err)
	}
}

// deaf is a CRI server that stops answering.
type deaf struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	hangs atomic.Bool
	calls atomic.Int64
}

func (d *deaf) Version(ctx context.Context, _ *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	d.calls.Add(1)
	if d.hangs.Load() {
		<-ctx.Done()
		return nil, status.Error(codes.DeadlineExceeded, "too late")
	}
	return &runtimeapi.VersionResponse{}, nil
}

// TestWatchdogOfTheDeaf: a process that does not answer on its socket, or whose
// index is locked, does not say that it is alive.
func TestWatchdogOfTheDeaf(t *testing.T) {
	systemd := notifySocket(t)
	setWatchdog(t, 40*time.Millisecond)
	l, err := net.Listen("unix", filepath.Join(shortDir(t), "s"))
	if err != nil {
		t.Fatal(err)
	}
	d, srv := &deaf{}, grpc.NewServer()
	runtimeapi.RegisterRuntimeServiceServer(srv, d)
	go func() { _ = srv.Serve(l) }()
	defer srv.Stop()
	locked, unlock := &atomic.Bool{}, make(chan struct{})
	var held atomic.Bool
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- watchdog(ctx, l.Addr().String(), func() error {
			if locked.Load() {
				held.Store(true)
				<-unlock
			}
			return nil
		})
	}()
	systemd.told(t, "WATCHDOG=1")

	d.hangs.Store(true)
	calls := d.calls.Load()
	await(t, "a call after those on their way", func() bool { return d.calls.Load() >= calls+2 })
	systemd.messages(t)
	calls = d.calls.Load()
	await(t, "more calls", func() bool { return d.calls.Load() >= calls+5 })
	if got := systemd.messages(t); got != "" {
		t.Errorf("without answers systemd is told %q", got)
	}
	d.hangs.Store(false)
	systemd.told(t, "WATCHDOG=1")

	locked.Store(true)
	await(t, "the lock is waited for", held.Load)
	systemd.messages(t)
	calls = d.calls.Load()
	time.Sleep(200 * time.Millisecond) // five intervals: the absence of messages is what is tested
	if got := systemd.messages(t); got != "" || d.calls.Load() != calls {
		t.Errorf("with a locked index systemd is told %q", got)
	}
	close(unlock)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
