package translate

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestEncoded: a message kept in wire form reads like its original.
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
	for name, tc := range map[string]struct {
		want proto.Message
		got  []byte
	}{
		"sandbox, ready":         {CRISandbox(s, true), EncodedSandbox(s, true)},
		"sandbox, not ready":     {CRISandbox(s, false), EncodedSandbox(s, false)},
		"container":              {CRIContainer(c), EncodedContainer(c)},
		"container status":       {CRIContainerStatus(c), EncodedContainerStatus(c)},
		"status after an update": {CRIContainerStatus(resized), EncodedContainerStatus(resized)},
	} {
		t.Run(name, func(t *testing.T) {
			got := tc.want.ProtoReflect().New().Interface()
			if err := proto.Unmarshal(tc.got, got); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got, protocmp.Transform()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if got := CRIContainerStatus(resized).Resources.Linux.CpuShares; got != 77 || c.Resources.GetCpuShares() == 77 {
		t.Errorf("%d CPU shares after an update, %d before", got, c.Resources.GetCpuShares())
	}
}
