package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestExecSync(t *testing.T) {
	t.Parallel()
	p := sharedCridock(t, "cni").runPod(t)
	main := p.start("main", "sleep 1000")
	for _, tc := range []struct {
		script, stdout, stderr string
		code                   int32
	}{
		{"exit 0", "", "", 0},
		{"echo out; echo err >&2; exit 7", "out\n", "err\n", 7},
		{"kill -KILL $$", "", "", 137},
		{"cat; echo end", "end\n", "", 0}, // stdin is empty
	} {
		r, err := main.exec(longTimeout, "sh", "-c", tc.script)
		if err != nil || r.ExitCode != tc.code || string(r.Stdout) != tc.stdout || string(r.Stderr) != tc.stderr {
			t.Errorf("%q: exit code %d, %q, %q, %v", tc.script, r.GetExitCode(), r.GetStdout(), r.GetStderr(), err)
		}
	}
}

func TestExecSyncBigOutput(t *testing.T) {
	t.Parallel()
	main := sharedCridock(t, "cni").runPod(t).start("main", "sleep 1000")
	const size = 4 << 20
	r, err := main.exec(longTimeout, "sh", "-c", fmt.Sprintf("head -c %d /dev/zero | tr '\\0' x; head -c %d /dev/zero | tr '\\0' y >&2", size, size))
	if err != nil || r.ExitCode != 0 || string(r.Stdout) != strings.Repeat("x", size) || string(r.Stderr) != strings.Repeat("y", size) {
		t.Errorf("exit code %d, %d and %d bytes, %v; want 4 MiB each", r.GetExitCode(), len(r.GetStdout()), len(r.GetStderr()), err)
	}
	// One endless command must not exhaust the process's memory.
	r, err = main.exec(longTimeout, "sh", "-c", fmt.Sprintf("head -c %d /dev/zero", 40<<20))
	if err != nil || len(r.Stdout) == 0 || len(r.Stdout) > 16<<20 {
		t.Errorf("of 40 MiB %d bytes are returned, %v; want at most 16 MiB", len(r.GetStdout()), err)
	}
}

// TestExecSyncTimeout wants the whole process tree killed, including processes
// that have left the command's session.
func TestExecSyncTimeout(t *testing.T) {
	t.Parallel()
	main := sharedCridock(t, "cni").runPod(t).start("main", "sleep 1000")
	start := time.Now()
	_, err := main.exec(1, "sh", "-c", "trap '' TERM HUP; sleep 4711 & setsid sleep 4712 & sh -c 'sleep 4713; true'; true")
	wantCode(t, err, codes.DeadlineExceeded, "")
	if took := time.Since(start); took < time.Second {
		t.Errorf("it took %v, want a second or more", took)
	}
	eventually(t, "the processes of the timed out command end", time.Minute, func() bool {
		return !strings.Contains(main.sh("ps -o args"), "sleep 471")
	})
	if main.sh("echo alive") != "alive" {
		t.Error("the container did not survive")
	}
}

func TestExecSyncRefused(t *testing.T) {
	t.Parallel()
	p := sharedCridock(t, "cni").runPod(t)
	main := p.start("main", "sleep 1000")
	// A failing probe is an exit code; a command that did not run may also be an
	// error.
	r, err := main.exec(10, "/no/such/binary")
	if err == nil && r.ExitCode != 127 && r.ExitCode != 126 {
		t.Errorf("a missing binary exits with %d", r.ExitCode)
	}
	t.Logf("missing binary: exit code %d, %q, %v", r.GetExitCode(), r.GetStderr(), err)
	_, err = main.exec(10)
	wantCode(t, err, codes.InvalidArgument, "cmd")
	main.stop(0)
	_, err = main.exec(10, "true")
	wantCode(t, err, codes.FailedPrecondition, main.id)
	_, err = try(p.runtime.ExecSync, &runtimeapi.ExecSyncRequest{ContainerId: strings.Repeat("0", 64), Cmd: []string{"true"}})
	wantCode(t, err, codes.NotFound, "")
}
