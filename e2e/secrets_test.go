package e2e

import (
	"os"
	"strings"
	"testing"
)

// TestExecIsNotLogged: Docker quotes the command of an exec that it cannot
// start; the error to the client contains it, the log does not.
func TestExecIsNotLogged(t *testing.T) {
	t.Parallel()
	c := newCridock(t, newNode(t), "cni")
	ctr := c.runPod(t).start("main", "exec sleep 100000")
	const secret = "hunter2-do-not-log"
	for _, command := range [][]string{{"/" + secret}, {secret, "x"}, {"sh", "-c", "exit 3", secret}, {"/etc/" + secret + "/x"}} {
		r, err := ctr.exec(longTimeout, command...)
		if command[0] == "sh" {
			if err != nil || r.ExitCode != 3 {
				t.Errorf("%q: %v, %v", command, r, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), secret) {
			t.Errorf("%q: the client is told %v, want Docker's reason", command, err)
		}
	}
	b, err := os.ReadFile(c.logFile())
	if err != nil {
		t.Fatal(err)
	}
	if lines := containing(strings.Split(string(b), "\n"), secret); len(lines) > 0 {
		t.Errorf("the log has %q", lines)
	}
	if len(containing(strings.Split(string(b), "\n"), "process was not started")) != 3 {
		t.Error("the log does not tell of the three that failed")
	}
}
