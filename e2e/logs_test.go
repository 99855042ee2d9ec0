package e2e

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestLogFormat(t *testing.T) {
	t.Parallel()
	p := sharedCridock(t, "cni").runPod(t)
	before := time.Now().Add(-time.Second)
	// 40,000 bytes without a line end exceed one of Docker's 16 KiB chunks.
	long := p.start("long", `head -c 40000 /dev/zero | tr '\0' x; echo; echo; printf 'no end'; echo err >&2`)
	// The log exists as soon as StartContainer returns, so that it can be linked
	// to.
	if _, err := os.Stat(long.logPath()); err != nil {
		t.Errorf("log right after the start: %v", err)
	}
	long.exited()
	lines := long.logLines()
	var stdout []logLine
	for _, l := range lines {
		if l.time.Before(before) || l.time.After(time.Now()) {
			t.Errorf("a line of now has the time %v", l.time)
		}
		if l.stream == "stdout" {
			stdout = append(stdout, l)
		}
	}
	if got, want := join(lines, "stdout"), strings.Repeat("x", 40000)+"\n\nno end"; strings.TrimSuffix(got, "\n") != want {
		t.Errorf("stdout has %d bytes, want %d", len(got), len(want))
	}
	if got := join(lines, "stderr"); got != "err\n" {
		t.Errorf("stderr has %q", got)
	}
	if len(stdout) < 4 || stdout[0].full || stdout[1].full {
		t.Errorf("the long line is not in parts, of %d lines: %t, %t", len(stdout), stdout[0].full, stdout[1].full)
	}
}

// TestLogComplete reads the log as soon as the state is EXITED.
func TestLogComplete(t *testing.T) {
	t.Parallel()
	p := sharedCridock(t, "cni").runPod(t)
	const count = 20000
	c := p.start("main", fmt.Sprintf("seq %d", count))
	c.exited()
	checkSequence(t, c.logLines(), count)
}

// checkSequence wants the numbers 1 to count, each once and in order.
func checkSequence(t *testing.T, lines []logLine, count int) {
	t.Helper()
	if len(lines) != count {
		t.Errorf("%d lines, want %d", len(lines), count)
	}
	for i, l := range lines {
		if l.text != fmt.Sprint(i+1) || !l.full {
			t.Fatalf("line %d is %q", i+1, l.text)
		}
	}
}

// TestLogRotation renames and reopens the log as the kubelet does, while the
// container prints.
func TestLogRotation(t *testing.T) {
	t.Parallel()
	p := sharedCridock(t, "cni").runPod(t)
	const rotations = 5
	// It writes until it is told to stop, so that every rotation happens under
	// load.
	c := p.start("main", "i=0; until [ -e /stop ]; do i=$((i+1)); echo $i; done; echo $i >/count; exec sleep 1000")
	var all []logLine
	for i := range rotations {
		rotated := fmt.Sprintf("%s.%d", c.logPath(), i)
		eventually(t, "the log grows", time.Minute, func() bool {
			s, err := os.Stat(c.logPath())
			return err == nil && s.Size() > 0
		})
		if err := os.Rename(c.logPath(), rotated); err != nil {
			t.Fatal(err)
		}
		rpc(t, p.runtime.ReopenContainerLog, &runtimeapi.ReopenContainerLogRequest{ContainerId: c.id})
		if _, err := os.Stat(c.logPath()); err != nil {
			t.Fatalf("reopened: %v", err)
		}
		b, err := os.ReadFile(rotated)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, parseLog(t, b)...)
	}
	count, err := strconv.Atoi(c.sh("touch /stop; until [ -s /count ]; do sleep 0.1; done; cat /count"))
	if err != nil {
		t.Fatal(err)
	}
	last := fmt.Sprintf(" %d\n", count)
	eventually(t, "the last line is there", time.Minute, func() bool {
		b, err := os.ReadFile(c.logPath())
		return err == nil && strings.HasSuffix(string(b), last)
	})
	checkSequence(t, append(all, c.logLines()...), count)

	c.stop(0)
	_, err = try(p.runtime.ReopenContainerLog, &runtimeapi.ReopenContainerLogRequest{ContainerId: c.id})
	wantCode(t, err, codes.FailedPrecondition, "not running")
}

// TestLogOfTTY: a terminal has one stream, and the terminal's line ends.
func TestLogOfTTY(t *testing.T) {
	t.Parallel()
	p := sharedCridock(t, "cni").runPod(t)
	c := p.start("main", "echo out; echo err >&2", func(cfg *runtimeapi.ContainerConfig) { cfg.Tty = true })
	c.exited()
	var got []string
	for _, l := range c.logLines() {
		got = append(got, l.stream+" "+strings.TrimSuffix(l.text, "\r"))
	}
	if want := "stdout out,stdout err"; strings.Join(got, ",") != want {
		t.Errorf("log is %q, want %s", got, want)
	}
}

// TestLogOutlivesContainer: a log that the kubelet still wants to read is kept,
// and a container without a log path is left alone.
func TestLogOutlivesContainer(t *testing.T) {
	t.Parallel()
	p := sharedCridock(t, "cni").runPod(t)
	c := p.start("main", "echo kept")
	silent := p.start("silent", "echo lost", func(cfg *runtimeapi.ContainerConfig) { cfg.LogPath = "" })
	c.exited()
	if s := silent.exited(); s.ExitCode != 0 {
		t.Errorf("without a log path the exit code is %d", s.ExitCode)
	}
	rpc(t, p.runtime.RemoveContainer, &runtimeapi.RemoveContainerRequest{ContainerId: c.id})
	if got := c.logText(); got != "kept\n" {
		t.Errorf("afterwards the log is %q", got)
	}
}
