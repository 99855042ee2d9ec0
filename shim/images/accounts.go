package images

import (
	"context"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/internal/keylock"
	"github.com/cridock/cridock/translate"
)

// maxAccountFile bounds, in bytes, /etc/passwd and /etc/group of an image.
const maxAccountFile = 1 << 20

// FileReader reads a file of a container; see engine.Containers.
type FileReader interface {
	ContainerFile(ctx context.Context, id, path string, limit int64) ([]byte, error)
}

// Prober gives access to the files of an image; see [Probes].
type Prober interface {
	Look(ctx context.Context, image translate.Image, look func(containerID string) error) error
}

// Accounts resolves users with the account files of images. It caches them by image
// ID, as their content never changes, until [Accounts.Forget]. Its methods are safe
// for concurrent use.
type Accounts struct {
	probes  Prober
	files   FileReader
	reading keylock.Lock // by image ID

	mu   sync.Mutex
	byID map[string]accountFiles
}

// accountFiles are the contents of an image's account files; a missing one is nil.
type accountFiles struct{ passwd, group []byte }

// NewAccounts returns an Accounts with an empty cache.
func NewAccounts(p Prober, f FileReader) *Accounts {
	return &Accounts{probes: p, files: f, byID: map[string]accountFiles{}}
}

// User returns the user and groups of a container's process. It needs the image's
// files for numeric users too: see [translate.ResolveUser].
func (a *Accounts) User(ctx context.Context, sc *runtimeapi.LinuxContainerSecurityContext, image translate.Image) (translate.User, error) {
	files, err := a.read(ctx, image)
	if err != nil {
		return translate.User{}, fmt.Errorf("accounts of image %s: %w", image.ID, err)
	}
	return translate.ResolveUser(sc, image.User, files.passwd, files.group)
}

// Forget drops an image that has been removed.
func (a *Accounts) Forget(imageID string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.byID, imageID)
}

// read returns an image's account files. Concurrent calls for one image read them
// once.
func (a *Accounts) read(ctx context.Context, image translate.Image) (files accountFiles, err error) {
	if files, ok := a.cached(image.ID); ok {
		return files, nil
	}
	unlock, err := a.reading.Lock(ctx, image.ID)
	if err != nil {
		return files, err
	}
	defer unlock()
	if files, ok := a.cached(image.ID); ok {
		return files, nil
	}
	err = a.probes.Look(ctx, image, func(probe string) (err error) {
		if files.passwd, err = a.file(ctx, probe, "/etc/passwd"); err != nil {
			return err
		}
		files.group, err = a.file(ctx, probe, "/etc/group")
		return err
	})
	if err != nil {
		return accountFiles{}, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.byID[image.ID] = files
	return files, nil
}

func (a *Accounts) cached(imageID string) (accountFiles, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	files, ok := a.byID[imageID]
	return files, ok
}

// file reads a file of a container; nil if it is missing.
func (a *Accounts) file(ctx context.Context, containerID, path string) ([]byte, error) {
	b, err := a.files.ContainerFile(ctx, containerID, path, maxAccountFile)
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	return b, err
}
