package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestOOMStorm: containers that exceed their memory limits at the same time all
// report OOMKilled; one that is killed otherwise does not.
func TestOOMStorm(t *testing.T) {
	t.Parallel()
	const victims = 16
	c := sharedCridock(t, "cni")
	for round := range 2 {
		p := c.runPod(t)
		limited, release := waitingGlutton(t)
		var gluttons []*ctr
		for i := range victims {
			gluttons = append(gluttons, p.start(fmt.Sprint("glutton", i), glutton, limited))
		}
		bystander := p.start("bystander", "sleep 1000", limited)
		release()
		for i, g := range gluttons {
			if s := g.exited(); s.Reason != "OOMKilled" || s.ExitCode != 137 {
				t.Errorf("round %d, container %d: reason %q, exit code %d; want OOMKilled, 137", round, i, s.Reason, s.ExitCode)
			}
		}
		bystander.stop(0)
		if s := bystander.status(); s.ExitCode != 137 || s.Reason == "OOMKilled" {
			t.Errorf("round %d: the one without an OOM reads %q, exit code %d", round, s.Reason, s.ExitCode)
		}
		p.remove()
	}
}

// glutton waits, and then needs more memory than it may have.
const glutton = ": </signal/go; exec dd if=/dev/zero of=/dev/null bs=64M count=1"

// waitingGlutton returns the option of a container that runs glutton, and what ends
// the waiting: when the OOM killer comes, cridock must know the container.
func waitingGlutton(t *testing.T) (limited func(*runtimeapi.ContainerConfig), release func()) {
	t.Helper()
	dir := t.TempDir() // of a FIFO: who opens it waits until the test does
	signal := filepath.Join(dir, "go")
	if err := unix.Mkfifo(signal, 0o600); err != nil {
		t.Fatal(err)
	}
	limited = func(cfg *runtimeapi.ContainerConfig) {
		cfg.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 16 << 20}
		cfg.Mounts = []*runtimeapi.Mount{{HostPath: dir, ContainerPath: "/signal", Readonly: true}}
	}
	return limited, func() {
		writer, err := os.OpenFile(signal, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = writer.Close() })
	}
}
