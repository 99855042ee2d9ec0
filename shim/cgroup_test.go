package shim

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"
)

// TestProcessGone: a process may end before its files are opened, or between
// that and the read or write, as one of a container that ends at once does.
func TestProcessGone(t *testing.T) {
	cmd := exec.Command("sleep", "3600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read, readErr := os.Open(fmt.Sprintf("/proc/%d/cgroup", cmd.Process.Pid))
	write, writeErr := os.OpenFile(fmt.Sprintf("/proc/%d/oom_score_adj", cmd.Process.Pid), os.O_WRONLY, 0)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if readErr != nil || writeErr != nil {
		t.Fatal(readErr, writeErr)
	}
	defer func() { _, _ = read.Close(), write.Close() }()
	_, opened := os.ReadFile(read.Name())
	_, readErr = io.ReadAll(read)
	_, writeErr = write.WriteString("1000")
	for what, err := range map[string]error{"open": opened, "read": readErr, "write": writeErr} {
		if !processGone(err) {
			t.Errorf("%s after the process's end: got %v, want what tells its end", what, err)
		}
	}
	if _, err := os.ReadFile("/proc/self/cgroup"); err != nil || processGone(err) {
		t.Errorf("a process that runs: got %v", err)
	}
}
