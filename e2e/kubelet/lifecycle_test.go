package kubelet

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

func testRunning(t *testing.T, k *kubelet) {
	l := k.run(t, newPod("running", k.forever("main")))
	s := l.awaitReady()
	expect(t, "phase", s.Phase, corev1.PodRunning)
	expectContains(t, "pod IP", s.PodIP, podNet)
	if len(s.PodIPs) != 2 || !strings.HasPrefix(s.PodIPs[1].IP, "fd88::") {
		t.Errorf("pod IPs: got %v, want one of each IP version", s.PodIPs)
	}
	c := container(s, "main")
	expectContains(t, "container ID", c.ContainerID, "docker://")
	expectContains(t, "image ID", c.ImageID, "sha256:")
	expectContains(t, "image", c.Image, k.image)
	expect(t, "restarts", c.RestartCount, 0)
	if c.State.Running == nil || c.State.Running.StartedAt.Time.Before(l.started.Add(-time.Second)) {
		t.Errorf("state: got %+v, want running since after %v", c.State, l.started)
	}
	addresses := l.sh("main", "ip -o addr show eth0")
	for _, ip := range s.PodIPs {
		expectContains(t, "addresses in the pod", addresses, ip.IP+"/")
	}
	expect(t, "host name", l.sh("main", "hostname"), l.name+"\n")
	expectContains(t, "/etc/hosts", l.sh("main", "cat /etc/hosts"), s.PodIP+"\t"+l.name)
	expectContains(t, "/etc/resolv.conf", l.sh("main", "cat /etc/resolv.conf"), "nameserver 192.0.2.53")
}

func testLocalhost(t *testing.T, k *kubelet) {
	ask := k.shell("ask", "until wget -q -O /dev/termination-log http://127.0.0.1:8080/; do sleep 0.2; done")
	pod := newPod("localhost", k.web("web", "127.0.0.1:8080", "hello"), ask)
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	l := k.run(t, pod)
	end := l.awaitTerminated("ask")
	expect(t, "exit code", end.ExitCode, 0)
	expect(t, "reason", end.Reason, "Completed")
	expect(t, "message", end.Message, "hello\n")
	if c := container(l.status(), "web"); c.State.Running == nil {
		t.Errorf("the other container: got %+v, want it running", c.State)
	}
}

func testInitAndSidecar(t *testing.T, k *kubelet) {
	first := k.shell("first", "echo first >/work/order")
	sidecar := k.web("sidecar", "127.0.0.1:8080", "sidecar")
	sidecar.RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
	// second does not wait: the sidecar must have started before it.
	sidecar.StartupProbe = probe(corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"wget", "-q", "-O-", "http://127.0.0.1:8080/"}}})
	second := k.shell("second", "wget -q -O- http://127.0.0.1:8080/ >>/work/order")
	main := k.shell("main", "echo main >>/work/order; cp /work/order /dev/termination-log")
	pod := newPod("init", main)
	pod.Spec.InitContainers = []corev1.Container{first, sidecar, second}
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	emptyDir(pod, "work", corev1.EmptyDirVolumeSource{})
	mount(pod, "work", "/work")
	l := k.run(t, pod)
	s := l.await("pod succeeded", func(s *corev1.PodStatus) bool { return s.Phase == corev1.PodSucceeded })
	for _, name := range []string{"first", "second", "main"} {
		if end := container(s, name).State.Terminated; end == nil || end.ExitCode != 0 || end.Reason != "Completed" {
			t.Errorf("%s: got %+v, want it completed", name, container(s, name).State)
		}
	}
	if t.Failed() {
		return
	}
	expect(t, "order", container(s, "main").State.Terminated.Message, "first\nsidecar\nmain\n")
	if end := container(s, "sidecar").State.Terminated; end == nil || end.FinishedAt.Time.Before(container(s, "main").State.Terminated.FinishedAt.Time) {
		t.Errorf("sidecar: got %+v, want it ended after the container it serves", container(s, "sidecar").State)
	}
}

// probe is a probe that runs every second and fails at the first failure, but not
// because the machine is busy.
func probe(handler corev1.ProbeHandler) *corev1.Probe {
	return &corev1.Probe{ProbeHandler: handler, PeriodSeconds: 1, TimeoutSeconds: int32(limit.Seconds() / 2), FailureThreshold: 1, SuccessThreshold: 1}
}

// mount mounts a volume into all containers of a pod.
func mount(pod *corev1.Pod, name, path string) {
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			list[i].VolumeMounts = append(list[i].VolumeMounts, corev1.VolumeMount{Name: name, MountPath: path})
		}
	}
}

func testCrashLoop(t *testing.T, k *kubelet) {
	l := k.run(t, newPod("crash", k.shell("main", "echo about to fail; exit 42")))
	s := l.await("third start waits", func(s *corev1.PodStatus) bool {
		c := container(s, "main")
		return c.RestartCount >= 2 && c.State.Waiting != nil && c.LastTerminationState.Terminated != nil
	})
	c := container(s, "main")
	expect(t, "waits because of", c.State.Waiting.Reason, "CrashLoopBackOff")
	expectContains(t, "message", c.State.Waiting.Message, "back-off")
	last := c.LastTerminationState.Terminated
	expect(t, "exit code", last.ExitCode, 42)
	expect(t, "reason", last.Reason, "Error")
	if last.FinishedAt.Before(&last.StartedAt) || last.StartedAt.Time.Before(l.started.Add(-time.Second)) {
		t.Errorf("ran from %v to %v, the pod is from %v", last.StartedAt, last.FinishedAt, l.started)
	}
	l.awaitPrevious("about to fail\n")
	// Of the exited containers, the kubelet keeps the last two (see startKubelet).
	l.await("fifth start", func(s *corev1.PodStatus) bool { return container(s, "main").RestartCount >= 4 })
	eventually(t, "old containers removed", limit, func() bool {
		names, err := k.containers(`"label":["io.kubernetes.pod.uid=` + l.uid + `"]`)
		return err == nil && len(names) <= 4 // the sandbox, these two, and one that starts
	})
}

func testLiveness(t *testing.T, k *kubelet) {
	main := k.shell("main", "touch /tmp/healthy; sleep 3; rm /tmp/healthy; sleep 600")
	main.LivenessProbe = probe(corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"cat", "/tmp/healthy"}}})
	main.LivenessProbe.InitialDelaySeconds = 1
	l := k.run(t, newPod("liveness", main))
	s := l.await("restarted", func(s *corev1.PodStatus) bool { return container(s, "main").RestartCount > 0 })
	last := container(s, "main").LastTerminationState.Terminated
	if last == nil {
		t.Fatalf("last state: got %+v, want terminated", container(s, "main").LastTerminationState)
	}
	expect(t, "exit code", last.ExitCode, 137) // a shell with PID 1 ignores TERM
	expect(t, "reason", last.Reason, "Error")
}

func testReadiness(t *testing.T, k *kubelet) {
	main := k.shell("main", "mkdir -p /www; exec httpd -f -p 8080 -h /www")
	main.ReadinessProbe = probe(corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/ready", Port: intstr.FromInt32(8080)}})
	l := k.run(t, newPod("readiness", main))
	s := l.await("running", func(s *corev1.PodStatus) bool { return container(s, "main").State.Running != nil })
	expect(t, "ready before", container(s, "main").Ready, false)
	l.sh("main", "mkdir -p /www; echo yes >/www/ready") // the container itself may not be that far
	l.awaitReady()
	l.sh("main", "rm /www/ready")
	l.await("not ready again", func(s *corev1.PodStatus) bool { return !container(s, "main").Ready })
	expect(t, "restarts", container(l.status(), "main").RestartCount, 0)
}

func testProbeTimeout(t *testing.T, k *kubelet) {
	main := k.forever("main")
	main.ReadinessProbe = probe(corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", "echo probe >>/tmp/probes; sleep 3600"}}})
	main.ReadinessProbe.TimeoutSeconds = 1
	l := k.run(t, newPod("probetimeout", main))
	l.await("running", func(s *corev1.PodStatus) bool { return container(s, "main").State.Running != nil })
	eventually(t, "five probes", limit, func() bool {
		out, err := l.trySh("main", "cat /tmp/probes")
		return err == nil && strings.Count(out, "probe") >= 5
	})
	expect(t, "ready", container(l.status(), "main").Ready, false)
	// One may be in its second right now, another one about to exit.
	eventually(t, "processes of probes that timed out are gone", limit, func() bool {
		out, err := l.trySh("main", "ps -o args | grep -c '[s]leep 3600' || true")
		return err == nil && (out == "0\n" || out == "1\n" || out == "2\n")
	})
}

func testTerminationMessage(t *testing.T, k *kubelet) {
	file := k.shell("file", "echo not this; printf 'from the file' >/tmp/why; exit 3")
	file.TerminationMessagePath = "/tmp/why"
	log := k.shell("log", "echo first; until [ -e /host/go ]; do usleep 100000; done; echo last words >&2; exit 4")
	log.TerminationMessagePolicy = corev1.TerminationMessageFallbackToLogsOnError
	pod := newPod("termination", file, log)
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	dir := hostDir(t, pod, "/host")
	l := k.run(t, pod)
	// Docker records the two streams independently.
	eventually(t, "first line", limit, func() bool {
		log, err := l.tryLogs("log", nil)
		return err == nil && log == "first\n"
	})
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	end := l.awaitTerminated("file")
	expect(t, "exit code", end.ExitCode, 3)
	expect(t, "message", end.Message, "from the file")
	end = l.awaitTerminated("log")
	expect(t, "exit code", end.ExitCode, 4)
	expect(t, "message", end.Message, "first\nlast words\n")
	s := l.await("pod failed", func(s *corev1.PodStatus) bool { return s.Phase == corev1.PodFailed })
	expect(t, "phase", s.Phase, corev1.PodFailed)
}

// hostDir is a directory of the node that a test shares with its pod.
func hostDir(t *testing.T, pod *corev1.Pod, path string) string {
	t.Helper()
	dir := t.TempDir()
	pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: "host", VolumeSource: corev1.VolumeSource{
		HostPath: &corev1.HostPathVolumeSource{Path: dir, Type: ptr.To(corev1.HostPathDirectory)},
	}})
	mount(pod, "host", path)
	return dir
}

func testGrace(t *testing.T, k *kubelet) {
	main := k.shell("main", `trap 'sleep 1; echo term >>/host/order; exit 0' TERM; touch /host/trapped; while :; do sleep 1 & wait $!; done`)
	main.Lifecycle = &corev1.Lifecycle{
		PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", "echo poststart >>/host/order"}}},
		PreStop:   &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", "sleep 1; echo prestop >>/host/order"}}},
	}
	pod := newPod("grace", main)
	pod.Spec.TerminationGracePeriodSeconds = ptr.To[int64](3600)
	dir := hostDir(t, pod, "/host")
	l := k.run(t, pod)
	l.awaitReady()
	awaitFile(t, filepath.Join(dir, "trapped"))
	l.remove() // must not take as long as the grace period
	order, err := os.ReadFile(filepath.Join(dir, "order"))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "order", string(order), "poststart\nprestop\nterm\n")
}

func testGraceExpires(t *testing.T, k *kubelet) {
	main := k.shell("main", `trap 'echo $(date +%s) >>/host/terms' TERM; while :; do date +%s >/host/alive; usleep 100000; done`)
	pod := newPod("stubborn", main)
	pod.Spec.TerminationGracePeriodSeconds = ptr.To[int64](5)
	dir := hostDir(t, pod, "/host")
	l := k.run(t, pod)
	l.awaitReady()
	awaitFile(t, filepath.Join(dir, "alive")) // the trap is set before
	from := time.Now()
	l.remove()
	terms, err := os.ReadFile(filepath.Join(dir, "terms"))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "TERM signals", strings.Count(string(terms), "\n"), 1)
	if took := time.Since(from); took < 5*time.Second {
		t.Errorf("killed %v after it was told to end, want 5 s", took)
	}
}

func testImagePull(t *testing.T, k *kubelet) {
	missing := k.forever("missing")
	missing.Image = k.registry + "/none:1"
	never := k.forever("never")
	never.Image = "none:1"
	never.ImagePullPolicy = corev1.PullNever
	l := k.run(t, newPod("pull", missing, never))
	for name, reasons := range map[string]string{"missing": "ErrImagePull ImagePullBackOff", "never": "ErrImageNeverPull"} {
		l.await(name+" waits", func(s *corev1.PodStatus) bool {
			waiting := container(s, name).State.Waiting
			return waiting != nil && strings.Contains(reasons, waiting.Reason)
		})
	}
	l.await("back-off", func(s *corev1.PodStatus) bool {
		waiting := container(s, "missing").State.Waiting
		return waiting != nil && waiting.Reason == "ImagePullBackOff" && strings.Contains(waiting.Message, "none:1")
	})
}

// survivor is a pod that runs as long as the tests.
type survivor struct {
	pod   *live
	id    string
	podIP string
}

// check starts the pod, or checks that it is unchanged since the previous
// kubelet.
func (s *survivor) check(t *testing.T, k *kubelet) {
	t.Helper()
	if s.pod == nil {
		// It counts, so that its log reveals gaps.
		pod, err := k.place(newPod("survivor", k.shell("main", "i=0; while :; do i=$((i+1)); echo $i; usleep 200000; done")))
		if err != nil {
			t.Fatal(err)
		}
		s.pod = pod
	}
	s.pod.kubelet, s.pod.t = k, t
	status := s.pod.awaitReady()
	c := container(status, "main")
	if s.id == "" {
		s.id, s.podIP = c.ContainerID, status.PodIP
	}
	expect(t, "survivor's container", c.ContainerID, s.id)
	expect(t, "survivor's address", status.PodIP, s.podIP)
	expect(t, "survivor's restarts", c.RestartCount, 0)
	expect(t, "survivor's exec", s.pod.sh("main", "echo alive"), "alive\n")
	before := s.pod.logs("main", map[string][]string{"tailLines": {"1"}})
	eventually(t, "survivor's log grows", limit, func() bool { return s.pod.logs("main", map[string][]string{"tailLines": {"1"}}) != before })
}

// end removes the pod. No line of its log may be missing.
func (s *survivor) end(t *testing.T) {
	t.Helper()
	var lines []string
	eventually(t, "survivor's whole log", limit, func() bool {
		lines = s.pod.wholeLog("main")
		return lines != nil
	})
	checkCount(t, lines, len(lines))
	s.pod.remove()
	s.pod.checkGone(t, nil)
	s.pod = nil
}
