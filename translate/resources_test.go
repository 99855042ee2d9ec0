package translate

import (
	"testing"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"google.golang.org/protobuf/testing/protocmp"
)

const mib = 1 << 20

type resources = runtimeapi.LinuxContainerResources

var (
	v1Host      = Host{CgroupDriver: "cgroupfs"}
	v2Host      = Host{CgroupDriver: "cgroupfs", CgroupV2: true, Annotations: true}
	systemdHost = Host{CgroupDriver: "systemd", CgroupV2: true, Annotations: true}
)

func TestDockerResources(t *testing.T) {
	five := int64(5)
	swap := func(memory, total int64, v2 string) *resources {
		r := &resources{MemoryLimitInBytes: memory, MemorySwapLimitInBytes: total}
		if v2 != "" {
			r.Unified = map[string]string{"memory.swap.max": v2}
		}
		return r
	}
	for name, tc := range map[string]struct {
		in          *resources
		host        Host
		want        container.Resources
		annotations map[string]string
		refused     func(error) bool
	}{
		"nothing asked for limits nothing": {},
		"cpu and cpuset pass through": {in: &resources{CpuPeriod: 100000, CpuQuota: 50000, CpuShares: 2, CpusetCpus: "0-1", CpusetMems: "0"},
			want: container.Resources{CPUPeriod: 100000, CPUQuota: 50000, CPUShares: 2, CpusetCpus: "0-1", CpusetMems: "0"}},
		"no swap limit means no swap":                        {in: swap(64*mib, 0, ""), want: container.Resources{Memory: 64 * mib, MemorySwap: 64 * mib}},
		"the swap limit counts memory too":                   {in: swap(64*mib, 96*mib, ""), want: container.Resources{Memory: 64 * mib, MemorySwap: 96 * mib}},
		"a swap limit of -1 is unlimited":                    {in: swap(64*mib, -1, ""), want: container.Resources{Memory: 64 * mib, MemorySwap: -1}},
		"memory.swap.max counts swap alone":                  {in: swap(64*mib, 0, "1048576"), host: v2Host, want: container.Resources{Memory: 64 * mib, MemorySwap: 65 * mib}},
		"memory.swap.max 0 is no swap":                       {in: swap(64*mib, 0, "0"), host: v2Host, want: container.Resources{Memory: 64 * mib, MemorySwap: 64 * mib}},
		"memory.swap.max max is unlimited":                   {in: swap(64*mib, 0, "max"), host: v2Host, want: container.Resources{Memory: 64 * mib, MemorySwap: -1}},
		"memory.swap.max without a memory limit is no field": {in: swap(0, 0, "0"), host: v2Host},
		"memory.swap.max without a memory limit goes to systemd": {in: swap(0, 0, "0"), host: systemdHost,
			annotations: map[string]string{"org.systemd.property.MemorySwapMax": "uint64 0"}},
		"memory.high goes to systemd, its default does not": {in: &resources{Unified: map[string]string{"memory.high": "1000000", "memory.low": "0", "memory.min": "7"}}, host: systemdHost,
			annotations: map[string]string{"org.systemd.property.MemoryHigh": "uint64 1000000", "org.systemd.property.MemoryMin": "uint64 7"}},
		"pids.max and cpuset have fields": {in: &resources{Unified: map[string]string{"pids.max": "5", "cpuset.cpus": "1", "cpuset.mems": "0"}}, host: v2Host,
			want: container.Resources{PidsLimit: &five, CpusetCpus: "1", CpusetMems: "0"}},
		"a negative quota is none":           {in: &resources{CpuQuota: -7}, want: container.Resources{CPUQuota: -1}},
		"unified on cgroup v1":               {in: swap(64*mib, 0, "0"), host: v1Host, refused: errdefs.IsFailedPrecondition},
		"a swap limit below memory":          {in: swap(64*mib, mib, ""), refused: errdefs.IsInvalidArgument},
		"a swap limit without memory":        {in: swap(0, mib, ""), refused: errdefs.IsInvalidArgument},
		"memory below Docker's minimum":      {in: swap(4*mib, 5*mib, ""), want: container.Resources{Memory: 6 * mib, MemorySwap: 6 * mib}},
		"only the memory below it":           {in: swap(4*mib, 9*mib, ""), want: container.Resources{Memory: 6 * mib, MemorySwap: 9 * mib}},
		"memory below it and unlimited swap": {in: swap(4*mib, -1, ""), want: container.Resources{Memory: 6 * mib, MemorySwap: -1}},
		"a cpu period out of range":          {in: &resources{CpuPeriod: 1}, refused: errdefs.IsInvalidArgument},
		"a cpu quota too small":              {in: &resources{CpuQuota: 1}, refused: errdefs.IsInvalidArgument},
		"negative cpu shares":                {in: &resources{CpuShares: -1}, refused: errdefs.IsInvalidArgument},
		"an oom score out of range":          {in: &resources{OomScoreAdj: 1001}, refused: errdefs.IsInvalidArgument},
		"a unified key that climbs":          {in: &resources{Unified: map[string]string{"cpu./../../x": ""}}, host: v2Host, refused: errdefs.IsInvalidArgument},
		"a unified key with a slash":         {in: &resources{Unified: map[string]string{"memory/../x.y": ""}}, host: v2Host, refused: errdefs.IsInvalidArgument},
		"a unified key of cgroup itself":     {in: &resources{Unified: map[string]string{"cgroup.kill": "1"}}, host: v2Host, refused: errdefs.IsInvalidArgument},
		"a unified value that is no number":  {in: &resources{Unified: map[string]string{"pids.max": "x"}}, host: v2Host, refused: errdefs.IsInvalidArgument},
		"a page size with a path":            {in: &resources{HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "../2MB"}}}, refused: errdefs.IsInvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			got, annotations, err := dockerResources("linux.resources", tc.in, tc.host)
			if tc.refused != nil {
				if !tc.refused(err) {
					t.Fatalf("got %+v, %v", got, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if len(annotations)+len(tc.annotations) > 0 && !cmp.Equal(tc.annotations, annotations) {
				t.Errorf("annotations %v, want %v", annotations, tc.annotations)
			}
		})
	}
}

func TestCgroupFiles(t *testing.T) {
	huge := []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 0}, {PageSize: "1GB", Limit: 7}}
	unified := &resources{Unified: map[string]string{
		"memory.high": "1000", "memory.low": "0", "memory.oom.group": "1", "memory.swap.max": "0", "pids.max": "5", "io.weight": "50",
	}}
	for name, tc := range map[string]struct {
		in     *resources
		host   Host
		update bool
		want   []CgroupFile
	}{
		"nothing asked for": {},
		"hugepages on v1": {in: &resources{HugepageLimits: huge}, host: v1Host, want: []CgroupFile{
			{"hugetlb.2MB.limit_in_bytes", "0", true}, {"hugetlb.2MB.rsvd.limit_in_bytes", "0", true},
			{"hugetlb.1GB.limit_in_bytes", "7", false}, {"hugetlb.1GB.rsvd.limit_in_bytes", "7", true}}},
		"hugepages on v2": {in: &resources{HugepageLimits: huge[:1]}, host: v2Host, want: []CgroupFile{
			{"hugetlb.2MB.max", "0", true}, {"hugetlb.2MB.rsvd.max", "0", true}}},
		"hugepages without a controller": {in: &resources{HugepageLimits: huge}, host: Host{NoHugetlb: true}},
		"what neither Docker nor a fresh cgroup has": {in: unified, host: v2Host, want: []CgroupFile{
			{"io.weight", "50", false}, {"memory.high", "1000", false}, {"memory.oom.group", "1", false}, {"memory.swap.max", "0", false}}},
		"what systemd sets need not be written": {in: unified, host: systemdHost, want: []CgroupFile{
			{"io.weight", "50", false}, {"memory.oom.group", "1", false}}},
		"an update writes defaults and systemd's too": {in: unified, host: systemdHost, update: true, want: []CgroupFile{
			{"io.weight", "50", false}, {"memory.high", "1000", false}, {"memory.low", "0", true}, {"memory.oom.group", "1", false}, {"memory.swap.max", "0", false}}},
		"an update writes the swap limit": {in: &resources{MemoryLimitInBytes: 64 * mib, MemorySwapLimitInBytes: 80 * mib}, host: v2Host, update: true,
			want: []CgroupFile{{"memory.swap.max", "16777216", true}}},
		"an update lifts the swap limit": {in: &resources{MemoryLimitInBytes: 64 * mib, MemorySwapLimitInBytes: -1, Unified: map[string]string{"memory.swap.max": "max"}},
			host: v2Host, update: true, want: []CgroupFile{{"memory.swap.max", "max", true}}},
		"an update lifts the swap limit on v1": {in: &resources{MemoryLimitInBytes: 64 * mib, MemorySwapLimitInBytes: -1}, host: v1Host, update: true,
			want: []CgroupFile{{"memory.memsw.limit_in_bytes", "-1", true}}},
		"Docker sets another swap limit on v1": {in: &resources{MemoryLimitInBytes: 64 * mib, MemorySwapLimitInBytes: 64 * mib}, host: v1Host, update: true},
	} {
		t.Run(name, func(t *testing.T) {
			got := CgroupFiles(tc.in, tc.host)
			if tc.update {
				got = CgroupFilesForUpdate(tc.in, tc.host)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestCgroupFilesToKeep(t *testing.T) {
	for host, want := range map[*Host]bool{&systemdHost: true, &v2Host: false, &v1Host: false, {CgroupDriver: "systemd"}: false} {
		if LimitsOverwritten(*host) != want {
			t.Errorf("with %s and v2 %v systemd overwrites limits: %v, want %v", host.CgroupDriver, host.CgroupV2, !want, want)
		}
	}
	got := CgroupFilesToKeep(&resources{
		MemoryLimitInBytes: 64 * mib, MemorySwapLimitInBytes: 64 * mib, HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB"}},
		Unified: map[string]string{"memory.oom.group": "1", "memory.high": "max", "hugetlb.1GB.max": "0", "cpu.weight": "7"},
	}, systemdHost)
	want := []CgroupFile{{"memory.swap.max", "0", true}, {"cpu.weight", "7", false}, {"memory.high", "max", true}, {"memory.oom.group", "1", false}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestDockerUpdate(t *testing.T) {
	running := func(r *resources) *Container {
		return &Container{ID: "c", State: runtimeapi.ContainerState_CONTAINER_RUNNING, Resources: r}
	}
	limited := running(&resources{MemoryLimitInBytes: 64 * mib, MemorySwapLimitInBytes: 64 * mib, CpuShares: 512})
	small := running(&resources{MemoryLimitInBytes: 4 * mib, MemorySwapLimitInBytes: 5 * mib})
	for name, tc := range map[string]struct {
		want    *resources
		current *Container
		host    Host
		update  container.Resources
		refused func(error) bool
	}{
		"nil changes nothing":  {current: limited},
		"zero changes nothing": {want: &resources{}, current: limited},
		"what holds already is not sent": {want: &resources{MemoryLimitInBytes: 64 * mib, CpuShares: 512, CpuQuota: 5000}, current: limited,
			update: container.Resources{CPUQuota: 5000}},
		"a memory limit brings its swap limit": {want: &resources{MemoryLimitInBytes: 128 * mib}, current: limited,
			update: container.Resources{Memory: 128 * mib, MemorySwap: 128 * mib}},
		"the amount of swap stays when memory changes": {want: &resources{MemoryLimitInBytes: 128 * mib},
			current: running(&resources{MemoryLimitInBytes: 64 * mib, MemorySwapLimitInBytes: 80 * mib}),
			update:  container.Resources{Memory: 128 * mib, MemorySwap: 144 * mib}},
		"a swap limit alone is checked against the memory limit that stays": {want: &resources{MemorySwapLimitInBytes: 100 * mib}, current: limited,
			update: container.Resources{Memory: 64 * mib, MemorySwap: 100 * mib}},
		"a first memory limit allows no swap": {want: &resources{MemoryLimitInBytes: 64 * mib}, current: running(&resources{}),
			update: container.Resources{Memory: 64 * mib, MemorySwap: 64 * mib}},
		"a quota is lifted by -1": {want: &resources{CpuQuota: -1}, current: running(&resources{CpuQuota: 5000}),
			update: container.Resources{CPUQuota: -1}},
		"a limit below Docker's minimum stays": {want: &resources{MemoryLimitInBytes: 4 * mib, CpuShares: 3}, current: small, update: container.Resources{CPUShares: 3}},
		"it is raised":                         {want: &resources{MemoryLimitInBytes: 6 * mib}, current: small, update: container.Resources{Memory: 6 * mib, MemorySwap: 7 * mib}},
		"it is lowered":                        {want: &resources{MemoryLimitInBytes: 3 * mib}, current: small, refused: errdefs.IsInvalidArgument},
		"its swap limit is raised":             {want: &resources{MemorySwapLimitInBytes: 9 * mib}, current: small, refused: errdefs.IsInvalidArgument},
		"a limit is lowered below the minimum": {want: &resources{MemoryLimitInBytes: 4 * mib}, current: limited, refused: errdefs.IsInvalidArgument},
		"a memory limit can't be lifted":       {want: &resources{MemoryLimitInBytes: -1}, current: limited, refused: errdefs.IsInvalidArgument},
		"an exited container is not updated": {want: &resources{CpuShares: 3},
			current: &Container{State: runtimeapi.ContainerState_CONTAINER_EXITED}, refused: errdefs.IsFailedPrecondition},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := DockerUpdate(tc.want, tc.current, tc.host)
			if tc.refused != nil {
				if !tc.refused(err) {
					t.Fatalf("got %+v, %v", got, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(container.UpdateConfig{Resources: tc.update}, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if EmptyUpdate(got) != cmp.Equal(tc.update, container.Resources{}) {
				t.Errorf("EmptyUpdate says %v of %+v", EmptyUpdate(got), got)
			}
		})
	}
}

func TestMergeResources(t *testing.T) {
	base := &resources{CpuShares: 1, MemoryLimitInBytes: 2, MemorySwapLimitInBytes: 3, Unified: map[string]string{"a.b": "1", "c.d": "1"},
		HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 1}, {PageSize: "1GB", Limit: 1}}}
	got := MergeResources(base, &resources{CpuShares: 9, Unified: map[string]string{"c.d": "2"},
		HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 5}}})
	want := &resources{CpuShares: 9, MemoryLimitInBytes: 2, MemorySwapLimitInBytes: 3, Unified: map[string]string{"a.b": "1", "c.d": "2"},
		HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "1GB", Limit: 1}, {PageSize: "2MB", Limit: 5}}}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if base.CpuShares != 1 || base.Unified["c.d"] != "1" || len(base.HugepageLimits) != 2 {
		t.Error("the base was changed")
	}
	for name, tc := range map[string]struct{ update, want *resources }{
		"the amount of swap stays with another memory limit": {&resources{MemoryLimitInBytes: 10}, &resources{MemoryLimitInBytes: 10, MemorySwapLimitInBytes: 11}},
		"unlimited swap": {&resources{MemorySwapLimitInBytes: -1}, &resources{MemoryLimitInBytes: 2, MemorySwapLimitInBytes: -1}},
		"memory.swap.max counts swap alone": {&resources{MemoryLimitInBytes: 10, Unified: map[string]string{"memory.swap.max": "5"}},
			&resources{MemoryLimitInBytes: 10, MemorySwapLimitInBytes: 15}},
	} {
		got := MergeResources(base, tc.update)
		if got.MemoryLimitInBytes != tc.want.MemoryLimitInBytes || got.MemorySwapLimitInBytes != tc.want.MemorySwapLimitInBytes {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
	if got := MergeResources(nil, nil); got == nil {
		t.Error("nothing merged with nothing is nil")
	}
}

func TestDockerRevert(t *testing.T) {
	limit := int64(10)
	update := container.UpdateConfig{Resources: container.Resources{
		CPUPeriod: 50000, CPUQuota: 20000, CPUShares: 100, Memory: 64 << 20, MemorySwap: 64 << 20, CpusetCpus: "0-1", PidsLimit: &limit,
	}}
	none := int64(-1)
	for name, tc := range map[string]struct {
		had  *runtimeapi.LinuxContainerResources
		want container.Resources
	}{
		"to limits": {
			&runtimeapi.LinuxContainerResources{CpuPeriod: 1000, CpuQuota: 2000, CpuShares: 3, MemoryLimitInBytes: 32 << 20, MemorySwapLimitInBytes: 33 << 20, CpusetCpus: "0"},
			container.Resources{CPUPeriod: 1000, CPUQuota: 2000, CPUShares: 3, Memory: 32 << 20, MemorySwap: 33 << 20, CpusetCpus: "0", PidsLimit: &none},
		},
		"to none": {nil, container.Resources{CPUPeriod: 100000, CPUQuota: -1, CPUShares: 1024, MemorySwap: -1, PidsLimit: &none}},
	} {
		if diff := cmp.Diff(tc.want, DockerRevert(update, tc.had).Resources); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if back := DockerRevert(container.UpdateConfig{}, &runtimeapi.LinuxContainerResources{CpuShares: 1, CpusetMems: "0"}); !EmptyUpdate(back) {
		t.Errorf("nothing is taken back by %+v", back)
	}
}
