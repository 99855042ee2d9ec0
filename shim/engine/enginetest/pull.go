package enginetest

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/pkg/jsonmessage"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
)

// pullImage answers 404 for an unpublished image; later failures are error
// messages in a response with status 200.
func (s *Server) pullImage(w http.ResponseWriter, r *http.Request, _ string) error {
	name, tag := r.FormValue("fromImage"), r.FormValue("tag")
	ref := name + ":" + tag
	if strings.Contains(tag, ":") {
		ref = name + "@" + tag
	}
	s.mu.Lock()
	img, ok := s.registry[familiar(ref)]
	s.mu.Unlock()
	if !ok {
		return errorf(http.StatusNotFound, "manifest for %s not found: manifest unknown: manifest unknown", familiar(ref))
	}
	auth, err := base64.URLEncoding.DecodeString(r.Header.Get("X-Registry-Auth"))
	if err != nil {
		return errorf(http.StatusBadRequest, "X-Registry-Auth: %v", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	send := func(m jsonmessage.JSONMessage) {
		_ = json.NewEncoder(w).Encode(m)
		_ = http.NewResponseController(w).Flush()
	}
	send(jsonmessage.JSONMessage{ID: tag, Status: "Pulling from " + name})
	if img.Pull != nil {
		if err := img.Pull(r.Context(), func(status string) { send(jsonmessage.JSONMessage{Status: status}) }, string(auth)); err != nil {
			send(jsonmessage.JSONMessage{Error: &jsonmessage.JSONError{Message: err.Error()}})
			return nil
		}
	}
	if r.Context().Err() != nil {
		return nil // the client has left: the pull is cancelled
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.addImage(ref, img); err != nil {
		return err
	}
	for _, d := range img.Digests {
		_, digest, _ := strings.Cut(d, "@")
		send(jsonmessage.JSONMessage{Status: "Digest: " + digest})
	}
	s.events.send(events.ImageEventType, "pull", familiar(ref), map[string]string{"name": name})
	send(jsonmessage.JSONMessage{Status: "Status: Downloaded newer image for " + familiar(ref)})
	return nil
}

// loadImage reads an archive in the format of "docker save": manifest.json names
// the config, whose digest is the image's ID, and the tags.
func (s *Server) loadImage(w http.ResponseWriter, r *http.Request, _ string) error {
	files, err := untar(r.Body)
	if err != nil {
		return errorf(http.StatusBadRequest, "invalid archive: %v", err)
	}
	var manifest []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(files["manifest.json"], &manifest); err != nil {
		return errorf(http.StatusBadRequest, "invalid archive: manifest.json: %v", err)
	}
	w.Header().Set("Content-Type", "application/json")
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range manifest {
		var cfg struct {
			Config dockerspec.DockerOCIImageConfig `json:"config"`
		}
		if err := json.Unmarshal(files[m.Config], &cfg); err != nil {
			return errorf(http.StatusInternalServerError, "invalid archive: %s: %v", m.Config, err)
		}
		id := fmt.Sprintf("sha256:%x", sha256.Sum256(files[m.Config]))
		for _, tag := range m.RepoTags {
			if _, err := s.addImage(tag, Image{ID: id, Config: cfg.Config.ImageConfig}); err != nil {
				return err
			}
			s.events.send(events.ImageEventType, "load", id, map[string]string{"name": id})
			if err := json.NewEncoder(w).Encode(map[string]string{"stream": "Loaded image: " + tag + "\n"}); err != nil {
				return err
			}
		}
	}
	return nil
}

func untar(r io.Reader) (map[string][]byte, error) {
	files := map[string][]byte{}
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		if files[h.Name], err = io.ReadAll(t); err != nil {
			return nil, err
		}
	}
}
