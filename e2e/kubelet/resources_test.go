package kubelet

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

func quantities(cpu, memory string) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
}

// cgroupFile reads a file of a container's cgroup; controller and v1 are the
// names in cgroup v1, v2 is the file in cgroup v2.
func (l *live) cgroupFile(containerID, controller, v1, v2 string) string {
	l.t.Helper()
	name := v1
	if isUnified() {
		name = v2
	}
	b, err := os.ReadFile(filepath.Join(l.cgroupDir(controller, containerID), name))
	if err != nil {
		l.t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

func testResources(t *testing.T, k *kubelet) {
	main := k.forever("main")
	main.Resources = corev1.ResourceRequirements{Requests: quantities("50m", "16Mi"), Limits: quantities("200m", "32Mi")}
	l := k.run(t, newPod("resources", main))
	s := l.awaitReady()
	c := container(s, "main")
	expect(t, "memory limit", l.cgroupFile(c.ContainerID, "memory", "memory.limit_in_bytes", "memory.max"), fmt.Sprint(32<<20))
	expect(t, "processor limit", strings.Fields(l.cgroupFile(c.ContainerID, "cpu", "cpu.cfs_quota_us", "cpu.max"))[0], "20000")
	if !isUnified() {
		expect(t, "shares", l.cgroupFile(c.ContainerID, "cpu", "cpu.shares", ""), "51")
	}
	expect(t, "memory limit of the pod", l.cgroupFile("", "memory", "memory.limit_in_bytes", "memory.max"), fmt.Sprint(32<<20))
	if c.Resources == nil {
		t.Fatal("no resources in the status")
	}
	expect(t, "processor limit in the status", c.Resources.Limits.Cpu().String(), "200m")
	expect(t, "memory limit in the status", c.Resources.Limits.Memory().String(), "32Mi")
	expect(t, "processor request in the status", c.Resources.Requests.Cpu().String(), "50m")
	expect(t, "QoS class", s.QOSClass, corev1.PodQOSBurstable)
	adj, err := strconv.Atoi(strings.TrimSpace(l.sh("main", "cat /proc/1/oom_score_adj")))
	if err != nil || adj < 900 || adj > 999 {
		t.Errorf("oom_score_adj: got %d, %v, want what a small request brings", adj, err)
	}
}

func testOOM(t *testing.T, k *kubelet) {
	// Not at once: the kubelet shows the container as running when cridock watches for
	// the OOM killer; containerd 1.6 takes a while longer.
	main := k.shell("main", "until [ -e /host/go ]; do usleep 100000; done; sleep 3; exec dd if=/dev/zero of=/dev/null bs=256M")
	main.Resources = corev1.ResourceRequirements{Limits: quantities("500m", "24Mi")}
	pod := newPod("oom", main)
	pod.Spec.RestartPolicy = corev1.RestartPolicyNever
	dir := hostDir(t, pod, "/host")
	l := k.run(t, pod)
	l.await("running", func(s *corev1.PodStatus) bool { return container(s, "main").State.Running != nil })
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	end := l.awaitTerminated("main")
	expect(t, "reason", end.Reason, "OOMKilled")
	expect(t, "exit code", end.ExitCode, 137)
}

// memoryUse is most of the memory that testStatistics' pod uses.
const memoryUse = 40 << 20

func testStatistics(t *testing.T, k *kubelet) {
	main := k.shell("main", `head -c 41943040 /dev/zero >/memory/file; head -c 4194304 /dev/zero >/written
		wget -q -O- http://127.0.0.1:1/; while :; do i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; usleep 100000; done`)
	pod := newPod("statistics", main)
	emptyDir(pod, "memory", corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory})
	mount(pod, "memory", "/memory")
	l := k.run(t, pod)
	id := container(l.awaitReady(), "main").ContainerID
	l.sh("main", "ping -c 3 -w 10 $(ip route | sed -n 's/^default via \\([^ ]*\\).*/\\1/p')")
	var stats *statsapi.PodStats
	before := float64(l.cpuUse(id))
	eventually(t, "pod in /stats/summary with all its numbers", limit, func() bool {
		stats = l.summary()
		return stats != nil && complete(stats) && float64(*stats.Containers[0].CPU.UsageCoreNanoSeconds) >= before
	})
	c := stats.Containers[0]
	checkMemory(t, "working set of the container", *c.Memory.WorkingSetBytes, l.workingSet(id))
	checkMemory(t, "working set of the pod", *stats.Memory.WorkingSetBytes, l.workingSet(""))
	if got, after := float64(*c.CPU.UsageCoreNanoSeconds), l.cpuUse(id); got > after {
		t.Errorf("processor time: got %v, the cgroup has %v a little later", got, after)
	}
	if got := *c.Rootfs.UsedBytes; got < 4<<20 || got > 8<<20 {
		t.Errorf("writable layer: got %d bytes, want 4 MiB and little more", got)
	}
	// The kubelet's cAdvisor does not know the network of Docker's containers.
	if l.criStats && (stats.Network == nil || stats.Network.RxBytes == nil || *stats.Network.RxBytes == 0) {
		t.Errorf("network: got %+v, want what ping brought", stats.Network)
	}
	l.checkMetrics(t, id)
}

// complete reports whether all numbers that a test reads are there, and date
// from when the memory was in use.
func complete(s *statsapi.PodStats) bool {
	if len(s.Containers) != 1 || s.Memory == nil || s.Memory.WorkingSetBytes == nil || *s.Memory.WorkingSetBytes < memoryUse {
		return false
	}
	c := s.Containers[0]
	return c.Memory != nil && c.Memory.WorkingSetBytes != nil && *c.Memory.WorkingSetBytes > memoryUse &&
		c.CPU != nil && c.CPU.UsageCoreNanoSeconds != nil && c.CPU.UsageNanoCores != nil &&
		c.Rootfs != nil && c.Rootfs.UsedBytes != nil && *c.Rootfs.UsedBytes >= 4<<20
}

// summary returns the pod's part of /stats/summary, nil if there is none.
func (l *live) summary() *statsapi.PodStats {
	l.t.Helper()
	var s statsapi.Summary
	if err := json.Unmarshal([]byte(l.mustGet(l.t, "/stats/summary")), &s); err != nil {
		l.t.Fatal(err)
	}
	for i := range s.Pods {
		if s.Pods[i].PodRef.Name == l.name {
			return &s.Pods[i]
		}
	}
	return nil
}

// workingSet returns what the cgroup uses without reclaimable memory.
func (l *live) workingSet(containerID string) uint64 {
	l.t.Helper()
	usage := l.cgroupFile(containerID, "memory", "memory.usage_in_bytes", "memory.current")
	used, err := strconv.ParseUint(usage, 10, 64)
	if err != nil {
		l.t.Fatal(err)
	}
	inactive := "total_inactive_file"
	if isUnified() {
		inactive = "inactive_file"
	}
	for line := range strings.Lines(l.cgroupFile(containerID, "memory", "memory.stat", "memory.stat")) {
		if value, ok := strings.CutPrefix(line, inactive+" "); ok {
			cache, err := strconv.ParseUint(strings.TrimSpace(value), 10, 64)
			if err != nil {
				l.t.Fatal(err)
			}
			return used - min(used, cache)
		}
	}
	l.t.Fatalf("no %s in memory.stat", inactive)
	return 0
}

// cpuUse returns the cgroup's CPU time in nanoseconds.
func (l *live) cpuUse(containerID string) float64 {
	l.t.Helper()
	text := l.cgroupFile(containerID, "cpuacct", "cpuacct.usage", "cpu.stat")
	scale := 1.0
	if isUnified() {
		text, scale = strings.Fields(text)[1], 1000 // usage_usec
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		l.t.Fatal(err)
	}
	return v * scale
}

func checkMemory(t *testing.T, what string, got, want uint64) {
	t.Helper()
	if math.Abs(float64(got)-float64(want)) > 8<<20 {
		t.Errorf("%s: got %d, the cgroup has %d", what, got, want)
	}
}

// checkMetrics compares the kubelet's metrics of the container with its cgroup.
func (l *live) checkMetrics(t *testing.T, id string) {
	t.Helper()
	for path, metric := range map[string]string{
		"/metrics/resource": "container_memory_working_set_bytes",
		"/metrics/cadvisor": "container_memory_working_set_bytes",
	} {
		if path == "/metrics/cadvisor" && !l.criStats {
			continue // the kubelet's cAdvisor does not know Docker's containers
		}
		var value uint64
		eventually(t, metric+" in "+path, limit, func() bool {
			value = l.metric(path, metric, "main")
			return value > memoryUse
		})
		checkMemory(t, path+" "+metric, value, l.workingSet(id))
	}
	if !l.criStats {
		return
	}
	for _, metric := range []string{"container_cpu_usage_seconds_total", "container_fs_usage_bytes", "container_start_time_seconds", "container_spec_memory_limit_bytes", "container_last_seen"} {
		if !strings.Contains(l.mustGet(t, "/metrics/cadvisor"), metric+"{") {
			t.Errorf("no %s in /metrics/cadvisor", metric)
		}
	}
	eventually(t, "network of the pod in /metrics/cadvisor", limit, func() bool {
		return l.metric("/metrics/cadvisor", "container_network_receive_bytes_total", "") > 0
	})
}

// metric returns the value of one of the pod's metrics, 0 if there is none.
// Metrics of the pod itself have no container.
func (l *live) metric(path, name, container string) uint64 {
	l.t.Helper()
	for line := range strings.Lines(l.mustGet(l.t, path)) {
		if !strings.HasPrefix(line, name+"{") || !strings.Contains(line, fmt.Sprintf(`pod=%q`, l.name)) {
			continue
		}
		if container != "" && !strings.Contains(line, fmt.Sprintf(`container=%q`, container)) {
			continue
		}
		_, rest, _ := strings.Cut(line, "} ")
		value, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
		if err != nil {
			l.t.Fatal(err)
		}
		return uint64(value)
	}
	return 0
}

const unusedImage = "unused:cridock"

// importUnused imports an image that no pod uses.
func (n *node) importUnused() error {
	var image bytes.Buffer
	w := tar.NewWriter(&image)
	content := []byte("not used")
	if err := w.WriteHeader(&tar.Header{Name: "file", Mode: 0o644, Size: int64(len(content))}); err != nil {
		return err
	}
	if _, err := w.Write(content); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return n.ask(http.MethodPost, "/images/create?fromSrc=-&repo=unused&tag=cridock", &image, nil)
}

// testImageCollection runs under a kubelet that finds the disk too full.
func testImageCollection(t *testing.T, k *kubelet) {
	images := func() []string {
		images, err := k.images()
		if err != nil {
			t.Fatal(err)
		}
		return images
	}
	eventually(t, "unused image removed", limit, func() bool { return !slices.Contains(images(), unusedImage) })
	left := images()
	if !slices.Contains(left, k.image) {
		t.Errorf("the image of a running pod is gone: %v", left)
	}
	var sandboxes []struct{ ImageID string }
	if err := k.ask(http.MethodGet, `/containers/json?filters={"label":["io.kubernetes.docker.type=podsandbox"]}`, nil, &sandboxes); err != nil {
		t.Fatal(err)
	}
	if len(sandboxes) == 0 {
		t.Fatal("no sandbox runs")
	}
	if err := k.ask(http.MethodGet, "/images/"+sandboxes[0].ImageID+"/json", nil, nil); err != nil {
		t.Errorf("the pause image is gone: %v", err)
	}
}
