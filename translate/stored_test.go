package translate

import (
	"testing"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestStoredCgroupFiles: file names in a record are not trusted; what a request may
// not contain is not read back either.
func TestStoredCgroupFiles(t *testing.T) {
	for key, ok := range map[string]bool{
		"memory.high": true, "hugetlb.2MB.max": true, "io.bfq.weight": true, "cpuset.cpus.partition": true,
		"cpu./../../x": false, "cpu./x": false, "cpu/x": false, "../memory.max": false, "/memory.max": false, "memory.max/../cgroup.procs": false,
		"cgroup.procs": false, "cgroup.kill": false, "cgroup.freeze": false, "cgroup.subtree_control": false, "cgroup.threads": false,
		"": false, "memory": false, "memory.": false, ".memory": false, "memory.max\n": false, "memory.\x00": false, "..": false,
	} {
		r := &resources{Unified: map[string]string{key: "1"}}
		if err := ValidateCgroupFiles("linux", r); ok != (err == nil) || !ok && !errdefs.IsInvalidArgument(err) {
			t.Errorf("unified %q: %v", key, err)
		}
		checkStored(t, key, r, ok)
	}
	for size, ok := range map[string]bool{"2MB": true, "1GB": true, "": false, "../2MB": false, "2MB/../x": false, "/": false, "0MB": false} {
		r := &resources{HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: size}}}
		if err := ValidateCgroupFiles("linux", r); ok != (err == nil) || !ok && !errdefs.IsInvalidArgument(err) {
			t.Errorf("page size %q: %v", size, err)
		}
		checkStored(t, size, r, ok)
	}
}

// checkStored reads a container whose record has these resources.
func checkStored(t *testing.T, what string, r *resources, ok bool) {
	t.Helper()
	in := createdContainer(t)
	cfg := &runtimeapi.ContainerConfig{}
	rec, err := decodeRecord(in.Config.Labels, cfg)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Linux.Resources = r
	if in.Config.Labels[LabelConfig], err = encodeRecord(*rec, cfg); err != nil {
		t.Fatal(err)
	}
	seal(in)
	got, err := ReadContainer(in, nil, fullHost)
	if ok != (err == nil) || !ok && (!errdefs.IsDataLoss(err) || errdefs.IsInvalidArgument(err)) {
		t.Errorf("a record with %q: %v, %v", what, got, err)
	}
}
