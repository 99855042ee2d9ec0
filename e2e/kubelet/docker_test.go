package kubelet

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestDockerKilled kills dockerd, which is restarted without live-restore: all
// containers have exited, and the kubelet brings its pods back. Its log of the
// time in between is not checked, as there is no runtime for a while.
func TestDockerKilled(t *testing.T) {
	if os.Getenv("CRIDOCK_E2E_KUBELET") == "" {
		t.Skip("CRIDOCK_E2E_KUBELET is not set; hack/kubelet.sh sets it")
	}
	n := thisNode()
	if err := n.writeCNI(); err != nil {
		t.Fatal(err)
	}
	cridock, err := n.startCridock()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cridock.stop(); err != nil {
			t.Error(err)
		}
	})
	k, err := n.startKubelet(settings{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.stop(); err != nil {
			t.Error(err)
		}
	})
	t.Run("pod", func(t *testing.T) {
		main := k.shell("main", "trap 'echo bye; exit 5' TERM; echo up; while :; do usleep 50000; done")
		main.Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 18080}}
		l := k.run(t, newPod("dockerkilled", main))
		before := container(l.awaitReady(), "main").ContainerID
		eventually(t, "the trap is set", limit, func() bool { return strings.HasSuffix(l.logs("main", nil), "up\n") })
		if err := n.killDocker(); err != nil {
			t.Fatal(err)
		}
		s := l.await("running again", func(s *corev1.PodStatus) bool {
			c := container(s, "main")
			return ready(s) && c.State.Running != nil && c.ContainerID != before
		})
		c := container(s, "main")
		expect(t, "restarts", c.RestartCount, 1)
		if last := c.LastTerminationState.Terminated; last == nil || last.ExitCode != 5 || last.ContainerID != before {
			t.Errorf("last state: got %+v, want %s ended with 5", last, before)
		}
		expect(t, "exec", l.sh("main", "echo works"), "works\n")
		expect(t, "log of the container before", l.logs("main", map[string][]string{"previous": {"true"}}), "up\nbye\n")
		if s.PodIP == "" || l.sh("main", "ip -o -4 address show eth0 | awk '{print $4}'") != s.PodIP+"/16\n" {
			t.Errorf("address: got %q, want that of eth0", s.PodIP)
		}
	})
	k.checkGone(t, nil)
}

// killDocker kills dockerd; hack/kubelet.sh's engine restarts it.
func (n *node) killDocker() error {
	b, err := os.ReadFile(n.path("dockerd.pid"))
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return err
	}
	return syscall.Kill(pid, syscall.SIGKILL)
}
