package images

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
	"github.com/google/go-cmp/cmp"

	"github.com/cridock/cridock/translate"
)

// containers is an engine's containers: their names by ID. The ID of a
// container created here is its name.
type containers struct {
	byID      map[string]string
	host      *container.HostConfig
	config    *container.Config
	filter    []string
	removeErr error
}

func (c *containers) ContainerCreate(_ context.Context, name string, cfg *container.Config, host *container.HostConfig, _ *network.NetworkingConfig) (string, error) {
	c.byID[name], c.config, c.host = "/"+name, cfg, host
	return name, nil
}

// ContainerList returns all containers: the engine's filter is a regular
// expression, which the code under test must not rely on.
func (c *containers) ContainerList(_ context.Context, f filters.Args) ([]container.Summary, error) {
	c.filter = f.Get("name")
	var list []container.Summary
	for id, name := range c.byID {
		list = append(list, container.Summary{ID: id, Names: []string{"/link/" + id, name}})
	}
	return list, nil
}

func (c *containers) ContainerRemove(ctx context.Context, id string) error {
	if err := errors.Join(ctx.Err(), c.removeErr); err != nil {
		return err
	}
	if _, ok := c.byID[id]; !ok {
		return errdefs.ErrNotFound
	}
	delete(c.byID, id)
	return nil
}

func TestLook(t *testing.T) {
	broken, stuck := errors.New("broken"), errors.New("stuck")
	for _, tc := range []struct {
		name              string
		look, remove      error
		removed, cancel   bool
		want              []error
		remainingAfterAll int
	}{
		{name: "success"},
		{name: "a look that fails", look: broken, want: []error{broken}},
		{name: "a caller that leaves", cancel: true},
		{name: "a probe that somebody has removed", removed: true},
		{name: "a probe that stays", look: broken, remove: stuck, want: []error{broken, stuck}, remainingAfterAll: 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := &containers{byID: map[string]string{}, removeErr: tc.remove}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			err := NewProbes(NewUnstarted(c), "me").Look(ctx, translate.Image{ID: "sha256:1", Volumes: []string{"/data/", "/"}}, func(id string) error {
				if !strings.HasPrefix(c.byID[id], "/cridock_probe_me_") || c.config.Image != "sha256:1" || c.host.NetworkMode != "none" || c.host.LogConfig.Type != "none" || len(c.host.Mounts) != 1 || c.host.Mounts[0].Target != "/data" {
					t.Errorf("probe %s (%s) of %s, host %+v", id, c.byID[id], c.config.Image, c.host)
				}
				if tc.cancel {
					cancel()
				}
				if tc.removed {
					delete(c.byID, id)
				}
				return tc.look
			})
			if (err == nil) != (len(tc.want) == 0) {
				t.Errorf("err = %v, want %v", err, tc.want)
			}
			for _, want := range tc.want {
				if !errors.Is(err, want) {
					t.Errorf("err = %v, want %v as well", err, want)
				}
			}
			if len(c.byID) != tc.remainingAfterAll {
				t.Errorf("remaining: %v", c.byID)
			}
		})
	}
}

// TestCollectProbes removes what other processes have left behind and nothing
// else.
func TestCollectProbes(t *testing.T) {
	c := &containers{byID: map[string]string{
		"mine":   "/cridock_probe_me_1",
		"left":   "/cridock_probe_you_1",
		"longer": "/cridock_probe_me2_1",
		"app":    "/app_cridock_probe_you_1",
		"pod":    "/k8s_POD_web",
	}}
	if err := NewProbes(NewUnstarted(c), "me").Collect(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"app", "mine", "pod"}, slices.Sorted(maps.Keys(c.byID))); diff != "" {
		t.Errorf("remaining (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"^/cridock_probe_"}, c.filter); diff != "" {
		t.Errorf("filter (-want +got):\n%s", diff)
	}
	c.byID["left"], c.removeErr = "/cridock_probe_you_1", errdefs.ErrConflict
	if err := NewProbes(NewUnstarted(c), "me").Collect(t.Context()); !errdefs.IsConflict(err) {
		t.Errorf("err = %v, want conflict", err)
	}
}
