package kubelet

import (
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"
)

// testVolumes mounts what static pods can use: memory, files that the kubelet
// projects as it does config maps, subpaths of volumes, a file of the node.
func testVolumes(t *testing.T, k *kubelet) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("of the node\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	main := k.forever("main")
	main.VolumeMounts = []corev1.VolumeMount{
		{Name: "memory", MountPath: "/memory"},
		{Name: "info", MountPath: "/info"},
		{Name: "info", MountPath: "/etc/labels", SubPath: "labels"},
		{Name: "disk", MountPath: "/disk", SubPathExpr: "part/$(NAME)"},
		{Name: "file", MountPath: "/etc/file", ReadOnly: true},
		{Name: "file", MountPath: "/etc/recursive", ReadOnly: true, MountPropagation: ptr.To(corev1.MountPropagationHostToContainer)},
	}
	main.Env = []corev1.EnvVar{{Name: "NAME", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}}
	pod := newPod("volumes", main)
	emptyDir(pod, "memory", corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: ptr.To(resource.MustParse("8Mi"))})
	emptyDir(pod, "disk", corev1.EmptyDirVolumeSource{})
	pod.Spec.Volumes = append(pod.Spec.Volumes,
		corev1.Volume{Name: "info", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{
			{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}},
		}}}},
		corev1.Volume{Name: "file", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: file, Type: ptr.To(corev1.HostPathFile)}}})
	l := k.run(t, pod)
	l.awaitReady()
	expectContains(t, "mount of memory", l.sh("main", "grep ' /memory ' /proc/mounts"), "tmpfs")
	expectContains(t, "size of memory", l.sh("main", "df -k /memory | tail -n 1"), " 8192 ")
	expect(t, "labels", l.sh("main", "cat /info/labels"), `app="volumes"`)
	expect(t, "labels by sub-path", l.sh("main", "cat /etc/labels"), `app="volumes"`)
	l.sh("main", "echo kept >/disk/written")
	written, err := os.ReadFile(filepath.Join("/var/lib/kubelet/pods", l.uid, "volumes/kubernetes.io~empty-dir/disk/part", l.name, "written"))
	if err != nil {
		t.Error(err)
	}
	expect(t, "file in the sub-path", string(written), "kept\n")
	expect(t, "the node's file", l.sh("main", "cat /etc/file"), "of the node\n")
	if out, err := l.trySh("main", "echo changed >/etc/file"); err == nil {
		t.Errorf("a read-only file can be written: %s", out)
	}
}

func testImageVolume(t *testing.T, k *kubelet) {
	main := k.forever("main")
	main.VolumeMounts = []corev1.VolumeMount{{Name: "image", MountPath: "/image", ReadOnly: true}}
	pod := newPod("imagevolume", main)
	pod.Spec.Volumes = []corev1.Volume{{Name: "image", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: k.image, PullPolicy: corev1.PullIfNotPresent}}}}
	l := k.run(t, pod)
	l.awaitReady()
	expectContains(t, "the image's files", l.sh("main", "ls /image/bin"), "busybox")
	if out, err := l.trySh("main", "touch /image/new"); err == nil {
		t.Errorf("an image volume can be written: %s", out)
	}
}

func testSecurityContext(t *testing.T, k *kubelet) {
	main := k.forever("main")
	main.SecurityContext = &corev1.SecurityContext{
		RunAsUser: ptr.To[int64](1234), RunAsGroup: ptr.To[int64](2345), RunAsNonRoot: ptr.To(true),
		ReadOnlyRootFilesystem: ptr.To(true), AllowPrivilegeEscalation: ptr.To(false),
		Capabilities:   &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: []corev1.Capability{"NET_BIND_SERVICE"}},
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	root := k.forever("root")
	root.SecurityContext = &corev1.SecurityContext{RunAsUser: ptr.To[int64](0), SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeUnconfined}}
	refused := k.forever("refused")
	refused.SecurityContext = &corev1.SecurityContext{RunAsNonRoot: ptr.To(true)}
	pod := newPod("security", main, root, refused)
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{
		SupplementalGroups: []int64{3456}, FSGroup: ptr.To[int64](4567),
		Sysctls: []corev1.Sysctl{{Name: "net.ipv4.ip_unprivileged_port_start", Value: "80"}},
	}
	emptyDir(pod, "disk", corev1.EmptyDirVolumeSource{})
	mount(pod, "disk", "/disk")
	l := k.run(t, pod)
	s := l.await("two run, one is refused", func(s *corev1.PodStatus) bool {
		waiting := container(s, "refused").State.Waiting
		return container(s, "main").State.Running != nil && container(s, "root").State.Running != nil && waiting != nil && waiting.Reason == "CreateContainerConfigError"
	})
	status := l.sh("main", "cat /proc/self/status")
	expect(t, "user", field(status, "Uid"), "1234 1234 1234 1234")
	expect(t, "group", field(status, "Gid"), "2345 2345 2345 2345")
	expect(t, "groups", field(status, "Groups"), "2345 3456 4567")
	expect(t, "capabilities", field(status, "CapBnd"), "0000000000000400")
	expect(t, "no new privileges", field(status, "NoNewPrivs"), "1")
	expect(t, "seccomp", field(status, "Seccomp"), "2")
	expect(t, "seccomp of root", field(l.sh("root", "cat /proc/self/status"), "Seccomp"), "0")
	expect(t, "sysctl", l.sh("main", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start"), "80\n")
	expect(t, "group of the volume", l.sh("main", "touch /disk/new; stat -c '%u %g' /disk/new"), "1234 4567\n")
	if out, err := l.trySh("main", "touch /new"); err == nil {
		t.Errorf("the root file system can be written: %s", out)
	}
	user := container(s, "main").User
	if user == nil || user.Linux == nil || user.Linux.UID != 1234 || user.Linux.GID != 2345 {
		t.Errorf("user in the status: got %+v", user)
	}
	expectContains(t, "refused because of", container(s, "refused").State.Waiting.Message, "image will run as root")
}
