package images

import (
	"context"
	"regexp"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/network"

	"github.com/cridock/cridock/translate"
)

// UnstartedEngine is what [Unstarted] needs of the engine; see engine.Containers.
type UnstartedEngine interface {
	ContainerCreate(ctx context.Context, name string, cfg *container.Config, host *container.HostConfig, net *network.NetworkingConfig) (string, error)
	ContainerList(ctx context.Context, f filters.Args) ([]container.Summary, error)
	ContainerRemove(ctx context.Context, id string) error
}

// Unstarted manages containers that are created only to access or hold an image and
// are never started. They are recognized by their names, since labels can come from
// the image.
type Unstarted struct{ engine UnstartedEngine }

// NewUnstarted returns an Unstarted.
func NewUnstarted(e UnstartedEngine) *Unstarted { return &Unstarted{engine: e} }

// Create creates a container of an image and returns its ID. errdefs.ErrConflict:
// the name is taken. The container has the image's files only: for volumes that the image
// declares Docker would copy their content, and mount them whenever a file is read, which
// Docker 28.5.2 of Debian can't do at an absolute link.
func (u *Unstarted) Create(ctx context.Context, name string, image translate.Image) (id string, err error) {
	var instead []mount.Mount
	for _, target := range translate.VolumePaths(image) {
		instead = append(instead, mount.Mount{Type: mount.TypeTmpfs, Target: target}) // made at a start only
	}
	return u.engine.ContainerCreate(ctx, name, &container.Config{Image: image.ID, Entrypoint: []string{"/never-started"}},
		&container.HostConfig{NetworkMode: "none", LogConfig: container.LogConfig{Type: "none"}, Mounts: instead}, nil)
}

// Named maps the IDs of the containers whose names begin with prefix to the rest of
// the name.
func (u *Unstarted) Named(ctx context.Context, prefix string) (map[string]string, error) {
	list, err := u.engine.ContainerList(ctx, filters.NewArgs(filters.Arg("name", "^/"+regexp.QuoteMeta(prefix))))
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	for _, c := range list {
		for _, name := range c.Names {
			if rest, ok := strings.CutPrefix(name, "/"+prefix); ok {
				found[c.ID] = rest
			}
		}
	}
	return found, nil
}

// Remove removes a container; a missing one is success.
func (u *Unstarted) Remove(ctx context.Context, id string) error {
	if err := u.engine.ContainerRemove(ctx, id); !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}
