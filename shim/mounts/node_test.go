package mounts_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/shim/engine"
	"github.com/cridock/cridock/shim/mounts"
	"github.com/cridock/cridock/translate"
)

// node is a Preparer with a directory, an engine and Kubernetes' containers.
type node struct {
	*mounts.Preparer
	t         *testing.T
	dir       string
	options   mounts.Options
	host      translate.Host
	docker    *docker
	pods      *pods
	artifacts map[string]string // directories, by ID
}

// newNode returns a node whose engine has neither image mounts nor CDI.
func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{t: t, dir: t.TempDir(), docker: &docker{containers: map[string]string{}, images: map[string]image.InspectResponse{}}, pods: &pods{byID: map[string]*translate.Container{}}}
	n.options = mounts.Options{
		ImageVolumeDir: filepath.Join(n.dir, "volumes"), Instance: n.dir,
		Engine: n.docker, Unstarted: n.docker, Index: n.pods, Host: func() translate.Host { return n.host },
		Image: func(_ context.Context, ref string) (translate.Image, error) {
			if _, ok := n.docker.images[ref]; !ok {
				return translate.Image{}, fmt.Errorf("image %s: %w", ref, errdefs.ErrNotFound)
			}
			return translate.Image{ID: ref}, nil
		},
		Artifact: func(_ context.Context, imageID string) (string, bool, error) {
			return n.artifacts[imageID], n.artifacts[imageID] != "", nil
		},
		LookInto: func(_ context.Context, image translate.Image, look func(string) error) error {
			return look("probe of " + image.ID)
		},
	}
	n.restart()
	t.Cleanup(func() {
		err := unix.Unmount(n.options.ImageVolumeDir, unix.MNT_DETACH)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EPERM) {
			t.Error(err)
		}
	})
	return n
}

// restart replaces the Preparer by that of a new process.
func (n *node) restart() { n.Preparer = mounts.New(n.options) }

func (n *node) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

// resolve resolves the mounts of a container named name.
func (n *node) resolve(name string, list ...*runtimeapi.Mount) ([]translate.ResolvedMount, error) {
	r, err := n.Resolve(n.t.Context(), &runtimeapi.ContainerConfig{Mounts: list}, "", name)
	return r.Mounts, err
}

// create adds a container to the index.
func (n *node) create(name string) { n.pods.byID[name] = &translate.Container{ID: name, Name: name} }

func (n *node) path(name string) string { return filepath.Join(n.dir, name) }

func (n *node) write(name, content string) string {
	n.t.Helper()
	path := n.path(name)
	n.must(os.MkdirAll(filepath.Dir(path), 0o755))
	n.must(os.WriteFile(path, []byte(content), 0o600))
	return path
}

// names lists a directory of the node; a missing one is empty.
func (n *node) names(dir string) []string {
	n.t.Helper()
	entries, err := os.ReadDir(n.path(dir))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		n.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// pods is an index.
type pods struct {
	byID map[string]*translate.Container
	lost error // of listing
}

func (p *pods) Container(_ context.Context, id string) (*translate.Container, error) {
	if c, ok := p.byID[id]; ok {
		return c, nil
	}
	return nil, fmt.Errorf("container %s: %w", id, errdefs.ErrNotFound)
}

func (p *pods) Containers(context.Context) ([]*translate.Container, error) {
	return slices.Collect(maps.Values(p.byID)), p.lost
}

// docker is an engine reduced to what the Preparer can see.
type docker struct {
	caps       engine.Capabilities
	containers map[string]string // names by ID
	images     map[string]image.InspectResponse
	file       error            // of reading any file
	fail       map[string]error // by call
	inspected  []string
}

func (d *docker) names() []string {
	return slices.Sorted(maps.Values(d.containers))
}

func (d *docker) Capabilities() *engine.Capabilities { return &d.caps }

func (d *docker) Create(_ context.Context, name string, image translate.Image) (string, error) {
	if err := d.fail["create"]; err != nil {
		return "", err
	}
	if slices.Contains(d.names(), name) {
		return "", fmt.Errorf("container name %s: %w", name, errdefs.ErrConflict)
	}
	if _, ok := d.images[image.ID]; !ok {
		return "", fmt.Errorf("image %s: %w", image.ID, errdefs.ErrNotFound)
	}
	id := "id of " + name
	d.containers[id] = name
	return id, nil
}

func (d *docker) Named(_ context.Context, prefix string) (map[string]string, error) {
	found := map[string]string{}
	for id, name := range d.containers {
		if rest, ok := strings.CutPrefix(name, prefix); ok {
			found[id] = rest
		}
	}
	return found, d.fail["list"]
}

func (d *docker) Remove(_ context.Context, id string) error {
	if err := d.fail["remove"]; err != nil {
		return err
	}
	delete(d.containers, id)
	return nil
}

func (d *docker) ContainerFile(context.Context, string, string, int64) ([]byte, error) {
	return nil, d.file
}

func (d *docker) ContainerInspect(_ context.Context, id string) (container.InspectResponse, error) {
	d.inspected = append(d.inspected, id)
	return container.InspectResponse{ContainerJSONBase: &container.ContainerJSONBase{MountLabel: "system_u:object_r:container_file_t:s0:c1,c2"}}, nil
}

func (d *docker) ImageInspect(_ context.Context, ref string) (image.InspectResponse, error) {
	return d.images[ref], nil
}

// hash is how a name appears in the names of files and containers. An upgrade
// must find those of the previous release.
func hash(v string) string {
	sum := sha256.Sum256([]byte(v))
	return hex.EncodeToString(sum[:10])
}
