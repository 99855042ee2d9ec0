package network

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
)

// script turns a shell script into a plugin.
func script(t *testing.T, body string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "scripted")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// The child holds the plugin's output open: killing only the plugin would not
// end the wait for output.
func TestHangingPluginDiesWithItsChildren(t *testing.T) {
	pidFile := filepath.Join(t.TempDir(), "pid")
	path := script(t, "sleep 600 & echo $! > "+pidFile+".new; mv "+pidFile+".new "+pidFile+"; wait")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for ctx.Err() == nil {
			if _, err := os.Stat(pidFile); err == nil {
				cancel()
			}
			time.Sleep(time.Millisecond)
		}
	}()
	start := time.Now()
	_, err := (&pluginExec{}).ExecPlugin(ctx, path, nil, os.Environ())
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "plugin scripted killed") {
		t.Errorf("error = %v", err)
	}
	if took := time.Since(start); took > time.Minute {
		t.Errorf("took %v", took)
	}
	pid, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	proc := "/proc/" + strings.TrimSpace(string(pid)) + "/stat"
	deadline := time.Now().Add(time.Minute)
	for {
		stat, err := os.ReadFile(proc)
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the plugin's child lives: %s", stat)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestPluginOutcome(t *testing.T) {
	tests := []struct{ name, body, out, err string }{
		{"success", `cat; echo " $CNI_COMMAND"; echo noise >&2`, "input ADD\n", ""},
		{"error as specified", `echo '{"code":11,"msg":"later"}'; exit 1`, "", "later"},
		{"error without form", `echo out; echo problem >&2; exit 3`, "", "exit status 3: out\n problem"},
		{"silent error", `exit 2`, "", "exit status 2, without an error message"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out, err := (&pluginExec{}).ExecPlugin(t.Context(), script(t, tt.body), []byte("input"), append(os.Environ(), "CNI_COMMAND=ADD"))
			if string(out) != tt.out || (tt.err == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("got %q, %v, want %q, %q", out, err, tt.out, tt.err)
			}
		})
	}
	_, err := (&pluginExec{}).ExecPlugin(t.Context(), script(t, tests[1].body), nil, os.Environ())
	var reported *types.Error
	if !errors.As(err, &reported) || reported.Code != types.ErrTryAgainLater {
		t.Errorf("error = %#v, want the plugin's code", err)
	}
}

// A binary that is being installed is retried.
func TestPluginBeingWritten(t *testing.T) {
	path := script(t, "echo done")
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := (&pluginExec{}).ExecPlugin(ctx, path, nil, os.Environ()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while it is written: %v", err)
	}
	go func() {
		time.Sleep(busyRetry / 2)
		_ = f.Close()
	}()
	out, err := (&pluginExec{}).ExecPlugin(t.Context(), path, nil, os.Environ())
	// On a busy machine, the file may be closed after the last attempt.
	for end := time.Now().Add(time.Minute); errors.Is(err, syscall.ETXTBSY) && time.Now().Before(end); {
		out, err = (&pluginExec{}).ExecPlugin(t.Context(), path, nil, os.Environ())
	}
	if err != nil || string(out) != "done\n" {
		t.Errorf("afterwards: %q, %v", out, err)
	}
}
