package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"

	"github.com/cridock/cridock/internal/leakcheck"
	"github.com/cridock/cridock/internal/syncbuffer"
	"github.com/cridock/cridock/shim/engine"
)

// runner returns a Runner on the real Docker Engine that CRIDOCK_E2E_DOCKER
// names. The test must run in its PID namespace.
func runner(t testing.TB) *Runner {
	t.Helper()
	return observed(t, nil)
}

func observed(t testing.TB, observe engine.Observer) *Runner {
	t.Helper()
	endpoint := os.Getenv("CRIDOCK_E2E_DOCKER")
	if endpoint == "" {
		t.Skip("CRIDOCK_E2E_DOCKER is not set: hack/test.sh runs an engine and sets it")
	}
	e, err := engine.New(endpoint, observe)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	if _, err := e.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := New(e)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return r
}

// start starts a container that is removed when the test ends.
func start(t testing.TB, r *Runner, cfg container.Config) string {
	t.Helper()
	e := r.engine.(*engine.Client)
	if cfg.Image = os.Getenv("CRIDOCK_E2E_IMAGE"); cfg.Image == "" {
		cfg.Image = "busybox:cridock"
	}
	if cfg.Cmd == nil {
		// Two processes; the first one reaps the other.
		cfg.Cmd = sh("sleep 1000000 & wait")
	}
	id, err := e.ContainerCreate(t.Context(), "", &cfg, &container.HostConfig{NetworkMode: "none"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.ContainerRemove(context.Background(), id); err != nil {
			t.Error(err)
		}
	})
	if err := e.ContainerStart(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	return id
}

// processes returns the command lines of a container's processes.
func processes(t testing.TB, id string) []string {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, p := range all {
		if groups, err := os.ReadFile(p); err == nil && bytes.Contains(groups, []byte(id)) {
			cmd, _ := os.ReadFile(filepath.Join(filepath.Dir(p), "cmdline"))
			found = append(found, string(bytes.ReplaceAll(cmd, []byte{0}, []byte{' '})))
		}
	}
	return found
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// patient gives Docker a minute for what takes long on a busy machine: to start and
// end what is killed, and to send the rest of the output.
func patient(r *Runner) *Runner {
	r.killTimeout, r.deathTimeout, r.drainTimeout = time.Minute, time.Minute, time.Minute
	return r
}

func sh(script string) []string { return []string{"sh", "-c", script} }

func TestDockerExecSync(t *testing.T) {
	r := runner(t)
	id := start(t, r, container.Config{})
	for _, c := range []struct {
		cmd            []string
		stdout, stderr string
		code           int32
	}{
		{[]string{"true"}, "", "", 0},
		{sh("echo out; echo err >&2; exit 7"), "out\n", "err\n", 7},
		{sh("kill -9 $$"), "", "", 137},
		{sh("exit 127"), "", "", 127},
		{sh("printf 'OCI runtime exec failed'; exit 126"), "OCI runtime exec failed", "", 126},
		{sh("exec >&- 2>&-; sleep 0.3; exit 4"), "", "", 4},
	} {
		stdout, stderr, code, err := r.ExecSync(t.Context(), id, c.cmd, 0)
		if err != nil || string(stdout) != c.stdout || string(stderr) != c.stderr || code != c.code {
			t.Errorf("%q: %q, %q, %d, %v", c.cmd, stdout, stderr, code, err)
		}
	}
}

// All of a large binary output arrives, including what is still in the pipes
// when the process exits.
func TestDockerOutputIsComplete(t *testing.T) {
	r := patient(runner(t))
	id := start(t, r, container.Config{})
	want := make([]byte, 3<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(want) // never fails
	for i := range 10 {
		var out, errs bytes.Buffer
		code, err := r.Exec(t.Context(), id, sh("tee /dev/stderr"), Streams{Stdin: bytes.NewReader(want), Stdout: &out, Stderr: &errs})
		if err != nil || code != 0 || !bytes.Equal(out.Bytes(), want) || !bytes.Equal(errs.Bytes(), want) {
			t.Fatalf("run %d: %d and %d of %d bytes, %d, %v", i, out.Len(), errs.Len(), len(want), code, err)
		}
	}
	stdout, _, _, err := r.ExecSync(t.Context(), id, sh("head -c 20000000 /dev/zero"), 0)
	if err != nil || len(stdout) != maxOutput {
		t.Errorf("ExecSync keeps %d bytes, %v", len(stdout), err)
	}
}

func TestDockerStartFailure(t *testing.T) {
	r := runner(t)
	id := start(t, r, container.Config{})
	for name, c := range map[string]struct {
		cmd  []string
		text string
	}{
		"missing":        {[]string{"nonexistent"}, "nonexistent"},
		"not executable": {[]string{"/etc/passwd"}, "permission denied"},
	} {
		// Docker 20.10 to 26.1 report 126 for both, shells 127 for the first.
		refused := func(code int) bool { return code == 126 || code == 127 }
		_, _, _, err := r.ExecSync(t.Context(), id, c.cmd, 0)
		var failed *StartError
		if !errors.As(err, &failed) || !refused(failed.ExitCode) || !strings.Contains(failed.Message, c.text) {
			t.Errorf("%s: ExecSync: %v", name, err)
		}
		var out, errs bytes.Buffer
		code, err := r.Exec(t.Context(), id, c.cmd, Streams{Stdout: &out, Stderr: &errs})
		if err != nil || !refused(code) || out.Len() > 0 || !strings.Contains(errs.String(), c.text) {
			t.Errorf("%s: Exec: %d, %v, stdout %q, stderr %q", name, code, err, &out, &errs)
		}
		code, err = r.Exec(t.Context(), id, c.cmd, Streams{TTY: true, Stdout: &out})
		if err != nil || !refused(code) || !strings.Contains(out.String(), c.text) {
			t.Errorf("%s: Exec with TTY: %d, %v, stdout %q", name, code, err, &out)
		}
	}
}

func TestDockerWrongContainer(t *testing.T) {
	r := runner(t)
	if _, _, _, err := r.ExecSync(t.Context(), strings.Repeat("0", 64), []string{"true"}, 0); !errdefs.IsNotFound(err) {
		t.Errorf("ExecSync in an unknown container: %v", err)
	}
	if err := r.Attach(t.Context(), strings.Repeat("0", 64), Streams{Stdout: io.Discard}, nil); !errdefs.IsNotFound(err) {
		t.Errorf("Attach to an unknown container: %v", err)
	}
	id := start(t, r, container.Config{Cmd: []string{"true"}})
	if err := r.engine.(*engine.Client).ContainerWait(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := r.ExecSync(t.Context(), id, []string{"true"}, 0); !errdefs.IsFailedPrecondition(err) || errdefs.IsConflict(err) {
		t.Errorf("ExecSync in a stopped container: %v", err)
	}
	if err := r.Attach(t.Context(), id, Streams{Stdout: io.Discard}, nil); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Attach to a stopped container: %v", err)
	}
	if _, _, _, err := r.ExecSync(t.Context(), id, nil, 0); !errdefs.IsInvalidArgument(err) {
		t.Errorf("ExecSync of nothing: %v", err)
	}
}

// mortal is an Engine whose container exits when the result of an exec is
// inspected: before Docker answers or after it.
type mortal struct {
	Engine
	end    func()
	before bool
}

func (m mortal) ExecInspect(ctx context.Context, id string) (container.ExecInspect, error) {
	if m.before {
		m.end()
	}
	info, err := m.Engine.ExecInspect(ctx, id)
	m.end()
	return info, err
}

func TestDockerContainerEndsUnderExec(t *testing.T) {
	for _, before := range []bool{false, true} {
		r := runner(t)
		id := start(t, r, container.Config{Cmd: []string{"sleep", "3600"}})
		docker := r.engine.(*engine.Client)
		dying := New(mortal{r.engine, func() {
			if err := docker.ContainerKill(context.Background(), id, "KILL"); err != nil && !errdefs.IsConflict(err) {
				t.Error(err)
			}
			if err := docker.ContainerWait(context.Background(), id); err != nil {
				t.Error(err)
			}
		}, before})
		if _, _, _, err := dying.ExecSync(t.Context(), id, []string{"/no/such/command"}, 0); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("container ends before the answer: %v: got %v, want a failed precondition", before, err)
		}
	}
}

// A caller that leaves, or a timeout, kills the whole tree, including processes that
// have left their parent, session or output; other processes survive.
func TestDockerTimeoutKillsTree(t *testing.T) {
	r := patient(runner(t))
	id := start(t, r, container.Config{})
	keep := make(chan error, 1)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go func() {
		_, _, _, err := r.ExecSync(ctx, id, []string{"sleep", "54321"}, 0)
		keep <- err
	}()
	eventually(t, "the other exec runs", func() bool { return len(processes(t, id)) == 3 })
	othersLeft := func() {
		t.Helper()
		var left []string
		eventually(t, "all killed processes are reaped", func() bool {
			left = processes(t, id)
			return !slices.Contains(left, "")
		})
		slices.Sort(left)
		if len(left) != 3 || !strings.HasPrefix(left[1], "sleep 1000000") || !strings.HasPrefix(left[2], "sleep 54321") {
			t.Errorf("processes left: %q", left)
		}
	}
	script := `sleep 1001 & (sleep 1002 >/dev/null 2>&1 & sleep 1003 & exec setsid sh -c 'sleep 1004; true') & (sleep 1005 &); trap "" TERM; sleep 1006; true`
	// When a timeout ends depends on how busy the machine is: here the tree is complete
	// when it is killed.
	treeCtx, leave := context.WithCancel(t.Context())
	defer leave()
	dropped := make(chan error, 1)
	go func() {
		_, _, _, err := r.ExecSync(treeCtx, id, sh(script), 0)
		dropped <- err
	}()
	eventually(t, "the tree is complete", func() bool {
		all := processes(t, id)
		for i := range 6 {
			if !slices.Contains(all, fmt.Sprintf("sleep %d ", 1001+i)) {
				return false
			}
		}
		return true
	})
	leave()
	if err := <-dropped; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	othersLeft()
	began := time.Now()
	if _, _, _, err := r.ExecSync(t.Context(), id, sh("sleep 1001 & sleep 1002; true"), 5*time.Second); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(began); took > 2*time.Minute {
		t.Errorf("took %v", took)
	}
	othersLeft()
	stop()
	if err := <-keep; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled ExecSync: %v", err)
	}
	eventually(t, "the cancelled command has gone", func() bool { return len(processes(t, id)) == 2 })
}

// A child that keeps the output open does not block the caller, and is not killed:
// the command has exited by itself.
func TestDockerBackgroundChild(t *testing.T) {
	r := runner(t)
	id := start(t, r, container.Config{})
	awaitEvents(t, r, id)
	r.checkPeriod = time.Hour // it would find the exit
	began := time.Now()
	stdout, _, code, err := r.ExecSync(t.Context(), id, sh("sleep 300 & echo started; exit 3"), 0)
	if err != nil || string(stdout) != "started\n" || code != 3 {
		t.Errorf("%q, %d, %v", stdout, code, err)
	}
	if took := time.Since(began); took > time.Minute {
		t.Errorf("took %v", took)
	}
	if left := processes(t, id); len(left) != 3 {
		t.Errorf("processes %q", left)
	}
	// Nor does a child that writes all the time.
	began = time.Now()
	if _, _, code, err = r.ExecSync(t.Context(), id, sh("(while true; do echo tick; sleep 0.1; done) & exit 5"), 0); err != nil || code != 5 {
		t.Errorf("%d, %v", code, err)
	}
	if took := time.Since(began); took > time.Minute {
		t.Errorf("took %v", took)
	}
}

// awaitEvents waits until Run gets Docker's events: the exits of processes are not
// announced to those who subscribe later.
func awaitEvents(t *testing.T, r *Runner, id string) {
	t.Helper()
	eventually(t, "an exit comes as an event", func() bool {
		execID, err := r.engine.ExecCreate(t.Context(), id, container.ExecOptions{Cmd: []string{"true"}, AttachStdout: true})
		if err != nil {
			t.Fatal(err)
		}
		ended, forget := r.watch(execID)
		defer forget()
		stream, err := r.engine.ExecStart(t.Context(), execID, false, [2]uint{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(io.Discard, stream)
		if err := errors.Join(err, stream.Close()); err != nil {
			t.Fatal(err)
		}
		select {
		case <-ended.done:
			return true
		case <-time.After(time.Second):
			return false
		}
	})
}

// Without the event, an inspect detects the exit.
func TestDockerWithoutEvents(t *testing.T) {
	with := runner(t)
	r := New(with.engine)
	id := start(t, with, container.Config{})
	for code := range int32(20) {
		if _, _, got, err := r.ExecSync(t.Context(), id, sh(fmt.Sprintf("exit %d", code)), 0); err != nil || got != code {
			t.Errorf("exit %d: %d, %v", code, got, err)
		}
	}
	if testing.Short() {
		return
	}
	began := time.Now()
	if _, _, code, err := r.ExecSync(t.Context(), id, sh("sleep 300 & exit 3"), 0); err != nil || code != 3 {
		t.Errorf("%d, %v", code, err)
	}
	if took := time.Since(began); took > time.Minute { // its child runs for five
		t.Errorf("took %v", took)
	}
}

func TestDockerStdin(t *testing.T) {
	r := runner(t)
	id := start(t, r, container.Config{})
	var out bytes.Buffer
	if code, err := r.Exec(t.Context(), id, []string{"cat"}, Streams{Stdin: strings.NewReader("in\x00put"), Stdout: &out}); err != nil || code != 0 || out.String() != "in\x00put" {
		t.Errorf("cat: %q, %d, %v", &out, code, err)
	}
	// Input that has already ended.
	out.Reset()
	if code, err := r.Exec(t.Context(), id, sh("cat; echo end"), Streams{Stdin: strings.NewReader(""), Stdout: &out}); err != nil || code != 0 || out.String() != "end\n" {
		t.Errorf("empty stdin: %q, %d, %v", &out, code, err)
	}
	// Input only, read back afterwards.
	if code, err := r.Exec(t.Context(), id, sh("cat >/tmp/in"), Streams{Stdin: strings.NewReader("kept")}); err != nil || code != 0 {
		t.Errorf("stdin alone: %d, %v", code, err)
	}
	if stdout, _, _, err := r.ExecSync(t.Context(), id, []string{"cat", "/tmp/in"}, 0); err != nil || string(stdout) != "kept" {
		t.Errorf("stdin alone: file has %q, %v", stdout, err)
	}
	// Input that never ends does not block the caller.
	in, feeder := io.Pipe()
	defer func() { _ = feeder.Close() }()
	if code, err := r.Exec(t.Context(), id, sh("exit 9"), Streams{Stdin: in, Stdout: io.Discard}); err != nil || code != 9 {
		t.Errorf("open stdin: %d, %v", code, err)
	}
}

func TestDockerTTY(t *testing.T) {
	r := runner(t)
	id := start(t, r, container.Config{})
	sizes := make(chan Size)
	in, keyboard := io.Pipe()
	defer func() { _ = keyboard.Close() }()
	var screen syncbuffer.Buffer
	done := make(chan error, 1)
	go func() {
		code, err := r.Exec(t.Context(), id, sh(`while read x; do stty size; [ "$x" = end ] && exit 6; done`), Streams{TTY: true, Stdin: in, Stdout: &screen, Resize: sizes})
		if err == nil && code != 6 {
			err = fmt.Errorf("exit code %d", code)
		}
		done <- err
	}()
	sizes <- Size{Height: 24, Width: 80}
	for _, size := range []string{"24 80", "40 100"} {
		eventually(t, "the terminal has "+size, func() bool {
			_, _ = io.WriteString(keyboard, "again\n")
			return strings.Contains(screen.String(), size)
		})
		if size == "24 80" {
			sizes <- Size{Height: 40, Width: 100}
		}
	}
	_, _ = io.WriteString(keyboard, "end\n")
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A process starts with the terminal size sent before its start.
func TestDockerTTYFirstSize(t *testing.T) {
	r := runner(t)
	id := start(t, r, container.Config{})
	for i := range 4 {
		sizes := make(chan Size, 1)
		sizes <- Size{Height: 33, Width: 99}
		var out bytes.Buffer
		// Without a size, stty fails.
		script := `echo "first: $(stty size 2>/dev/null)"; until [ "$(stty size 2>/dev/null)" = "33 99" ]; do sleep 0.02; done`
		code, err := r.Exec(t.Context(), id, sh(script), Streams{TTY: true, Stdout: &out, Resize: sizes})
		if err != nil || code != 0 {
			t.Fatalf("run %d: %d, %v, %q", i, code, err, &out)
		}
		if first := strings.TrimSpace(out.String()); r.engine.(*engine.Client).Capabilities().AtLeast("1.42") && first != "first: 33 99" {
			t.Errorf("run %d: begins with %q", i, first)
		}
	}
}

// Execs whose clients leave at any moment leave no process behind.
func TestDockerDroppedExecs(t *testing.T) {
	total := 200
	if testing.Short() {
		total = 50
	}
	r := patient(runner(t))
	id := start(t, r, container.Config{})
	if _, _, _, err := r.ExecSync(t.Context(), id, []string{"true"}, 0); err != nil {
		t.Fatal(err)
	}
	before := leakcheck.Now(t)
	work := make(chan int)
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			for i := range work {
				dropOne(t, r, id, i)
			}
		})
	}
	for i := range total {
		work <- i
	}
	close(work)
	workers.Wait()
	defer func() {
		if t.Failed() {
			t.Logf("processes left: %q", processes(t, id))
		}
	}()
	eventually(t, "the container has its own processes only", func() bool { return len(processes(t, id)) == 2 })
	_ = r.engine.(*engine.Client).Close() // only closes idle connections
	before.Await(t, time.Minute)
}

// dropOne runs one exec and drops it, at a moment and with streams that depend
// on i.
func dropOne(t *testing.T, r *Runner, id string, i int) {
	ctx, drop := context.WithCancel(t.Context())
	defer drop()
	tty := i%2 == 0
	var in io.Reader
	if i%3 == 0 {
		pipe, end := io.Pipe()
		defer func() { _ = end.Close() }()
		in = pipe
	}
	out := writerFunc(func(p []byte) (int, error) { drop(); return len(p), nil })
	if i%4 == 3 {
		// Around the start of the process instead of after its first output.
		time.AfterFunc(time.Duration(rand.IntN(100))*time.Millisecond, drop)
	}
	_, err := r.Exec(ctx, id, sh("sleep 1000 & echo ready; sleep 1000; true"), Streams{TTY: tty, Stdin: in, Stdout: out})
	// Only the cancellation: a failed kill would be joined to it.
	if !errors.Is(err, context.Canceled) || strings.Contains(err.Error(), "abandoned") {
		t.Errorf("exec %d: %v", i, err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// callCount counts the successful calls of an engine by kind. When Docker
// answers, it has attached the container's streams or resized the terminal.
type callCount struct {
	mu    sync.Mutex
	calls map[string]int
}

func newCallCount() *callCount { return &callCount{calls: map[string]int{}} }

func (c *callCount) observe(kind string, _ time.Duration, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.calls[kind]++
	}
}

func (c *callCount) await(t testing.TB, kind string, count int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d calls of %s have returned", count, kind), func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.calls[kind] >= count
	})
}

// logged returns Docker's log of a container.
func logged(t testing.TB, r *Runner, id string) string {
	t.Helper()
	log, err := r.engine.(*engine.Client).ContainerLogs(t.Context(), id, time.Time{}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	text, err := io.ReadAll(log)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestDockerAttach(t *testing.T) {
	calls := newCallCount()
	r := patient(observed(t, calls.observe))
	id := start(t, r, container.Config{Cmd: sh("echo before; read a; echo out $a; echo err $a >&2; read b; echo out $b; exit 3"),
		OpenStdin: true})
	eventually(t, "what was written before is in the log", func() bool { return strings.Contains(logged(t, r, id), "before") })
	attached := make(chan error, 3)
	var outs, errs [3]syncbuffer.Buffer
	ins := make([]*io.PipeWriter, 3)
	for i := range 3 {
		in, w := io.Pipe()
		ins[i] = w
		defer func() { _ = w.Close() }()
		go func() {
			attached <- r.Attach(t.Context(), id, Streams{Stdin: in, Stdout: &outs[i], Stderr: &errs[i]}, exitOf(r, id))
		}()
	}
	calls.await(t, "container attach", 3)
	_, _ = io.WriteString(ins[0], "one\n")
	eventually(t, "all see the first answer", func() bool {
		return outs[0].String() == "out one\n" && outs[1].String() == "out one\n" && outs[2].String() == "out one\n"
	})
	_, _ = io.WriteString(ins[2], "two\n")
	for range 3 {
		if err := <-attached; err != nil {
			t.Errorf("Attach: %v", err)
		}
	}
	for i := range 3 {
		if outs[i].String() != "out one\nout two\n" || errs[i].String() != "err one\n" {
			t.Errorf("client %d: stdout %q, stderr %q", i, outs[i].String(), errs[i].String())
		}
	}
}

// Docker implements StdinOnce: when the first client's input ends, the
// process's does.
func TestDockerAttachStdinOnce(t *testing.T) {
	r := runner(t)
	id := start(t, r, container.Config{Cmd: sh("cat; echo end"), OpenStdin: true, StdinOnce: true, AttachStdin: true})
	var out bytes.Buffer
	if err := r.Attach(t.Context(), id, Streams{Stdin: strings.NewReader("input\n"), Stdout: &out}, exitOf(r, id)); err != nil || out.String() != "input\nend\n" {
		t.Errorf("%q, %v", &out, err)
	}
}

func TestDockerAttachTTY(t *testing.T) {
	calls := newCallCount()
	r := observed(t, calls.observe)
	id := start(t, r, container.Config{Cmd: sh("read x; stty size; echo got $x"), OpenStdin: true, Tty: true})
	sizes := make(chan Size, 1)
	sizes <- Size{Height: 21, Width: 77}
	in, w := io.Pipe()
	defer func() { _ = w.Close() }()
	var out syncbuffer.Buffer
	done := make(chan error, 1)
	go func() {
		done <- r.Attach(t.Context(), id, Streams{TTY: true, Stdin: in, Stdout: &out, Resize: sizes}, exitOf(r, id))
	}()
	calls.await(t, "container resize", 1)
	_, _ = io.WriteString(w, "x\n")
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := out.String(); !strings.Contains(got, "21 77") || !strings.Contains(got, "got x") {
		t.Errorf("terminal shows %q", got)
	}
}

// A client that reads nothing is cut off; the container and other clients continue.
func TestDockerAttachSlowClient(t *testing.T) {
	calls := newCallCount()
	r := patient(observed(t, calls.observe))
	id := start(t, r, container.Config{Cmd: sh("read x; head -c 50000000 /dev/zero; echo end"), OpenStdin: true})
	stuck, good := make(chan error, 1), make(chan error, 1)
	block := make(chan struct{})
	defer close(block)
	go func() {
		stuck <- r.Attach(t.Context(), id, Streams{Stdout: writerFunc(func(p []byte) (int, error) { <-block; return len(p), nil })}, exitOf(r, id))
	}()
	var n atomic.Int64
	go func() {
		good <- r.Attach(t.Context(), id, Streams{Stdout: writerFunc(func(p []byte) (int, error) { n.Add(int64(len(p))); return len(p), nil })}, exitOf(r, id))
	}()
	calls.await(t, "container attach", 2)
	began := time.Now()
	if err := r.Attach(t.Context(), id, Streams{Stdin: strings.NewReader("go\n")}, exitOf(r, id)); err != nil {
		t.Fatal(err)
	}
	if err := <-stuck; !errdefs.IsResourceExhausted(err) {
		t.Errorf("stuck client: %v", err)
	}
	if err := r.engine.(*engine.Client).ContainerWait(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	t.Logf("50 MB in %v", time.Since(began))
	if err := <-good; err != nil || n.Load() != 50000004 {
		t.Errorf("good client: %d bytes, %v", n.Load(), err)
	}
}

// The cost of ExecSync compared with the three calls that it cannot do without.
func BenchmarkDockerExecSync(b *testing.B) {
	var inspects atomic.Int64
	r := observed(b, func(kind string, _ time.Duration, _ error) {
		if kind == "exec inspect" {
			inspects.Add(1)
		}
	})
	id := start(b, r, container.Config{})
	early := 0
	raw := func() error {
		execID, err := r.engine.ExecCreate(b.Context(), id, container.ExecOptions{Cmd: []string{"true"}, AttachStdout: true, AttachStderr: true})
		if err != nil {
			return err
		}
		stream, err := r.engine.ExecStart(b.Context(), execID, false, [2]uint{})
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, stream)
		info, inspectErr := r.engine.ExecInspect(b.Context(), execID)
		inspects.Add(-1)
		if info.Running {
			early++
		}
		return errors.Join(err, inspectErr, stream.Close())
	}
	sync := func() error {
		_, _, _, err := r.ExecSync(b.Context(), id, []string{"true"}, time.Minute)
		return err
	}
	// Alternating, so that the machine's load is the same for both.
	var took [2][]time.Duration
	for b.Loop() {
		for i, run := range []func() error{raw, sync} {
			began := time.Now()
			if err := run(); err != nil {
				b.Fatal(err)
			}
			took[i] = append(took[i], time.Since(began))
		}
	}
	n := float64(len(took[0]))
	b.ReportMetric(float64(early)/n, "raw-too-early")
	b.ReportMetric(float64(inspects.Load())/n, "sync-inspects")
	for i, name := range []string{"raw", "sync"} {
		slices.Sort(took[i])
		n := len(took[i])
		b.ReportMetric(float64(took[i][n/2].Microseconds())/1000, name+"-p50-ms")
		b.ReportMetric(float64(took[i][n*99/100].Microseconds())/1000, name+"-p99-ms")
	}
}

// exitOf waits for a container to exit.
func exitOf(r *Runner, id string) func(context.Context) error {
	return func(ctx context.Context) error { return r.engine.(*engine.Client).ContainerWait(ctx, id) }
}

// Docker attaches to a container that has just exited, and then sends nothing:
// the session must end anyway.
func TestDockerAttachAfterExit(t *testing.T) {
	r := runner(t)
	id := start(t, r, container.Config{})
	began := time.Now()
	err := r.Attach(t.Context(), id, Streams{Stdout: io.Discard}, func(context.Context) error { return nil })
	if took := time.Since(began); err != nil || took > time.Minute {
		t.Errorf("the session ended after %v with %v", took, err)
	}
}
