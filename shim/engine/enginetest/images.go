package enginetest

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/registry"
	"github.com/docker/docker/api/types/storage"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is an image in the engine or in the registry it pulls from.
type Image struct {
	// ID is a digest; if empty, one is generated.
	ID string
	// Tags and Digests are familiar names ("busybox:1"), as Docker prints them.
	Tags, Digests []string
	Size          int64
	Config        ocispec.ImageConfig
	// Files are the content of regular files, by absolute path.
	Files map[string]string
	// Layers are the directories that the storage driver, overlay2, reports for the
	// image, uppermost first; empty for a driver that reports none.
	Layers []string
	// Pull, if set, decides a pull's progress and outcome. ctx ends when the engine
	// notices that the client has left. auth is the decoded X-Registry-Auth header.
	Pull func(ctx context.Context, progress func(status string), auth string) error

	created time.Time
}

// hasDir reports whether a file is below a directory.
func (i *Image) hasDir(dir string) bool {
	for name := range i.Files {
		if strings.HasPrefix(name, strings.TrimSuffix(dir, "/")+"/") {
			return true
		}
	}
	return false
}

// clone returns a copy of an image passed in by a test, with defaults filled in.
func (i Image) clone(ref string) *Image {
	if i.ID == "" {
		sum := sha256.Sum256([]byte("image " + ref))
		i.ID = "sha256:" + hex.EncodeToString(sum[:])
	}
	i.Tags, i.Digests, i.Size = slices.Clone(i.Tags), slices.Clone(i.Digests), cmp.Or(i.Size, 1<<20)
	i.created = time.Now().UTC()
	if len(i.Config.Entrypoint)+len(i.Config.Cmd) == 0 {
		i.Config.Cmd = []string{"sleep", "1000"}
	}
	return &i
}

// fill completes a container's configuration from the image.
func (i *Image) fill(c *container.Config) {
	if len(c.Entrypoint) == 0 {
		c.Entrypoint = i.Config.Entrypoint
		if len(c.Cmd) == 0 {
			c.Cmd = i.Config.Cmd
		}
	}
	c.User, c.WorkingDir, c.StopSignal = cmp.Or(c.User, i.Config.User), cmp.Or(c.WorkingDir, i.Config.WorkingDir), cmp.Or(c.StopSignal, i.Config.StopSignal)
	labels := maps.Clone(i.Config.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, c.Labels)
	c.Labels = labels
	for _, e := range i.Config.Env {
		key, _, _ := strings.Cut(e, "=")
		if !slices.ContainsFunc(c.Env, func(have string) bool { return strings.HasPrefix(have, key+"=") }) {
			c.Env = append(c.Env, e)
		}
	}
}

// AddImage adds an image to the engine under ref (a tag, or name@digest) and
// returns its ID. An existing image gets one more reference.
func (s *Server) AddImage(ref string, i Image) string {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	id, err := s.addImage(ref, i)
	if err != nil {
		s.t.Fatal(err)
	}
	return id
}

// Publish makes an image available for pulls by ref.
func (s *Server) Publish(ref string, i Image) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.registry[familiar(ref)] = i
}

func (s *Server) addImage(ref string, i Image) (string, error) {
	img := i.clone(ref)
	if have := s.images[img.ID]; have != nil {
		img = have
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return "", fmt.Errorf("image %q: %w", ref, err)
	}
	name := reference.FamiliarString(named)
	for _, other := range s.images {
		other.Tags = slices.DeleteFunc(other.Tags, func(t string) bool { return t == name })
	}
	list := &img.Tags
	if _, ok := named.(reference.Digested); ok {
		list = &img.Digests
	}
	if !slices.Contains(*list, name) {
		*list = append(*list, name)
	}
	s.images[img.ID] = img
	s.events.send(events.ImageEventType, "tag", img.ID, map[string]string{"name": name})
	return img.ID, nil
}

func familiar(ref string) string {
	if named, err := reference.ParseNormalizedNamed(ref); err == nil {
		return reference.FamiliarString(named)
	}
	return ref
}

// imageByRefLocked finds an image by name, ID or prefix of one.
func (s *Server) imageByRefLocked(ref string) *Image {
	id, name := "sha256:"+strings.TrimPrefix(ref, "sha256:"), familiar(ref)
	if img := s.images[id]; img != nil {
		return img
	}
	if named, err := reference.ParseNormalizedNamed(ref); err == nil && reference.IsNameOnly(named) {
		name += ":latest"
	}
	var byPrefix *Image
	for _, img := range s.images {
		if slices.Contains(img.Tags, name) || slices.Contains(img.Digests, name) {
			return img
		}
		if len(ref) > 0 && strings.HasPrefix(img.ID, id) {
			byPrefix = img
		}
	}
	return byPrefix
}

func (s *Server) listImages(w http.ResponseWriter, _ *http.Request, _ string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := []image.Summary{}
	for _, i := range s.images {
		list = append(list, image.Summary{
			ID: i.ID, RepoTags: i.Tags, RepoDigests: i.Digests, Size: i.Size, Created: i.created.Unix(),
			Containers: -1, SharedSize: -1, Labels: i.Config.Labels,
		})
	}
	return reply(w, http.StatusOK, list)
}

func (s *Server) inspectImage(w http.ResponseWriter, _ *http.Request, ref string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.imageByRefLocked(ref)
	if i == nil {
		return errorf(http.StatusNotFound, "No such image: %s", ref)
	}
	return reply(w, http.StatusOK, image.InspectResponse{
		GraphDriver: i.graphDriver(),
		ID:          i.ID, RepoTags: i.Tags, RepoDigests: i.Digests, Size: i.Size, Created: i.created.Format(time.RFC3339Nano),
		Architecture: "amd64", Os: "linux", Config: &dockerspec.DockerOCIImageConfig{ImageConfig: i.Config},
		RootFS: image.RootFS{Type: "layers", Layers: []string{i.ID}},
	})
}

func (i *Image) graphDriver() storage.DriverData {
	if len(i.Layers) == 0 {
		return storage.DriverData{Name: "vfs"}
	}
	data := map[string]string{"UpperDir": i.Layers[0]}
	if lower := i.Layers[1:]; len(lower) > 0 {
		data["LowerDir"] = strings.Join(lower, ":")
	}
	return storage.DriverData{Name: "overlay2", Data: data}
}

func (s *Server) imageHistory(w http.ResponseWriter, _ *http.Request, ref string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.imageByRefLocked(ref)
	if i == nil {
		return errorf(http.StatusNotFound, "No such image: %s", ref)
	}
	return reply(w, http.StatusOK, []image.HistoryResponseItem{{ID: i.ID, Created: i.created.Unix(), Size: i.Size, Tags: i.Tags}})
}

func (s *Server) removeImage(w http.ResponseWriter, r *http.Request, ref string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.imageByRefLocked(ref)
	if i == nil {
		return errorf(http.StatusNotFound, "No such image: %s", ref)
	}
	force := r.FormValue("force") == "1"
	byID := strings.HasPrefix(i.ID, "sha256:"+strings.TrimPrefix(ref, "sha256:"))
	names := len(i.Tags) + len(i.Digests)
	if byID || names == 1 {
		if err := s.removable(i, ref, force, byID && names > 1); err != nil {
			return err
		}
	}
	gone := []image.DeleteResponse{}
	untag := func(list []string) []string {
		return slices.DeleteFunc(list, func(name string) bool {
			if !byID && name != familiar(ref) && name != familiar(ref)+":latest" {
				return false
			}
			gone = append(gone, image.DeleteResponse{Untagged: name})
			s.events.send(events.ImageEventType, "untag", i.ID, map[string]string{"name": i.ID})
			return true
		})
	}
	i.Tags, i.Digests = untag(i.Tags), untag(i.Digests)
	if len(i.Tags) == 0 && (byID || len(i.Digests) == 0) {
		delete(s.images, i.ID)
		gone = append(gone, image.DeleteResponse{Deleted: i.ID})
		s.events.send(events.ImageEventType, "delete", i.ID, map[string]string{"name": i.ID})
	}
	return reply(w, http.StatusOK, gone)
}

// removable returns an error if an image may not lose its last name.
func (s *Server) removable(i *Image, ref string, force, several bool) error {
	if several && !force {
		return errorf(http.StatusConflict, "conflict: unable to delete %s (must be forced) - image is referenced in multiple repositories", ref)
	}
	for id, c := range s.containers {
		switch {
		case c.image != i:
		case c.running():
			return errorf(http.StatusConflict, "conflict: unable to delete %s (cannot be forced) - image is being used by running container %s", ref, id[:12])
		case !force:
			return errorf(http.StatusConflict, "conflict: unable to delete %s (must be forced) - image is being used by stopped container %s", ref, id[:12])
		}
	}
	return nil
}

func (s *Server) tagImage(w http.ResponseWriter, r *http.Request, ref string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.imageByRefLocked(ref)
	if i == nil {
		return errorf(http.StatusNotFound, "No such image: %s", ref)
	}
	if _, err := s.addImage(r.FormValue("repo")+":"+r.FormValue("tag"), Image{ID: i.ID}); err != nil {
		return errorf(http.StatusBadRequest, "%v", err)
	}
	w.WriteHeader(http.StatusCreated)
	return nil
}

// inspectDistribution describes a published image by its first digest.
func (s *Server) inspectDistribution(w http.ResponseWriter, _ *http.Request, ref string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	img, ok := s.registry[familiar(ref)]
	if !ok || len(img.Digests) == 0 {
		return errorf(http.StatusNotFound, "manifest for %s not found: manifest unknown", familiar(ref))
	}
	_, hash, _ := strings.Cut(img.Digests[0], "@")
	return reply(w, http.StatusOK, registry.DistributionInspect{Descriptor: ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageManifest, Digest: digest.Digest(hash), Size: 1000,
	}})
}
