package translate

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// sent returns m as its receiver reads it.
func sent[M proto.Message](t *testing.T, m M) M {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if n := proto.Size(m); n != len(b) {
		t.Errorf("size %d, want %d", n, len(b))
	}
	out := m.ProtoReflect().New().Interface().(M)
	if err := proto.Unmarshal(b, out); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestEncoded: a message kept in wire form reads like its original, alone and as
// part of a response.
func TestEncoded(t *testing.T) {
	s, err := ReadSandbox(createdSandbox(t), nil, fullHost)
	if err != nil {
		t.Fatal(err)
	}
	c, err := ReadContainer(createdContainer(t), nil, fullHost)
	if err != nil {
		t.Fatal(err)
	}
	resized := c.WithResources(&runtimeapi.LinuxContainerResources{CpuShares: 77})
	for name, tc := range map[string]struct{ want, got proto.Message }{
		"sandbox, ready":         {CRISandbox(s, true), sent(t, EncodedSandbox(s, true))},
		"sandbox, not ready":     {CRISandbox(s, false), sent(t, EncodedSandbox(s, false))},
		"container":              {CRIContainer(c), sent(t, EncodedContainer(c))},
		"container status":       {CRIContainerStatus(c), sent(t, EncodedContainerStatus(c))},
		"status after an update": {CRIContainerStatus(resized), sent(t, EncodedContainerStatus(resized))},
		"list": {
			&runtimeapi.ListContainersResponse{Containers: []*runtimeapi.Container{CRIContainer(c), CRIContainer(resized)}},
			sent(t, &runtimeapi.ListContainersResponse{Containers: []*runtimeapi.Container{EncodedContainer(c), EncodedContainer(resized)}}),
		},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, tc.got, protocmp.Transform()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if got := CRIContainerStatus(resized).Resources.Linux.CpuShares; got != 77 || c.Resources.GetCpuShares() == 77 {
		t.Errorf("%d CPU shares after an update, %d before", got, c.Resources.GetCpuShares())
	}
}
