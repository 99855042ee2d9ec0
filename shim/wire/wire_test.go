package wire_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/shim/wire"
)

// Field numbers of ListContainersResponse and ContainerStatusResponse.
const (
	containersField = 1
	statusField     = 1
)

func encode(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestResponse: the receiver reads what it would have read without this
// package, below and above the size at which buffers are pooled.
func TestResponse(t *testing.T) {
	for _, n := range []int{0, 1, 3, 500} {
		t.Run(fmt.Sprint(n, " containers"), func(t *testing.T) {
			want := &runtimeapi.ListContainersResponse{}
			r := wire.New(&runtimeapi.ListContainersResponse{})
			for i := range n {
				c := &runtimeapi.Container{Id: fmt.Sprint(i), Labels: map[string]string{"a": strings.Repeat("b", i)}}
				want.Containers = append(want.Containers, c)
				r.Add(containersField, encode(t, c))
			}
			check(t, r, want, &runtimeapi.ListContainersResponse{})
		})
	}
	t.Run("with other fields", func(t *testing.T) {
		want := &runtimeapi.ContainerStatusResponse{
			Status: &runtimeapi.ContainerStatus{Id: "c", Message: strings.Repeat("m", 5000)}, Info: map[string]string{"info": "{}"},
		}
		r := wire.New(&runtimeapi.ContainerStatusResponse{Info: want.Info})
		r.Add(statusField, encode(t, want.Status))
		check(t, r, want, &runtimeapi.ContainerStatusResponse{})
	})
}

func check(t *testing.T, r *wire.Response, want, got proto.Message) {
	t.Helper()
	buffers, err := wire.NewCodec().Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	defer buffers.Free()
	if buffers.Len() != proto.Size(want) {
		t.Errorf("%d bytes, want %d", buffers.Len(), proto.Size(want))
	}
	if err := wire.NewCodec().Unmarshal(buffers, got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestOtherMessages: the codec sends other messages as gRPC's own codec does.
func TestOtherMessages(t *testing.T) {
	want := &runtimeapi.VersionResponse{RuntimeName: "docker"}
	buffers, err := wire.NewCodec().Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	defer buffers.Free()
	got := &runtimeapi.VersionResponse{}
	if err := wire.NewCodec().Unmarshal(buffers, got); err != nil || got.RuntimeName != want.RuntimeName {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	if _, err := wire.NewCodec().Marshal("no message"); err == nil {
		t.Error("a string was encoded")
	}
}

// TestUnencodable: a message that cannot be encoded, now or earlier, is an error, not
// a panic. An empty one is none.
func TestUnencodable(t *testing.T) {
	r := wire.New(&runtimeapi.ListContainersResponse{})
	r.Add(containersField, nil)
	if _, err := wire.NewCodec().Marshal(r); err == nil {
		t.Error("a message that could not be encoded was sent")
	}
	r = wire.New(&runtimeapi.ListContainersResponse{})
	r.Add(containersField, encode(t, &runtimeapi.Container{}))
	check(t, r, &runtimeapi.ListContainersResponse{Containers: []*runtimeapi.Container{{}}}, &runtimeapi.ListContainersResponse{})
	for _, size := range []int{1, 5000} {
		r := wire.New(&runtimeapi.ContainerStatusResponse{Info: map[string]string{"info": strings.Repeat("\xff", size)}})
		if _, err := wire.NewCodec().Marshal(r); err == nil {
			t.Errorf("invalid UTF-8 of %d bytes was encoded", size)
		}
	}
}
