package stats

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// BenchmarkContainer reads a real cgroup v1 group, opening its files each time
// as the collector does.
func BenchmarkContainer(b *testing.B) {
	child := startChild(b, "work", 0)
	c := New(Options{})
	b.ReportAllocs()
	defer cpuPerOp(b)()
	for b.Loop() {
		if _, err := c.Container(b.Context(), child.container()); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	child.end(b)
}

// cpuPerOp also reports CPU time, which varies less than wall-clock time on a
// busy machine.
func cpuPerOp(b *testing.B) func() {
	started := cpuTime(unix.RUSAGE_SELF)
	return func() {
		b.ReportMetric(float64(cpuTime(unix.RUSAGE_SELF)-started)/float64(b.N), "cpu-ns/op")
	}
}

// BenchmarkContainerV2 reads ordinary files with the content of cgroup v2's:
// more files than v1 has, without the kernel's work for them.
func BenchmarkContainerV2(b *testing.B) {
	c := fixture(b, "v2")
	b.ReportAllocs()
	defer cpuPerOp(b)()
	for b.Loop() {
		if _, err := c.Container(b.Context(), fixtureContainer()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkNode reads the lists of a node with 110 pods of two sleeping
// containers.
func BenchmarkNode(b *testing.B) {
	c, containers, pods := node(b, 110)
	b.Run("Containers", func(b *testing.B) {
		defer cpuPerOp(b)()
		for b.Loop() {
			if list, err := c.Containers(b.Context(), containers); err != nil || len(list) != len(containers) {
				b.Fatal(len(list), err)
			}
		}
	})
	b.Run("Pods", func(b *testing.B) {
		defer cpuPerOp(b)()
		for b.Loop() {
			if list, err := c.Pods(b.Context(), pods); err != nil || len(list) != len(pods) {
				b.Fatal(len(list), err)
			}
		}
	})
	b.Run("PodsMetrics", func(b *testing.B) {
		b.ReportAllocs()
		defer cpuPerOp(b)()
		for b.Loop() {
			if list, err := c.PodsMetrics(b.Context(), pods); err != nil || len(list) != len(pods) {
				b.Fatal(len(list), err)
			}
		}
	})
	b.Run("first Containers", func(b *testing.B) {
		defer cpuPerOp(b)()
		for b.Loop() {
			fresh := New(c.opts)
			if _, err := fresh.Containers(b.Context(), containers); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// node creates groups and sleeping processes for a number of pods, each with a
// sandbox and two containers.
func node(b *testing.B, pods int) (*Collector, []Container, []Pod) {
	b.Helper()
	c := New(Options{Disk: NewDisk(DiskOptions{})})
	var containers []Container
	var list []Pod
	for range pods {
		pod := Pod{HostNetwork: false, Attributes: &runtimeapi.PodSandboxAttributes{}}
		for member := range 3 {
			child := &child{id: randomID(b), parent: "stats-test-" + randomID(b)[:16]}
			if member > 0 {
				child.parent = pod.CgroupParent
			}
			child.makeGroups(b)
			child.cmd = exec.Command("sleep", "infinity")
			if err := child.cmd.Start(); err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() {
				_ = child.cmd.Process.Kill()
				_ = child.cmd.Wait()
			})
			for _, g := range child.groups {
				if err := os.WriteFile(g+"/cgroup.procs", []byte(strconv.Itoa(child.cmd.Process.Pid)), 0); err != nil {
					b.Fatal(err)
				}
			}
			if member == 0 {
				pod.ID, pod.Pid, pod.CgroupParent = child.id, child.cmd.Process.Pid, child.parent
				continue
			}
			ctr := child.container()
			ctr.UpperDir, ctr.Attributes = b.TempDir(), &runtimeapi.ContainerAttributes{Id: ctr.ID}
			containers = append(containers, ctr)
			pod.Containers = append(pod.Containers, ctr)
		}
		list = append(list, pod)
	}
	return c, containers, list
}

// BenchmarkWalk walks a tree of 20,000 files without pauses.
func BenchmarkWalk(b *testing.B) {
	dir := b.TempDir()
	for i := range 400 {
		for j := range 50 {
			write(b, fmt.Sprintf("%s/%d/%d", dir, i, j), 0)
		}
	}
	for b.Loop() {
		measure(turn, []string{dir}, nil)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/(400*51+1), "ns/inode")
}
