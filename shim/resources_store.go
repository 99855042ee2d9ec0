package shim

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cridock/cridock/internal/beneath"
)

// containerResources is a [limits.Store] in the root directory: a file per updated
// container.
type containerResources struct{ state beneath.Root }

const (
	resourcesDir    = "resources"
	resourcesSuffix = ".json"
)

// IDs implements [limits.Store]. It lists the drafts of interrupted writes as well.
func (r containerResources) IDs() ([]string, error) {
	files, err := r.state.Names(resourcesDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for i, file := range files {
		files[i] = resourcesOwner(file)
	}
	return slices.Compact(files), err
}

// resourcesOwner returns the ID of the container that a file or a draft of one is
// of.
func resourcesOwner(file string) string {
	id, _, _ := strings.Cut(file, resourcesSuffix)
	return id
}

// Read implements [limits.Store].
func (r containerResources) Read(containerID string) ([]byte, error) {
	return r.state.ReadFile(filepath.Join(resourcesDir, containerID+resourcesSuffix))
}

// Write implements [limits.Store].
func (r containerResources) Write(containerID string, document []byte) error {
	if err := r.state.MkdirAll(resourcesDir, 0o700); err != nil {
		return err
	}
	return r.state.WriteFile(filepath.Join(resourcesDir, containerID+resourcesSuffix), document, 0o600)
}

// Remove implements [limits.Store].
func (r containerResources) Remove(containerID string) error {
	files, err := r.state.Names(resourcesDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, file := range files {
		if resourcesOwner(file) == containerID {
			err = errors.Join(err, r.state.RemoveAll(filepath.Join(resourcesDir, file)))
		}
	}
	return err
}

// sandboxResources is a [limits.PodStore] in the directories of the sandboxes' files.
type sandboxResources struct{ state beneath.Root }

func (sandboxResources) dir(sandboxName string) string {
	return filepath.Join(sandboxesDir, shortHash(sandboxName))
}

func (r sandboxResources) file(sandboxName string) string {
	return filepath.Join(r.dir(sandboxName), "resources.json")
}

// Read implements [limits.PodStore].
func (r sandboxResources) Read(sandboxName string) ([]byte, error) {
	return r.state.ReadFile(r.file(sandboxName))
}

// Write implements [limits.PodStore].
func (r sandboxResources) Write(sandboxName string, document []byte) error {
	// Sandboxes of other adapters have no directory yet.
	if err := r.state.MkdirAll(r.dir(sandboxName), 0o755); err != nil {
		return err
	}
	return r.state.WriteFile(r.file(sandboxName), document, 0o600)
}
