package enginetest

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"

	"github.com/docker/docker/api/types/checkpoint"
	"github.com/docker/docker/api/types/container"
)

func (s *Server) pauseContainer(w http.ResponseWriter, _ *http.Request, ref string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := s.findLocked(ref)
	switch {
	case err != nil:
		return err
	case !c.running():
		return errorf(http.StatusConflict, "Container %s is not running", c.inspect.ID)
	case c.inspect.State.Paused:
		return errorf(http.StatusConflict, "Container %s is already paused", c.inspect.ID)
	}
	s.setPausedLocked(c, true)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) unpauseContainer(w http.ResponseWriter, _ *http.Request, ref string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := s.findLocked(ref)
	if err != nil {
		return err
	}
	if !c.inspect.State.Paused {
		return errorf(http.StatusInternalServerError, "Container %s is not paused", c.inspect.ID)
	}
	s.setPausedLocked(c, false)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// setPausedLocked changes a container's state. The processes keep running: no test looks.
func (s *Server) setPausedLocked(c *ctr, paused bool) {
	c.inspect.State.Paused, c.inspect.State.Status = paused, container.StateRunning
	event := "unpause"
	if paused {
		c.inspect.State.Status, event = container.StatePaused, "pause"
	}
	s.containerEventLocked(c, event)
}

// checkpointContainer writes one file in place of CRIU's. The daemon has to be
// experimental, see [Server.SetInfo].
func (s *Server) checkpointContainer(w http.ResponseWriter, r *http.Request, ref string) error {
	var req checkpoint.CreateOptions
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		return errorf(http.StatusBadRequest, "%v", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.info.ExperimentalBuild {
		return errorf(http.StatusNotImplemented, "This experimental feature is disabled by default. Start the Docker daemon in experimental mode in order to enable it.")
	}
	c, err := s.findLocked(ref)
	if err != nil {
		return err
	}
	if !c.running() {
		return errorf(http.StatusConflict, "container %s is not running", c.inspect.ID)
	}
	dir := filepath.Join(req.CheckpointDir, req.CheckpointID)
	if _, err := os.Stat(dir); err == nil {
		return errorf(http.StatusInternalServerError, "cannot checkpoint container %s: checkpoint with name %s already exists for container %s", ref, req.CheckpointID, ref)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "inventory.img"), []byte(c.inspect.ID), 0o600); err != nil {
		return err
	}
	s.containerEventLocked(c, "checkpoint")
	w.WriteHeader(http.StatusCreated)
	return nil
}

// SetUpperDir sets the upper directory of a container's overlay.
func (s *Server) SetUpperDir(id, dir string) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.containers[id]
	if c == nil {
		s.t.Fatalf("engine: there is no container %s", id)
	}
	c.inspect.GraphDriver.Name, c.inspect.GraphDriver.Data = s.info.Driver, map[string]string{"UpperDir": dir}
}

// findCheckpoint returns an error unless there is a checkpoint to start a container
// from; "" is none. The container's program then begins anew.
func (s *Server) findCheckpoint(c *ctr, name string) error {
	switch {
	case name == "":
		return nil
	case !s.info.ExperimentalBuild:
		return errorf(http.StatusBadRequest, "checkpoint is only supported in experimental mode")
	}
	if info, err := os.Stat(filepath.Join(s.dir, "containers", c.inspect.ID, "checkpoints", name)); err != nil || !info.IsDir() {
		return errorf(http.StatusNotFound, "checkpoint %s does not exist for container %s", name, c.inspect.Name)
	}
	return nil
}
