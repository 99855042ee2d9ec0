package shim

import (
	"bytes"
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/cridock/cridock/shim/pause"
	"github.com/cridock/cridock/translate"
)

// pauseImageName is the reference of the sandbox image.
func (s *Service) pauseImageName() string {
	if s.cfg.PauseImage != "" {
		return s.cfg.PauseImage
	}
	return pause.Name()
}

// pauseImage returns the ID of the sandbox image. A missing image is loaded from
// the one cridock ships, or pulled if the operator has named one.
func (s *Service) pauseImage(ctx context.Context) (string, error) {
	name := s.pauseImageName()
	if image, ok, err := s.index.Image(ctx, name); err != nil || ok {
		return image.ID, err
	}
	unlock, err := s.locks.Lock(ctx, "image/"+name)
	if err != nil {
		return "", err
	}
	defer unlock()
	if image, ok, err := s.index.Image(ctx, name); err != nil || ok {
		return image.ID, err
	}
	if s.cfg.PauseImage == "" {
		if err := s.loadPauseImage(ctx); err != nil {
			return "", fmt.Errorf("sandbox image %s: %w", name, err)
		}
	} else if err := s.pullPauseImage(ctx, name); err != nil {
		return "", fmt.Errorf("sandbox image: %w", err)
	}
	image, ok, err := s.index.Image(ctx, name)
	if err == nil && !ok {
		err = fmt.Errorf("sandbox image %s: %w right after loading it", name, errdefs.ErrNotFound)
	}
	return image.ID, err
}

func (s *Service) loadPauseImage(ctx context.Context) error {
	archive, err := pause.Archive(s.engine.Capabilities().Architecture)
	if err != nil {
		return err
	}
	if err := s.engine.ImageLoad(ctx, bytes.NewReader(archive)); err != nil {
		return err
	}
	return s.index.SyncImages(ctx)
}

func (s *Service) pullPauseImage(ctx context.Context, name string) error {
	ref, err := translate.NormalizeImage(name)
	if err != nil {
		return err
	}
	auth, err := s.pullAuth(ctx, nil, name)
	if err != nil {
		return err
	}
	_, err = s.pull(ctx, ref, auth)
	return err
}
