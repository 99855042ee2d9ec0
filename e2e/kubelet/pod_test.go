package kubelet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"
)

// limit is longer than anything takes on a busy machine.
const limit = 8 * time.Minute

// namespace is every test pod's.
const namespace = "e2e"

// newPod is a pod that terminates quickly.
func newPod(name string, containers ...corev1.Container) *corev1.Pod {
	return &corev1.Pod{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: map[string]string{"app": name}},
		Spec:       corev1.PodSpec{Containers: containers, TerminationGracePeriodSeconds: ptr.To[int64](1), DNSPolicy: corev1.DNSDefault},
	}
}

// shell is a container of the test image that runs a script.
func (n *node) shell(name, script string) corev1.Container {
	return corev1.Container{Name: name, Image: n.image, Command: []string{"sh", "-c", script}}
}

// forever is a container that does nothing until it is told to stop.
func (n *node) forever(name string) corev1.Container {
	return n.shell(name, `trap "exit 0" TERM; while :; do sleep 1 & wait; done`)
}

// emptyDir adds an emptyDir volume to a pod.
func emptyDir(pod *corev1.Pod, name string, source corev1.EmptyDirVolumeSource) {
	pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{EmptyDir: &source}})
}

// live is a pod that the kubelet runs.
type live struct {
	*kubelet
	t       testing.TB
	name    string // as the kubelet knows it
	file    string // the manifest; "" if the pod comes from the API server
	started time.Time
	uid     string // once it has been seen
}

// run gives the kubelet a pod, through the API server if there is one. It is
// removed at the end of the test, and must leave nothing behind.
func (k *kubelet) run(t testing.TB, pod *corev1.Pod) *live {
	t.Helper()
	pod.Name = k.named(pod.Name)
	if k.ownUsers {
		pod.Spec.HostUsers = ptr.To(false)
	}
	give := k.place
	if k.api != nil {
		give = k.create
	}
	l, err := give(pod)
	if err != nil {
		t.Fatal(err)
	}
	l.t = t
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(l.describe())
		}
		l.remove()
	})
	return l
}

// place writes a pod's manifest. The kubelet does not read names with a dot.
func (k *kubelet) place(pod *corev1.Pod) (*live, error) {
	manifest, err := yaml.Marshal(pod)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(k.manifests(), pod.Name+".yaml")
	hidden := filepath.Join(k.manifests(), "."+pod.Name)
	if err := errors.Join(os.WriteFile(hidden, manifest, 0o644), os.Rename(hidden, file)); err != nil {
		return nil, err
	}
	return &live{kubelet: k, name: pod.Name + "-" + nodeName, file: file, started: time.Now()}, nil
}

// status returns the pod's status from the kubelet or the API server; nil if
// the pod is unknown.
func (l *live) status() *corev1.PodStatus {
	l.t.Helper()
	if l.file == "" {
		pod := l.object()
		if pod == nil {
			return nil
		}
		return &pod.Status
	}
	var pods []corev1.Pod
	persistently(l.t, func() (err error) {
		pods, err = l.pods()
		return err
	})
	for i := range pods {
		if pods[i].Name == l.name && pods[i].Namespace == namespace {
			l.uid = string(pods[i].UID)
			return &pods[i].Status
		}
	}
	return nil
}

// await waits for a status that satisfies holds, and returns it.
func (l *live) await(what string, holds func(*corev1.PodStatus) bool) *corev1.PodStatus {
	l.t.Helper()
	var status *corev1.PodStatus
	eventually(l.t, what, limit, func() bool {
		status = l.status()
		return status != nil && holds(status)
	})
	return status
}

// awaitReady waits for the pod to be ready.
func (l *live) awaitReady() *corev1.PodStatus {
	l.t.Helper()
	status := l.await("pod ready", ready)
	l.t.Logf("%s ready after %.1f s", l.name, time.Since(l.started).Seconds())
	if l.ownUsers {
		l.checkUsers(l.t, status, status.ContainerStatuses[0].Name)
	}
	return status
}

func ready(s *corev1.PodStatus) bool {
	for _, c := range s.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// container returns a container's status, of whatever kind the container is.
func container(s *corev1.PodStatus, name string) *corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return &corev1.ContainerStatus{}
}

// awaitTerminated waits for a container to exit and returns how it did.
func (l *live) awaitTerminated(name string) *corev1.ContainerStateTerminated {
	l.t.Helper()
	s := l.await("container "+name+" terminated", func(s *corev1.PodStatus) bool { return container(s, name).State.Terminated != nil })
	return container(s, name).State.Terminated
}

// sh runs a script in a container, through the kubelet's /exec or the API
// server's, and returns what it prints.
func (l *live) sh(container, script string) string {
	l.t.Helper()
	out, err := l.trySh(container, script)
	if err != nil {
		l.t.Fatalf("in container %s, %q: %v: %s", container, script, err, out)
	}
	return out
}

// logs returns a container's log from the kubelet's API.
func (l *live) logs(container string, options url.Values) string {
	l.t.Helper()
	log, err := l.tryLogs(container, options)
	if err != nil {
		l.t.Fatal(err)
	}
	return log
}

func (l *live) tryLogs(container string, options url.Values) (string, error) {
	return get(l.httpClient(), l.url("containerLogs", container, options).String())
}

// cgroupDir returns the pod's cgroup directory of a controller, or the
// container's own if an ID is given. With cgroup v2 the controller makes no
// difference.
func (l *live) cgroupDir(controller, containerID string) string {
	l.t.Helper()
	root := "/sys/fs/cgroup/" + controller
	if isUnified() {
		root = "/sys/fs/cgroup"
	}
	found, err := filepath.Glob(root + l.cgroup + "/kubepods/*/pod" + l.uid)
	if err != nil {
		l.t.Fatal(err)
	}
	if guaranteed := root + l.cgroup + "/kubepods/pod" + l.uid; len(found) == 0 {
		found = []string{guaranteed}
	}
	return filepath.Join(found[0], strings.TrimPrefix(containerID, "docker://"))
}

func isUnified() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err == nil
}

// describe describes the pod for failure messages.
func (l *live) describe() string {
	b, err := json.MarshalIndent(l.status(), "", " ")
	if err != nil {
		return err.Error()
	}
	return l.name + ": " + string(b)
}

// remove removes the pod and checks what must go with it. It succeeds if the
// pod is gone already.
func (l *live) remove() {
	l.t.Helper()
	if l.uid == "" {
		l.status()
	}
	from := time.Now()
	if l.file == "" {
		if err := l.api.pods().Delete(context.Background(), l.name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			l.t.Fatal(err)
		}
	} else if err := os.Remove(l.file); errors.Is(err, fs.ErrNotExist) {
		return
	}
	if l.uid == "" {
		return // the kubelet never saw it
	}
	eventually(l.t, "pod "+l.name+" unknown to the kubelet, nothing running", limit, func() bool { return l.status() == nil && len(l.running()) == 0 })
	l.t.Logf("%s gone after %.1f s", l.name, time.Since(from).Seconds())
}

// running returns the pod's running containers.
func (l *live) running() []string {
	l.t.Helper()
	var names []string
	persistently(l.t, func() (err error) {
		names, err = l.containers(`"label":["io.kubernetes.pod.uid=` + l.uid + `"],"status":["running"]`)
		return err
	})
	return names
}

// leftovers returns what the node still has of pods other than except, which
// may be nil.
func (k *kubelet) leftovers(except *live) ([]string, error) {
	left, err := k.containers(`"label":["io.kubernetes.pod.uid"]`)
	if err != nil {
		return nil, err
	}
	for _, pattern := range []string{
		"/var/lib/kubelet/pods/*", "/var/log/pods/*", "/var/log/containers/*",
		"/sys/fs/cgroup" + k.cgroup + "/kubepods/*/pod*", "/sys/fs/cgroup/*" + k.cgroup + "/kubepods/*/pod*",
	} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		left = append(left, found...)
	}
	return slices.DeleteFunc(left, func(s string) bool {
		return except != nil && (strings.Contains(s, except.uid) || strings.Contains(s, except.name))
	}), nil
}

// checkGone waits until the kubelet has cleaned up after all pods but one: it
// removes sandboxes once a minute.
func (k *kubelet) checkGone(t *testing.T, except *live) {
	t.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(200 * time.Millisecond) {
		left, err := k.leftovers(except)
		if err != nil {
			t.Fatal(err)
		}
		if len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Errorf("left behind by pods:\n%s", strings.Join(left, "\n"))
			return
		}
	}
}

// expect fails the test if two values differ.
func expect[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// expectContains fails the test if a text does not contain another one.
func expectContains(t testing.TB, what, got, want string) {
	t.Helper()
	if !strings.Contains(got, want) {
		t.Errorf("%s: got %q, want %q in it", what, got, want)
	}
}

// field returns the value of a line "NAME: VALUE", as in /proc/self/status.
func field(text, name string) string {
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.Join(strings.Fields(value), " ")
		}
	}
	return fmt.Sprintf("no %s in %q", name, text)
}
