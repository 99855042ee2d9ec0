package images

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/internal/keylock"
	"github.com/cridock/cridock/shim/engine"
	"github.com/cridock/cridock/shim/pause"
	"github.com/cridock/cridock/translate"
)

// PauseEngine is what [Pause] needs of the engine; see engine.Images and
// engine.System.
type PauseEngine interface {
	ImageLoad(ctx context.Context, archive io.Reader) error
	Capabilities() *engine.Capabilities
}

// ImageIndex finds images; see index.Index.
type ImageIndex interface {
	// Image finds an image by any reference; ok is false if it is missing.
	Image(ctx context.Context, ref string) (image translate.Image, ok bool, err error)
	// SyncImages makes what the engine has done until now visible to Image.
	SyncImages(ctx context.Context) error
}

// PullFunc pulls an image and returns its ID; see [Puller.Pull].
type PullFunc func(ctx context.Context, name string, auth *runtimeapi.AuthConfig) (id string, err error)

// Pause provides the sandbox image. Its methods are safe for concurrent use.
type Pause struct {
	custom string // the operator's image; empty for the one cridock ships
	engine PauseEngine
	index  ImageIndex
	pull   PullFunc
	locks  keylock.Lock // by reference
}

// NewPause returns the sandbox image that the operator has named, which is pulled
// with pull; without a name it is the one cridock ships, which is loaded.
func NewPause(name string, e PauseEngine, ix ImageIndex, pull PullFunc) *Pause {
	return &Pause{custom: name, engine: e, index: ix, pull: pull}
}

// Name returns the reference of the sandbox image.
func (p *Pause) Name() string {
	if p.custom != "" {
		return p.custom
	}
	return pause.Name()
}

// ID returns the ID of the sandbox image, which the kubelet must not remove; "" if
// it is not on the node.
func (p *Pause) ID(ctx context.Context) string {
	image, _, err := p.index.Image(ctx, p.Name())
	if err != nil {
		return ""
	}
	return image.ID
}

// Ensure returns the ID of the sandbox image. It loads or pulls a missing one, once
// for concurrent calls.
func (p *Pause) Ensure(ctx context.Context) (id string, err error) {
	name := p.Name()
	if image, ok, err := p.index.Image(ctx, name); err != nil || ok {
		return image.ID, err
	}
	unlock, err := p.locks.Lock(ctx, name)
	if err != nil {
		return "", err
	}
	defer unlock()
	if image, ok, err := p.index.Image(ctx, name); err != nil || ok {
		return image.ID, err
	}
	if p.custom == "" {
		if err := p.load(ctx); err != nil {
			return "", fmt.Errorf("sandbox image %s: %w", name, err)
		}
	} else if _, err := p.pull(ctx, name, nil); err != nil {
		return "", fmt.Errorf("sandbox image: %w", err)
	}
	image, ok, err := p.index.Image(ctx, name)
	if err == nil && !ok {
		err = fmt.Errorf("sandbox image %s: %w right after loading it", name, errdefs.ErrNotFound)
	}
	return image.ID, err
}

func (p *Pause) load(ctx context.Context) error {
	archive, err := pause.Archive(p.engine.Capabilities().Architecture)
	if err != nil {
		return err
	}
	if err := p.engine.ImageLoad(ctx, bytes.NewReader(archive)); err != nil {
		return err
	}
	return p.index.SyncImages(ctx)
}
