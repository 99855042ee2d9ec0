package target_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cridock/cridock/cmd/cribench/internal/target"
	"github.com/cridock/cridock/internal/needs"
)

// bridge writes the configuration of a bridge of its own and returns its path and the
// directory of its addresses.
func bridge(t *testing.T) (conf, addresses string) {
	t.Helper()
	dir := t.TempDir()
	conf = filepath.Join(dir, "net.conflist")
	text := fmt.Sprintf(`{"cniVersion": "0.4.0", "name": "cribenchtest", "plugins": [{"type": "bridge", "bridge": "cribenchtest", "isGateway": true,
		"ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "10.99.0.0/24"}]]}}]}`, dir)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return conf, filepath.Join(dir, "cribenchtest")
}

// leases returns the addresses that host-local has given out.
func leases(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "10.*"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestPodOnDockerWithCNI checks on a real engine that a raw pod has the network of
// its CNI configuration, and that its address is released, also by Clean.
func TestPodOnDockerWithCNI(t *testing.T) {
	endpoint, image := os.Getenv("CRIDOCK_E2E_DOCKER"), os.Getenv("CRIDOCK_E2E_IMAGE")
	needs.That(t, endpoint != "" && image != "", "CRIDOCK_E2E_DOCKER and CRIDOCK_E2E_IMAGE are not set: no Docker Engine to test on")
	conf, addresses := bridge(t)
	cni, err := target.NewCNI(conf, []string{"/opt/cni/bin", "/usr/lib/cni"})
	if err != nil {
		t.Fatal(err)
	}
	run := strconv.FormatInt(time.Now().UnixNano(), 36)
	idle := []string{"sh", "-c", "trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done"}
	d, err := target.NewDocker("docker", endpoint, target.DockerSandbox{Image: image, Command: idle, CNI: cni}, target.Options{Run: run, Image: image})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	t.Cleanup(func() {
		if _, err := d.Clean(context.Background(), run); err != nil {
			t.Error(err)
		}
	})
	stopped, err := d.RunSandbox(ctx, target.Pod{Name: "s" + run})
	if err != nil {
		t.Fatal(err)
	}
	left, err := d.RunSandbox(ctx, target.Pod{Name: "l" + run})
	if err != nil {
		t.Fatal(err)
	}
	if got := leases(t, addresses); len(got) != 2 {
		t.Fatalf("leases %v of two pods", got)
	}
	out, err := d.Exec(ctx, left, []string{"ip", "-4", "addr", "show", "eth0"})
	if err != nil || !strings.Contains(string(out), " 10.99.0.") {
		t.Errorf("eth0: %v\n%s", err, out)
	}
	if err := d.StopSandbox(ctx, stopped); err != nil {
		t.Fatal(err)
	}
	if got := leases(t, addresses); len(got) != 1 {
		t.Errorf("leases %v, want one after the other pod's stop", got)
	}
	if n, err := d.Clean(ctx, run); n != 2 || err != nil {
		t.Errorf("cleaned %d containers, %v, want 2", n, err)
	}
	if got := leases(t, addresses); len(got) != 0 {
		t.Errorf("leases %v, want none after Clean", got)
	}
}
