package kubelet

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// testResize changes the resources of a running pod, up and down: of one
// container in place, of another with a restart.
func testResize(t *testing.T, k *kubelet) {
	inPlace := k.forever("inplace")
	inPlace.Resources = corev1.ResourceRequirements{Requests: quantities("50m", "16Mi"), Limits: quantities("200m", "64Mi")}
	restarted := k.forever("restarted")
	restarted.Resources = corev1.ResourceRequirements{Requests: quantities("50m", "16Mi"), Limits: quantities("200m", "64Mi")}
	restarted.ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: corev1.ResourceMemory, RestartPolicy: corev1.RestartContainer}}
	l := k.run(t, newPod("resize", inPlace, restarted))
	id := container(l.awaitReady(), "inplace").ContainerID
	l.sh("inplace", "head -c 4194304 /dev/zero >/tmp/kept")
	for _, step := range []struct{ name, cpu, memory, request string }{
		{"up", "400m", "128Mi", "100m"},
		{"down", "100m", "48Mi", "20m"},
		{"processor up, memory down", "300m", "32Mi", "20m"},
		{"processor down, memory up", "150m", "96Mi", "30m"},
	} {
		want := corev1.ResourceRequirements{Requests: quantities(step.request, "16Mi"), Limits: quantities(step.cpu, step.memory)}
		s := l.resize(step.name, "inplace", want)
		c := container(s, "inplace")
		expect(t, step.name+": container", c.ContainerID, id)
		expect(t, step.name+": restarts", c.RestartCount, 0)
		l.checkLimits(t, step.name, id, want)
	}
	expect(t, "of the file written before", l.sh("inplace", "stat -c %s /tmp/kept"), "4194304\n")

	want := corev1.ResourceRequirements{Requests: quantities("50m", "16Mi"), Limits: quantities("200m", "96Mi")}
	l.resize("with restart", "restarted", want)
	s := l.await("restarted once", func(s *corev1.PodStatus) bool {
		c := container(s, "restarted")
		return c.RestartCount == 1 && c.State.Running != nil
	})
	l.checkLimits(t, "with restart", container(s, "restarted").ContainerID, want)
	expect(t, "the other container", container(s, "inplace").ContainerID, id)
}

// testResizeBelowUse requests less memory than is in use. The request must
// neither be granted nor kill the container, and a resize back must remain
// possible.
func testResizeBelowUse(t *testing.T, k *kubelet) {
	main := k.shell("main", `head -c 41943040 /dev/zero >/memory/file; trap "exit 0" TERM; while :; do sleep 1 & wait; done`)
	before := corev1.ResourceRequirements{Requests: quantities("50m", "16Mi"), Limits: quantities("200m", "96Mi")}
	main.Resources = before
	pod := newPod("resizebelow", main)
	emptyDir(pod, "memory", corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory})
	mount(pod, "memory", "/memory")
	l := k.run(t, pod)
	id := container(l.awaitReady(), "main").ContainerID
	eventually(t, "memory in use", limit, func() bool { return l.workingSet(id) > memoryUse })
	below := before
	below.Limits = quantities("200m", "24Mi")
	l.askResize("main", below)
	l.await("refused while it is used", func(s *corev1.PodStatus) bool {
		return slices.ContainsFunc(s.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodResizeInProgress && c.Reason == corev1.PodReasonError && strings.Contains(c.Message, "memory")
		})
	})
	l.checkLimits(t, "refused", id, before)
	l.sh("main", "rm /memory/file")
	s := l.awaitResized("once it is free", "main", below)
	expect(t, "restarts", container(s, "main").RestartCount, 0)
	l.checkLimits(t, "once it is free", id, below)
}

// testResizePod changes the pod-level resources.
func testResizePod(t *testing.T, k *kubelet) {
	pod := newPod("resizepod", k.forever("main"))
	pod.Spec.Resources = &corev1.ResourceRequirements{Requests: quantities("50m", "16Mi"), Limits: quantities("200m", "64Mi")}
	l := k.run(t, pod)
	id := container(l.awaitReady(), "main").ContainerID
	for _, step := range []struct{ name, cpu, memory string }{{"up", "400m", "128Mi"}, {"down", "100m", "48Mi"}} {
		want := corev1.ResourceRequirements{Requests: quantities("50m", "16Mi"), Limits: quantities(step.cpu, step.memory)}
		l.update(func(pod *corev1.Pod) { pod.Spec.Resources = ptr.To(want) })
		s := l.await(step.name, func(s *corev1.PodStatus) bool {
			return !resizing(s) && s.Resources != nil && apiequality.Semantic.DeepEqual(s.Resources.Limits, want.Limits)
		})
		expect(t, step.name+": container", container(s, "main").ContainerID, id)
		l.checkLimits(t, step.name+", the pod", "", want)
	}
}

// resize changes a container's resources and waits until they are in effect.
func (l *live) resize(what, name string, want corev1.ResourceRequirements) *corev1.PodStatus {
	l.t.Helper()
	l.askResize(name, want)
	return l.awaitResized(what, name, want)
}

func (l *live) askResize(name string, want corev1.ResourceRequirements) {
	l.t.Helper()
	l.update(func(pod *corev1.Pod) {
		for i := range pod.Spec.Containers {
			if pod.Spec.Containers[i].Name == name {
				pod.Spec.Containers[i].Resources = want
			}
		}
	})
}

// update changes the pod through its resize subresource.
func (l *live) update(change func(*corev1.Pod)) {
	l.t.Helper()
	eventually(l.t, "resize accepted", limit, func() bool {
		pod := l.object()
		change(pod)
		_, err := l.api.pods().UpdateResize(context.Background(), l.name, pod, metav1.UpdateOptions{})
		if err != nil && !apierrors.IsConflict(err) {
			l.t.Fatal(err)
		}
		return err == nil
	})
}

// awaitResized waits until the kubelet reports that a container's actual
// resources are those requested.
func (l *live) awaitResized(what, name string, want corev1.ResourceRequirements) *corev1.PodStatus {
	l.t.Helper()
	return l.await(what, func(s *corev1.PodStatus) bool {
		got := container(s, name).Resources
		return !resizing(s) && got != nil && apiequality.Semantic.DeepEqual(*got, want)
	})
}

func resizing(s *corev1.PodStatus) bool {
	return slices.ContainsFunc(s.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodResizePending || c.Type == corev1.PodResizeInProgress
	})
}

// checkLimits compares a container's limits with its cgroup, or with the pod's
// if there is no ID.
func (l *live) checkLimits(t *testing.T, what, id string, want corev1.ResourceRequirements) {
	t.Helper()
	expect(t, what+": memory limit", l.cgroupFile(id, "memory", "memory.limit_in_bytes", "memory.max"), fmt.Sprint(want.Limits.Memory().Value()))
	quota := strings.Fields(l.cgroupFile(id, "cpu", "cpu.cfs_quota_us", "cpu.max"))[0]
	expect(t, what+": processor limit", quota, fmt.Sprint(want.Limits.Cpu().MilliValue()*100))
	if !isUnified() {
		expect(t, what+": shares", l.cgroupFile(id, "cpu", "cpu.shares", ""), fmt.Sprint(want.Requests.Cpu().MilliValue()*1024/1000))
	}
}
