package shim

import (
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/internal/beneath"
)

// FuzzCgroupDir: wherever a process says that it is, limits are written below
// the mounted control groups.
func FuzzCgroupDir(f *testing.F) {
	f.Add("0::/kubepods/pod1/c\n", "memory.high")
	f.Add("0::/../../../etc\n", "memory.high")
	f.Add("5:memory:/docker/c\n4:cpu,cpuacct:/docker/c\n", "cpu.shares")
	f.Add("5:../..:/x\n", "../...")
	f.Add("0::/docker/c\n", "../x")
	f.Fuzz(func(t *testing.T, membership, file string) {
		for _, v2 := range []bool{true, false} {
			found, ok := findCgroupFile("/cg", membership, file, v2)
			if !ok {
				continue
			}
			path := found.root.Path(found.name)
			if rest, below := strings.CutPrefix(path, "/cg/"); !below || !filepath.IsLocal(rest) || filepath.Base(path) != file {
				t.Fatalf("%q is %q", file, path)
			}
		}
	})
}

// FuzzUpdates: the limits that were kept come back as they were, and a file
// that was damaged hides no container.
func FuzzUpdates(f *testing.F) {
	f.Add([]byte(`{"unified":{"memory.high":"1"},"hugepageLimits":[{"pageSize":"2MB","limit":"4"}],"oomScoreAdj":"5"}`))
	f.Add([]byte(`{"unified":{"../../x":"1"},"newer":1}`))
	f.Add([]byte("{"))
	klog.SetLogger(klog.Logger{})
	f.Fuzz(func(t *testing.T, content []byte) {
		root := beneath.Root(t.TempDir())
		if err := root.MkdirAll(updatesDir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := root.WriteFile(updatesDir+"/c.json", content, 0o600); err != nil {
			t.Fatal(err)
		}
		first := &updates{state: root}
		kept := first.get("c")
		if kept == nil {
			return
		}
		if err := first.keep("d", kept); err != nil {
			t.Fatal(err)
		}
		second := &updates{state: root}
		want := &runtimeapi.LinuxContainerResources{Unified: kept.Unified, HugepageLimits: kept.HugepageLimits, OomScoreAdj: kept.OomScoreAdj}
		if got := second.get("d"); !proto.Equal(got, want) {
			t.Fatalf("%v, want %v", got, want)
		}
		if err := second.forget("d"); err != nil || second.get("d") != nil {
			t.Fatalf("not forgotten: %v", err)
		}
	})
}
