package images

import (
	"context"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/translate"
)

// remover is an engine, its containers and a record of calls.
type remover struct {
	containers    []*translate.Container
	err, indexErr error
	calls         []string
}

func (r *remover) Containers(context.Context) ([]*translate.Container, error) {
	return r.containers, r.indexErr
}

func (r *remover) ImageRemove(_ context.Context, ref string, force bool) error {
	if force {
		ref += " with all references"
	}
	r.calls = append(r.calls, "remove "+ref)
	return r.err
}

func (r *remover) removed(_ context.Context, imageID string) error {
	r.calls = append(r.calls, "removed "+imageID)
	return nil
}

func TestRemove(t *testing.T) {
	const running, exited = runtimeapi.ContainerState_CONTAINER_RUNNING, runtimeapi.ContainerState_CONTAINER_EXITED
	volume := []*runtimeapi.Mount{{}, {Image: &runtimeapi.ImageSpec{ImageRef: "sha256:1"}}}
	const gone = "remove sha256:1 with all references, removed sha256:1"
	for _, tc := range []struct {
		name          string
		container     translate.Container
		err, indexErr error
		calls         string
		want          func(error) bool
	}{
		{"not used", translate.Container{State: running, ImageID: "sha256:2"}, nil, nil, gone, nil},
		{"missing", translate.Container{}, errdefs.ErrNotFound, nil, gone, nil},
		{"of a container that has exited", translate.Container{State: exited, ImageID: "sha256:1", Mounts: volume}, nil, nil, gone, nil},
		{"of a running container", translate.Container{ID: "c", State: running, ImageID: "sha256:1"}, nil, nil, "", errdefs.IsFailedPrecondition},
		{"a volume of a running container", translate.Container{ID: "c", State: running, ImageID: "sha256:2", Mounts: volume}, nil, nil, "", errdefs.IsFailedPrecondition},
		{"containers unknown", translate.Container{}, nil, errdefs.ErrUnavailable, "", errdefs.IsUnavailable},
		{"refused", translate.Container{}, errdefs.ErrConflict, nil, "remove sha256:1 with all references", errdefs.IsConflict},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := &remover{containers: []*translate.Container{&tc.container}, err: tc.err, indexErr: tc.indexErr}
			err := NewRemover(r, r, r.removed).Remove(t.Context(), "sha256:1")
			if (tc.want == nil) != (err == nil) || tc.want != nil && !tc.want(err) {
				t.Errorf("Remove = %v", err)
			}
			if got := strings.Join(r.calls, ", "); got != tc.calls {
				t.Errorf("calls: %q, want %q", got, tc.calls)
			}
		})
	}
}

// TestUnmounted: an artifact stays for all containers that may run.
func TestUnmounted(t *testing.T) {
	volume := []*runtimeapi.Mount{{}, {Image: &runtimeapi.ImageSpec{ImageRef: "sha256:1"}}}
	for state, free := range map[runtimeapi.ContainerState]bool{
		runtimeapi.ContainerState_CONTAINER_CREATED: false, runtimeapi.ContainerState_CONTAINER_RUNNING: false,
		runtimeapi.ContainerState_CONTAINER_EXITED: true, runtimeapi.ContainerState_CONTAINER_UNKNOWN: false,
	} {
		r := &remover{containers: []*translate.Container{{ID: "c", State: state, Mounts: volume}}}
		if err := NewRemover(r, r, r.removed).Unmounted(t.Context(), "sha256:1"); (err == nil) != free || err != nil && !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%v: %v", state, err)
		}
		if err := NewRemover(r, r, r.removed).Unmounted(t.Context(), "sha256:2"); err != nil {
			t.Errorf("%v, another artifact: %v", state, err)
		}
	}
	r := &remover{indexErr: errdefs.ErrUnavailable}
	if err := NewRemover(r, r, r.removed).Unmounted(t.Context(), "sha256:1"); !errdefs.IsUnavailable(err) {
		t.Errorf("containers unknown: %v", err)
	}
}
