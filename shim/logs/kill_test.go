package logs

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync/atomic"
	"testing"
	"time"
)

// childEnv makes the test binary a process that follows the log under the
// directory named by it, and obeys lines on its standard input.
const childEnv = "CRIDOCK_LOGS_TEST_CHILD"

func TestMain(m *testing.M) {
	if root := os.Getenv(childEnv); root != "" {
		if err := child(root); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func child(root string) error {
	ctx := context.Background()
	t := New(Options{Settle: 2 * time.Millisecond})
	go func() { must(t.Run(ctx)) }()
	src := sourceIn(root)
	if err := t.Start(src); err != nil {
		return err
	}
	commands := bufio.NewScanner(os.Stdin)
	for commands.Scan() {
		var err error
		switch commands.Text() {
		case "reopen":
			err = t.Reopen(ctx, src.ID)
		case "drain":
			err = t.Drain(ctx, src.ID)
		}
		fmt.Println(err)
	}
	return commands.Err()
}

// process is a child that can be killed.
type process struct {
	cmd     *exec.Cmd
	in      io.WriteCloser
	replies *bufio.Scanner
}

func startProcess(t *testing.T, root string) *process {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childEnv+"="+root)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	must(err)
	out, err := cmd.StdoutPipe()
	must(err)
	must(cmd.Start())
	return &process{cmd: cmd, in: in, replies: bufio.NewScanner(out)}
}

// do reports whether the child executed the command.
func (p *process) do(command string) bool {
	if _, err := fmt.Fprintln(p.in, command); err != nil {
		return false
	}
	return p.replies.Scan() && p.replies.Text() == "<nil>"
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// TestExactlyOnceOverKills writes 300,000 lines at full speed while the process
// that copies them is killed five times and the kubelet rotates three times; the
// second rotation meets a dead process and is undone.
func TestExactlyOnceOverKills(t *testing.T) {
	lines := 300_000
	if testing.Short() {
		lines = 100_000
	}
	n := newNode(t, 2<<20, 100)
	root := rootOf(n)
	var written atomic.Int64
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for i := range 100 {
			n.numbered(i*lines/100, (i+1)*lines/100)
			written.Store(int64(i + 1))
		}
	}()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	child := startProcess(t, root)
	defer func() { child.kill() }()
	for round := range 5 {
		// After part of the writing, plus a random delay.
		for written.Load() < int64(round*18+5) {
			time.Sleep(time.Millisecond)
		}
		if round == 1 || round == 3 {
			eventually(t, "the log is there", func() bool { _, err := os.Stat(n.criPath()); return err == nil })
			n.rotateLikeKubelet(round, func() {
				if !child.do("reopen") {
					t.Fatal("reopen failed")
				}
			})
		}
		time.Sleep(time.Duration(rnd.IntN(40)) * time.Millisecond)
		child.kill()
		if round == 2 {
			_, err := os.Stat(n.criPath())
			must(err) // round 1 has waited for it
			rotated := n.criPath() + ".20240506-999999"
			must(os.Rename(n.criPath(), rotated))
			must(os.Rename(rotated, n.criPath()))
		}
		child = startProcess(t, root)
	}
	<-ended
	n.rotateLikeKubelet(6, func() {
		if !child.do("reopen") {
			t.Fatal("reopen failed")
		}
	})
	if !child.do("drain") {
		t.Fatal("drain failed")
	}
	n.wantNumbered(lines)
}

// TestManyKills is the same at more moments: killed within milliseconds, again
// and again, sometimes between the kubelet's rename and its call.
func TestManyKills(t *testing.T) {
	const lines = 60_000
	n := newNode(t, 300_000, 1000)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for i := range 600 {
			n.numbered(i*lines/600, (i+1)*lines/600)
			time.Sleep(2 * time.Millisecond)
		}
	}()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	kills, pending := 0, false
	for done := false; !done; kills++ {
		select {
		case <-ended:
			done = true
		default:
		}
		child := startProcess(t, rootOf(n))
		time.Sleep(time.Duration(rnd.IntN(60)) * time.Millisecond)
		switch _, err := os.Stat(n.criPath()); {
		case pending: // the kubelet asks again before it rotates again
			pending = !child.do("reopen")
		case err == nil && rnd.IntN(3) == 0:
			n.rotateLikeKubelet(kills, func() {
				// Answered, or cut off by the kill, or the kubelet died as well.
				if rnd.IntN(2) == 0 {
					_, _ = fmt.Fprintln(child.in, "reopen")
				}
				pending = true
			})
		}
		child.kill()
	}
	child := startProcess(t, rootOf(n))
	defer child.kill()
	if !child.do("drain") {
		t.Fatal("drain failed")
	}
	n.wantNumbered(lines)
	t.Logf("%d kills", kills)
}
