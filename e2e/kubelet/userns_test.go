package kubelet

import (
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// ownUsersSuffix ends the names of what tests under withOwnUsers make.
const ownUsersSuffix = "-own-users"

// named is the name that a test gives to what it makes.
func (k *kubelet) named(name string) string {
	if k.ownUsers {
		return name + ownUsersSuffix
	}
	return name
}

// withOwnUsers is a test whose pods have user namespaces.
func withOwnUsers(test func(*testing.T, *kubelet)) func(*testing.T, *kubelet) {
	return func(t *testing.T, k *kubelet) {
		other := *k
		other.ownUsers = true
		test(t, &other)
	}
}

// testUserNamespace runs pods with hostUsers: false, with all that touches the owners
// of files: volumes on disk and in memory, files that the kubelet manages, images,
// probes, messages and restarts.
func testUserNamespace(t *testing.T, k *kubelet) {
	main := k.forever("main")
	main.VolumeMounts = []corev1.VolumeMount{
		{Name: "disk", MountPath: "/disk"}, {Name: "disk", MountPath: "/part", SubPath: "part"},
		{Name: "memory", MountPath: "/memory"}, {Name: "info", MountPath: "/info"}, {Name: "image", MountPath: "/image", ReadOnly: true},
	}
	main.ReadinessProbe = probe(corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"sh", "-c", "echo ready >/dev/stdout"}}})
	again := k.shell("again", "echo message >/dev/termination-log; echo out >/dev/stdout; test -e /disk/again && exec sleep 100000; touch /disk/again; exit 3")
	again.VolumeMounts = []corev1.VolumeMount{{Name: "disk", MountPath: "/disk"}}
	pod := newPod("userns", main, again)
	pod.Spec.HostUsers = ptr.To(false)
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: ptr.To[int64](4567)}
	emptyDir(pod, "disk", corev1.EmptyDirVolumeSource{})
	emptyDir(pod, "memory", corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory})
	pod.Spec.Volumes = append(pod.Spec.Volumes,
		corev1.Volume{Name: "info", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{
			{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}},
		}}}},
		corev1.Volume{Name: "image", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: k.image, PullPolicy: corev1.PullIfNotPresent}}})
	l := k.run(t, pod)
	l.awaitReady()
	s := l.await("again has been restarted", func(s *corev1.PodStatus) bool {
		c := container(s, "again")
		return c.RestartCount > 0 && c.State.Running != nil && c.LastTerminationState.Terminated != nil
	})
	last := container(s, "again").LastTerminationState.Terminated
	expect(t, "exit code", last.ExitCode, 3)
	expect(t, "termination message", last.Message, "message\n")
	eventually(t, "its log", limit, func() bool { return l.logs("again", nil) == "out\n" })
	expect(t, "owners", l.sh("main", "stat -c %u / /disk /memory /info/labels /image/bin/busybox /etc/hosts /proc/1 | xargs"), "0 0 0 0 0 0 0\n")
	expect(t, "group", l.sh("main", "stat -c %g /disk | xargs"), "4567\n")
	expect(t, "writing", l.sh("main", "for f in /disk/x /part/x /memory/x /x; do touch $f && chown 1000 $f && stat -c %u $f; done | xargs; echo '1.2.3.4 x' >>/etc/hosts"), "1000 1000 1000 1000\n")
	file := "/var/lib/kubelet/pods/" + l.uid + "/volumes/kubernetes.io~empty-dir/disk/x"
	if info, err := os.Stat(file); err != nil || !strings.Contains(fmt.Sprintf("%+v", info.Sys()), "Uid:1000 ") {
		t.Errorf("on the node the file is %+v, %v", info, err)
	}
	first := l.checkUsers(t, s, "main")

	other := newPod("userns-other", k.forever("main"))
	other.Spec.HostUsers = ptr.To(false)
	o := k.run(t, other)
	if second := o.checkUsers(t, o.awaitReady(), "main"); second == first {
		t.Errorf("two pods have users from %d on", first)
	}
}

// checkUsers checks that a container's processes are no users of the node, and returns
// the first one that they can be.
func (l *live) checkUsers(t testing.TB, s *corev1.PodStatus, name string) int {
	t.Helper()
	mapping := strings.Fields(l.sh(name, "cat /proc/self/uid_map"))
	if len(mapping) != 3 || mapping[0] != "0" || mapping[2] != "65536" {
		t.Fatalf("the users are mapped by %q", mapping)
	}
	var c struct{ State struct{ Pid int } }
	id := strings.TrimPrefix(container(s, name).ContainerID, "docker://")
	if err := l.ask(http.MethodGet, "/containers/"+id+"/json", nil, &c); err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.State.Pid))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "user on the node", field(string(status), "Uid"), strings.Join([]string{mapping[1], mapping[1], mapping[1], mapping[1]}, " "))
	first, err := strconv.Atoi(mapping[1])
	if err != nil || first < 65536 {
		t.Errorf("the first user is %q", mapping[1])
	}
	return first
}
