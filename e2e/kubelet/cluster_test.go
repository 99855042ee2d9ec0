package kubelet

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/ptr"
)

// The scenarios in this file need an API server.

// testNode checks what the kubelet reports about its runtime.
func testNode(t *testing.T, k *kubelet) {
	node, err := k.api.client.CoreV1().Nodes().Get(context.Background(), nodeName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var engine struct{ Version string }
	if err := k.ask(http.MethodGet, "/version", nil, &engine); err != nil {
		t.Fatal(err)
	}
	version, _, _ := strings.Cut(engine.Version, "+") // a distribution's suffix
	expect(t, "runtime", node.Status.NodeInfo.ContainerRuntimeVersion, "docker://"+version)
	if f := node.Status.Features; f == nil || f.SupplementalGroupsPolicy == nil || !*f.SupplementalGroupsPolicy {
		t.Errorf("features: got %+v, want supplementalGroupsPolicy", f)
	}
	var handlers []string
	for _, h := range node.Status.RuntimeHandlers {
		handlers = append(handlers, h.Name)
	}
	runtimes, err := k.runtimes()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range append(runtimes, "") {
		if !slices.Contains(handlers, want) {
			t.Errorf("runtime handlers: got %q, want %q among them", handlers, want)
		}
	}
	eventually(t, "the test image among the node's", limit, func() bool {
		node, err := k.api.client.CoreV1().Nodes().Get(context.Background(), nodeName, metav1.GetOptions{})
		return err == nil && slices.ContainsFunc(node.Status.Images, func(i corev1.ContainerImage) bool { return slices.Contains(i.Names, "docker.io/library/"+k.image) })
	})
}

// runtimes returns the engine's runtimes, without its default and those named
// like containerd's shims.
func (n *node) runtimes() ([]string, error) {
	var info struct {
		DefaultRuntime string
		Runtimes       map[string]any
	}
	if err := n.ask(http.MethodGet, "/info", nil, &info); err != nil {
		return nil, err
	}
	var names []string
	for name := range info.Runtimes {
		// cridock-runtime is for cridock's own use.
		if name != info.DefaultRuntime && name != "cridock" && !strings.HasPrefix(name, "io.containerd.") {
			names = append(names, name)
		}
	}
	return names, nil
}

func testRuntimeClass(t *testing.T, k *kubelet) {
	runtimes, err := k.runtimes()
	if err != nil {
		t.Fatal(err)
	}
	if len(runtimes) == 0 {
		t.Fatal("the engine has one runtime only: start it with --add-runtime")
	}
	for _, runtime := range runtimes {
		pod := newPod("runtime-"+strings.ToLower(runtime), k.forever("main"))
		pod.Spec.RuntimeClassName = ptr.To(runtime)
		l := k.run(t, pod)
		l.awaitReady()
		expect(t, runtime+": exec", l.sh("main", "echo works"), "works\n")
		names, err := k.containers(`"label":["io.kubernetes.pod.uid=` + l.uid + `"]`)
		if err != nil {
			t.Fatal(err)
		}
		expect(t, runtime+": containers", len(names), 2)
		for _, name := range names {
			var c struct{ HostConfig struct{ Runtime string } }
			if err := k.ask(http.MethodGet, "/containers"+name+"/json", nil, &c); err != nil {
				t.Fatal(err)
			}
			expect(t, "runtime of "+name, c.HostConfig.Runtime, runtime)
		}
	}
}

// testNoRuntime runs a pod of a runtime class that the engine does not support.
func testNoRuntime(t *testing.T, k *kubelet) {
	pod := newPod("noruntime", k.forever("main"))
	pod.Spec.RuntimeClassName = ptr.To(unknownRuntime)
	l := k.run(t, pod)
	eventually(t, "an event that says why", limit, func() bool {
		return slices.ContainsFunc(k.warnings(t), func(e corev1.Event) bool {
			return e.InvolvedObject.Name == l.name && e.Reason == "FailedCreatePodSandBox" && strings.Contains(e.Message, `"unknown"`)
		})
	})
}

// unknownRuntime is a runtime that the engine does not have.
const unknownRuntime = "unknown"

// createRuntimeClasses creates a class for each of the engine's runtimes, and one for
// the unknown runtime, each named like its handler. The kubelet must start afterwards:
// it does not wait for a class that its informer has not seen yet.
func (s *apiServer) createRuntimeClasses(n *node) error {
	handlers, err := n.runtimes()
	if err != nil {
		return err
	}
	for _, handler := range append(handlers, unknownRuntime) {
		class := &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: handler}, Handler: handler}
		if _, err := s.client.NodeV1().RuntimeClasses().Create(context.Background(), class, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	return nil
}

// warnings returns the kubelet's warnings about all pods.
func (k *kubelet) warnings(t *testing.T) []corev1.Event {
	t.Helper()
	events, err := k.api.client.CoreV1().Events(namespace).List(context.Background(), metav1.ListOptions{FieldSelector: "type=" + corev1.EventTypeWarning})
	if err != nil {
		t.Fatal(err)
	}
	return events.Items
}

// noMemoryUsage matches the kubelet's reasons not to decrease a memory limit while its
// cAdvisor has not sampled all containers of the pod.
var noMemoryUsage = regexp.MustCompile(`unable to read memory usage for pod|missing (pod|container).*memory usage`)

// checkWarnings looks for warnings that no scenario expects.
func (k *kubelet) checkWarnings(t *testing.T) {
	t.Helper()
	meant := map[string]string{ // reasons and the pods that they are expected for
		"Unhealthy":              "liveness readiness probetimeout probes init portforward userns",
		"BackOff":                "crash logs attach liveness",
		"Failed":                 "pull security",
		"ErrImageNeverPull":      "pull",
		"FailedCreatePodSandBox": "noruntime",
		"ResizeError":            "resizebelow",
	}
	for _, e := range k.warnings(t) {
		if e.Reason == "FailedMount" && strings.Contains(e.Message, "cache: timed out waiting for the condition") {
			continue // the kubelet waits a second for the API server, which a busy machine exceeds
		}
		if e.Reason == "FailedMount" && strings.HasSuffix(e.Message, "not registered") {
			continue // its volume manager was faster than its pod worker, which announces what the pod refers to
		}
		if e.Reason == "ResizeError" && noMemoryUsage.MatchString(e.Message) {
			continue // its cAdvisor has not looked yet
		}
		if !slices.Contains(strings.Fields(meant[e.Reason]), strings.TrimSuffix(e.InvolvedObject.Name, ownUsersSuffix)) {
			t.Errorf("the kubelet warns of pod %s: %s: %s", e.InvolvedObject.Name, e.Reason, e.Message)
		}
	}
}

// testConfigMap mounts a config map and a secret and changes them.
func testConfigMap(t *testing.T, k *kubelet) {
	ctx, core := context.Background(), k.api.client.CoreV1()
	configName, secretName := k.named("config"), k.named("secret")
	config, err := core.ConfigMaps(namespace).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: configName}, Data: map[string]string{"key": "before"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = core.Secrets(namespace).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: secretName}, StringData: map[string]string{"password": "hidden"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	main := k.forever("main")
	main.EnvFrom = []corev1.EnvFromSource{{Prefix: "CONFIG_", ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: configName}}}}
	main.VolumeMounts = []corev1.VolumeMount{
		{Name: "config", MountPath: "/config", ReadOnly: true},
		{Name: "config", MountPath: "/etc/key", SubPath: "key"},
		{Name: "secret", MountPath: "/secret", ReadOnly: true},
	}
	pod := newPod("configmap", main)
	pod.Spec.Volumes = []corev1.Volume{
		{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: configName}}}},
		{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: secretName, DefaultMode: ptr.To[int32](0o400)}}},
	}
	l := k.run(t, pod)
	l.awaitReady()
	expect(t, "in the environment", l.sh("main", "echo $CONFIG_key"), "before\n")
	expect(t, "file", l.sh("main", "cat /config/key"), "before")
	expect(t, "file by sub-path", l.sh("main", "cat /etc/key"), "before")
	expect(t, "secret", l.sh("main", "cat /secret/password; stat -L -c ' %a' /secret/password"), "hidden 400\n")
	expectContains(t, "mount of the secret", l.sh("main", "grep ' /secret ' /proc/mounts"), "tmpfs ro")
	config.Data["key"] = "after"
	if _, err := core.ConfigMaps(namespace).Update(ctx, config, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "change in the file", limit, func() bool { return l.sh("main", "cat /config/key") == "after" })
	expect(t, "file by sub-path, which never changes", l.sh("main", "cat /etc/key"), "before")
}

// testProbes uses all three kinds of probe, one after the other.
func testProbes(t *testing.T, k *kubelet) {
	main := k.shell("main", "mkdir -p /www; echo yes >/www/alive; exec httpd -f -p 8080 -h /www")
	main.StartupProbe = probe(corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", "test -e /started && wget -q -O- http://127.0.0.1:8080/alive"}}})
	main.StartupProbe.FailureThreshold = 1000
	main.LivenessProbe = probe(corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/alive", Port: intstr.FromInt32(8080)}})
	main.ReadinessProbe = probe(corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(8080)}})
	l := k.run(t, newPod("probes", main))
	s := l.await("running", func(s *corev1.PodStatus) bool { return container(s, "main").State.Running != nil })
	if c := container(s, "main"); c.Started == nil || *c.Started || c.Ready {
		t.Errorf("before its start-up probe succeeds: got started %v, ready %v", c.Started, c.Ready)
	}
	l.sh("main", "touch /started")
	s = l.awaitReady()
	expect(t, "restarts of what is alive", container(s, "main").RestartCount, 0)
	l.sh("main", "rm /www/alive")
	s = l.await("restarted", func(s *corev1.PodStatus) bool {
		c := container(s, "main")
		// It may be restarted again: until its start-up probe has failed once, the kubelet
		// takes a new container for started, as the old one was.
		return c.RestartCount >= 1 && c.State.Running != nil && c.LastTerminationState.Terminated != nil
	})
	if last := container(s, "main").LastTerminationState.Terminated; last == nil || last.ExitCode != 137 && last.ExitCode != 143 {
		t.Errorf("last state: got %+v, want killed", last)
	}
}

// testDeletion watches the deletion of a pod: it exists until its containers
// have exited, and its last status says how they did.
func testDeletion(t *testing.T, k *kubelet) {
	main := k.shell("main", `trap 'until [ -e /host/go ]; do sleep 0.1; done; exit 5' TERM; touch /host/trapped; while :; do sleep 1 & wait $!; done`)
	pod := newPod("deletion", main)
	pod.Spec.TerminationGracePeriodSeconds = ptr.To[int64](3600)
	dir := hostDir(t, pod, "/host")
	l := k.run(t, pod)
	l.awaitReady()
	awaitFile(t, filepath.Join(dir, "trapped"))
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	changes, err := k.api.pods().Watch(ctx, metav1.SingleObject(l.object().ObjectMeta))
	if err != nil {
		t.Fatal(err)
	}
	defer changes.Stop()
	if err := k.api.pods().Delete(ctx, l.name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	// The container is held in its trap: the pod must still exist.
	eventually(t, "sandbox and container while they end", limit, func() bool { return len(l.running()) == 2 })
	pending := l.object()
	if pending == nil || pending.DeletionTimestamp == nil || *pending.DeletionGracePeriodSeconds != 3600 {
		t.Fatalf("while its container ends: got %+v, want the pod with its 3600 s", pending)
	}
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	var last corev1.PodStatus
	for deleted := false; !deleted; {
		e, open := <-changes.ResultChan()
		if !open {
			t.Fatalf("not deleted, last status: %+v", last)
		}
		if pod, ok := e.Object.(*corev1.Pod); ok {
			last = pod.Status
		}
		deleted = e.Type == watch.Deleted
	}
	end := container(&last, "main").State.Terminated
	if end == nil || end.ExitCode != 5 || end.Reason != "Error" {
		t.Errorf("last state of the container: got %+v, want exit code 5", container(&last, "main").State)
	}
	if left := l.running(); len(left) > 0 {
		t.Errorf("deleted while these run: %v", left)
	}
}

func awaitFile(t *testing.T, path string) {
	t.Helper()
	eventually(t, path, limit, func() bool {
		_, err := os.Stat(path)
		return err == nil
	})
}

// testForcedDeletion removes the pod from the API server at once; the kubelet
// has to stop it as quickly.
func testForcedDeletion(t *testing.T, k *kubelet) {
	pod := newPod("forced", k.shell("main", "trap '' TERM; while :; do sleep 1; done"))
	pod.Spec.TerminationGracePeriodSeconds = ptr.To[int64](3600)
	l := k.run(t, pod)
	l.awaitReady()
	if err := k.api.pods().Delete(context.Background(), l.name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing running", limit, func() bool { return len(l.running()) == 0 })
}

// testEphemeral adds a container to a running pod, as kubectl debug does.
func testEphemeral(t *testing.T, k *kubelet) {
	l := k.run(t, newPod("ephemeral", k.shell("main", "exec sleep 4343")))
	l.awaitReady()
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		pod := l.object()
		pod.Spec.EphemeralContainers = []corev1.EphemeralContainer{{
			TargetContainerName: "main",
			EphemeralContainerCommon: corev1.EphemeralContainerCommon{
				Name: "debug", Image: k.image, Command: []string{"sh"}, Stdin: true, TTY: true,
			},
		}}
		_, err := k.api.pods().UpdateEphemeralContainers(context.Background(), l.name, pod, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	l.await("running", func(s *corev1.PodStatus) bool { return container(s, "debug").State.Running != nil })
	expectContains(t, "processes of the target", l.sh("debug", "ps -o pid,args"), "1 sleep 4343")
	for _, ns := range []string{"net", "ipc", "pid"} {
		expect(t, ns+" namespace", l.sh("debug", "readlink /proc/self/ns/"+ns), l.sh("main", "readlink /proc/self/ns/"+ns))
	}
	var screen bytes.Buffer
	in, out := io.Pipe()
	done := make(chan error, 1)
	go func() {
		defer func() { _ = in.Close() }() // a session that failed reads nothing
		done <- l.session("WebSocket", l.url("attach", "debug", nil), remotecommand.StreamOptions{Stdin: in, Stdout: &screen, Tty: true, TerminalSizeQueue: newSize(80, 24)})
	}()
	if _, err := io.WriteString(out, "echo typed $((6*7)); exit 3\n"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-done: // whether the kubelet sees the exit code depends on timing
	case <-time.After(limit):
		t.Fatal("the session outlives the container")
	}
	_ = out.Close()
	expectContains(t, "screen", screen.String(), "typed 42\r\n")
	end := l.awaitTerminated("debug")
	expect(t, "exit code", end.ExitCode, 3)
	expectContains(t, "log", l.logs("debug", nil), "typed 42")
	s := l.status()
	expect(t, "restarts of the ephemeral container", container(s, "debug").RestartCount, 0)
	if container(s, "main").State.Running == nil {
		t.Errorf("the target: got %+v, want it running", container(s, "main").State)
	}
}
