package limits

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/translate"
)

func TestPods(t *testing.T) {
	store := newFakeStore()
	sb := &translate.Sandbox{ID: "sandbox", Metadata: &runtimeapi.PodSandboxMetadata{Name: "pod", Namespace: "default", Uid: "uid"}}
	requested := &runtimeapi.PodSandboxConfig{Hostname: "pod"}
	check := func(want *runtimeapi.PodSandboxConfig) {
		t.Helper()
		got, err := NewPods(store).Config(sb, requested)
		if err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("configuration (-want +got):\n%s", diff)
		}
	}
	update := func(overhead, resources *linuxResources) error {
		return NewPods(store).Update(sb, &runtimeapi.UpdatePodSandboxResourcesRequest{Overhead: overhead, Resources: resources})
	}
	check(nil)
	for _, err := range []error{
		update(&linuxResources{CpuShares: 2}, &linuxResources{CpuShares: 3, CpuQuota: 7}), update(nil, nil), update(nil, &linuxResources{CpuShares: 4}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	check(&runtimeapi.PodSandboxConfig{Hostname: "pod", Linux: &runtimeapi.LinuxPodSandboxConfig{
		Overhead: &linuxResources{CpuShares: 2}, Resources: &linuxResources{CpuShares: 4},
	}})
	if requested.Linux != nil {
		t.Error("the requested configuration was changed")
	}

	// The limits of an earlier sandbox with the name are neither read nor merged.
	sb.ID = "another"
	check(nil)
	if err := update(&linuxResources{CpuShares: 5}, nil); err != nil {
		t.Fatal(err)
	}
	check(&runtimeapi.PodSandboxConfig{Hostname: "pod", Linux: &runtimeapi.LinuxPodSandboxConfig{Overhead: &linuxResources{CpuShares: 5}}})

	store.write = errors.New("full")
	if err := update(nil, &linuxResources{}); !errors.Is(err, store.write) {
		t.Errorf("%v; want why it is not stored", err)
	}
	store.write = nil
	for what, doc := range map[string]string{"damaged": "{", "unreadable": ""} {
		store.docs[translate.SandboxName(sb.Metadata)] = []byte(doc)
		if _, err := NewPods(store).Config(sb, requested); err == nil {
			t.Errorf("a document that is %s was read", what)
		}
		if err := update(nil, &linuxResources{}); err == nil {
			t.Errorf("a document that is %s was replaced", what)
		}
	}
}
