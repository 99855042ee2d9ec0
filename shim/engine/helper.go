package engine

import (
	"context"
	"regexp"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
)

// NeverStarted describes a container that is created only to access or hold an
// image.
func NeverStarted(imageID string) (*container.Config, *container.HostConfig) {
	return &container.Config{Image: imageID, Entrypoint: []string{"/never-started"}},
		&container.HostConfig{NetworkMode: "none", LogConfig: container.LogConfig{Type: "none"}}
}

// lister is the part of Containers that Named needs.
type lister interface {
	ContainerList(ctx context.Context, f filters.Args) ([]container.Summary, error)
}

// Named maps the IDs of the containers whose names begin with prefix to the rest of
// the name. A name identifies cridock's own helper containers: labels can come from
// the image.
func Named(ctx context.Context, containers lister, prefix string) (map[string]string, error) {
	list, err := containers.ContainerList(ctx, filters.NewArgs(filters.Arg("name", "^/"+regexp.QuoteMeta(prefix))))
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
