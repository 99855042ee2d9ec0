package shim

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/internal/undo"
	"github.com/cridock/cridock/translate"
)

// maxAccountFile bounds, in bytes, /etc/passwd and /etc/group of an image.
const maxAccountFile = 1 << 20

// probePrefix begins the names of containers that are created only to read files of
// an image. The ID of the process that created them and a random text follow.
const probePrefix = "cridock_probe_"

// accounts holds the account files of an image; a missing file is nil.
type accounts struct{ passwd, group []byte }

// accountCache caches the account files of images by image ID, whose content never
// changes. The zero value is ready.
type accountCache struct {
	mu     sync.Mutex
	byID   map[string]accounts
	inside keyLock
}

func (a *accountCache) get(imageID string) (accounts, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	v, ok := a.byID[imageID]
	return v, ok
}

func (a *accountCache) put(imageID string, v accounts) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.byID == nil {
		a.byID = map[string]accounts{}
	}
	a.byID[imageID] = v
}

// forget drops an image that has been removed.
func (a *accountCache) forget(imageID string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.byID, imageID)
}

// resolveUser returns the user and groups of a container's process. It needs the
// image's files for numeric users too: see [translate.ResolveUser].
func (s *Service) resolveUser(ctx context.Context, sc *runtimeapi.LinuxContainerSecurityContext, image translate.Image) (translate.User, error) {
	a, err := s.imageAccounts(ctx, image.ID)
	if err != nil {
		return translate.User{}, fmt.Errorf("accounts of image %s: %w", image.ID, err)
	}
	return translate.ResolveUser(sc, image.User, a.passwd, a.group)
}

// imageAccounts reads an image's account files through a container that is
// never started.
func (s *Service) imageAccounts(ctx context.Context, imageID string) (a accounts, err error) {
	if a, ok := s.accounts.get(imageID); ok {
		return a, nil
	}
	unlock, err := s.accounts.inside.lock(ctx, imageID)
	if err != nil {
		return a, err
	}
	defer unlock()
	if a, ok := s.accounts.get(imageID); ok {
		return a, nil
	}
	err = s.lookInto(ctx, imageID, func(probe string) (err error) {
		if a.passwd, err = s.imageFile(ctx, probe, "/etc/passwd"); err != nil {
			return err
		}
		a.group, err = s.imageFile(ctx, probe, "/etc/group")
		return err
	})
	if err != nil {
		return a, err
	}
	s.accounts.put(imageID, a)
	return a, nil
}

// lookInto creates a container of an image without starting it, calls look with its
// ID and removes it.
func (s *Service) lookInto(ctx context.Context, imageID string, look func(containerID string) error) (err error) {
	cfg, host := neverStarted(imageID)
	id, err := s.engine.ContainerCreate(ctx, probePrefix+s.processID+"_"+rand.Text(), cfg, host, nil)
	if err != nil {
		return err
	}
	defer func() {
		// With a context of its own, as the caller's may have ended.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undo.Timeout)
		defer cancel()
		err = errors.Join(err, ignoreNotFound(s.engine.ContainerRemove(ctx, id)))
	}()
	return look(id)
}

// removeProbes removes the containers that a killed process has left in lookInto.
func (s *Service) removeProbes(ctx context.Context) error {
	probes, err := s.named(ctx, probePrefix)
	for id, rest := range probes {
		if strings.HasPrefix(rest, s.processID+"_") {
			continue // in use by a request to this process
		}
		err = errors.Join(err, ignoreNotFound(s.engine.ContainerRemove(ctx, id)))
	}
	return err
}

// imageFile reads a file of a container; nil if it is missing.
func (s *Service) imageFile(ctx context.Context, containerID, path string) ([]byte, error) {
	b, err := s.engine.ContainerFile(ctx, containerID, path, maxAccountFile)
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	return b, err
}
