package e2e

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestHostileLogs: a container that mounts its pod's log directory puts links,
// FIFOs and devices in the place of other containers' logs. Such a log is
// refused with a reason or replaces what is there; nothing outside is touched,
// and nothing hangs.
func TestHostileLogs(t *testing.T) {
	t.Parallel()
	c := newCridock(t, newNode(t), "cni")
	outside := c.path("outside")
	precious := filepath.Join(outside, "0.log")
	if err := os.MkdirAll(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(precious, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := c.runPod(t)
	attacker := p.start("attacker", "exec sleep 100000", func(cfg *runtimeapi.ContainerConfig) {
		cfg.Mounts = []*runtimeapi.Mount{{HostPath: p.cfg.LogDirectory, ContainerPath: "/logs"}}
	})
	logIn := func(dir string) ctrOption {
		return func(cfg *runtimeapi.ContainerConfig) { cfg.LogPath = dir + "/0.log" }
	}
	for name, trap := range map[string]struct{ set, refused string }{
		"directory-link": {"ln -s " + outside + " directory-link", "symbolic link"},
		"relative-link":  {"ln -s ../../outside relative-link", "symbolic link"},
		"dangling-link":  {"ln -s " + outside + "/new dangling-link", "symbolic link"},
		"fifo":           {"mkdir fifo && mkfifo fifo/0.log", "regular file"},
		"device":         {"mkdir device && mknod device/0.log c 1 3", "regular file"},
		"hard-link":      {"mkdir hard-link && touch hard-link/x && ln hard-link/x hard-link/0.log", "hard link"},
		"link":           {"mkdir link && ln -s " + precious + " link/0.log", ""},
	} {
		victim := p.create(name, "echo hello", logIn(name))
		if got := attacker.sh("cd /logs && " + trap.set + " && echo set"); got != "set" {
			t.Errorf("%s: the trap is not set: %q", name, got)
		}
		if trap.refused != "" {
			_, err := try(c.runtime.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: victim.id})
			wantCode(t, err, codes.FailedPrecondition, trap.refused)
			attacker.sh("rm -rf /logs/" + name)
		}
		rpc(t, c.runtime.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: victim.id})
		victim.exited()
		if got := victim.logText(); got != "hello\n" {
			t.Errorf("%s: the log has %q", name, got)
		}
	}

	running := p.start("running", "echo hello; exec sleep 100000", logIn("running"))
	attacker.sh("cd /logs && mv running aside && ln -s " + outside + " running")
	_, err := try(c.runtime.ReopenContainerLog, &runtimeapi.ReopenContainerLogRequest{ContainerId: running.id})
	wantCode(t, err, codes.FailedPrecondition, "symbolic link")
	attacker.sh("rm -rf /logs/aside")
	begun := time.Now()
	rpc(t, c.runtime.StopContainer, &runtimeapi.StopContainerRequest{ContainerId: running.id})
	rpc(t, c.runtime.RemoveContainer, &runtimeapi.RemoveContainerRequest{ContainerId: running.id})
	t.Logf("stop and removal of a container without a log took %v", time.Since(begun))
	attacker.sh("rm /logs/running")

	files, err := os.ReadDir(outside)
	if b, rerr := os.ReadFile(precious); err != nil || rerr != nil || len(files) != 1 || string(b) != "precious" {
		t.Errorf("outside there is %v with %q; %v, %v", files, b, err, rerr)
	}
}
