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

	"github.com/cridock/cridock/translate"
)

// maxAccountFile bounds /etc/passwd and /etc/group of an image.
const maxAccountFile = 1 << 20

// probePrefix begins the names of containers that only serve to look into an
// image. The ID of the process that made them follows, and a random text.
const probePrefix = "cridock_probe_"

// accounts are the account files of an image; nil where it has none.
type accounts struct{ passwd, group []byte }

// accountCache keeps the account files of images by image ID, which names
// content that never changes. The zero value is ready.
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

// resolveUser finds user and groups of a container's process. The image's files
// count for numbers too: see [translate.ResolveUser].
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

// lookInto gives look a container of an image that is never started, and
// removes it again.
func (s *Service) lookInto(ctx context.Context, imageID string, look func(containerID string) error) (err error) {
	cfg, host := neverStarted(imageID)
	id, err := s.engine.ContainerCreate(ctx, probePrefix+s.processID+"_"+rand.Text(), cfg, host, nil)
	if err != nil {
		return err
	}
	defer func() {
		// On a context of its own: the caller's may be what has ended.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer cancel()
		err = errors.Join(err, ignoreNotFound(s.engine.ContainerRemove(ctx, id)))
	}()
	return look(id)
}

// removeProbes removes what a killed process has left of its looks into images.
func (s *Service) removeProbes(ctx context.Context) error {
	probes, err := s.named(ctx, probePrefix)
	for id, rest := range probes {
		if strings.HasPrefix(rest, s.processID+"_") {
			continue // a request that came since the start looks into it
		}
		err = errors.Join(err, ignoreNotFound(s.engine.ContainerRemove(ctx, id)))
	}
	return err
}

// imageFile reads a file; nil if it is not there.
func (s *Service) imageFile(ctx context.Context, containerID, path string) ([]byte, error) {
	b, err := s.engine.ContainerFile(ctx, containerID, path, maxAccountFile)
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	return b, err
}
