package images

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/shim/engine"
	"github.com/cridock/cridock/shim/pause"
	"github.com/cridock/cridock/translate"
)

// store is an engine's images, which its index sees after a sync.
type store struct {
	mu            sync.Mutex
	arch          string
	loads, pulls  int
	loadErr, err  error
	there, synced map[string]string // IDs by reference
}

func newStore() *store {
	return &store{arch: "amd64", there: map[string]string{}, synced: map[string]string{}}
}

func (s *store) Capabilities() *engine.Capabilities {
	return &engine.Capabilities{Architecture: s.arch}
}

func (s *store) ImageLoad(_ context.Context, archive io.Reader) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b, err := io.ReadAll(archive); err != nil || len(b) == 0 {
		return errors.Join(err, errdefs.ErrInvalidArgument)
	}
	s.loads++
	if s.loadErr == nil {
		s.there[pause.Name()] = "sha256:pause"
	}
	return s.loadErr
}

func (s *store) pull(_ context.Context, name string, auth *runtimeapi.AuthConfig) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if auth != nil {
		return "", errdefs.ErrInvalidArgument
	}
	s.pulls++
	if s.loadErr == nil {
		s.synced[name] = "sha256:custom"
	}
	return "sha256:custom", s.loadErr
}

func (s *store) Image(_ context.Context, ref string) (translate.Image, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, ok := s.synced[ref]
	return translate.Image{ID: id}, ok, s.err
}

func (s *store) SyncImages(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ref, id := range s.there {
		s.synced[ref] = id
	}
	return nil
}

func TestPause(t *testing.T) {
	for _, tc := range []struct {
		name, custom, id string
		loads, pulls     int
	}{
		{"the one cridock ships is loaded", "", "sha256:pause", 1, 0},
		{"the operator's is pulled", "registry.test/pause:1", "sha256:custom", 0, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newStore()
			p := NewPause(tc.custom, s, s, s.pull)
			var pods sync.WaitGroup
			for range 8 {
				pods.Go(func() {
					if id, err := p.Ensure(t.Context()); id != tc.id || err != nil {
						t.Errorf("Ensure = %q, %v; want %s", id, err, tc.id)
					}
				})
			}
			pods.Wait()
			if s.loads != tc.loads || s.pulls != tc.pulls {
				t.Errorf("%d loads and %d pulls, want %d and %d", s.loads, s.pulls, tc.loads, tc.pulls)
			}
			if id := p.ID(t.Context()); id != tc.id {
				t.Errorf("ID = %q, want %s", id, tc.id)
			}
			s.synced, s.there = map[string]string{}, map[string]string{}
			if id := p.ID(t.Context()); id != "" {
				t.Errorf("ID of the missing image = %q", id)
			}
			if id, err := p.Ensure(t.Context()); id != tc.id || err != nil {
				t.Errorf("after its removal: %q, %v; want %s", id, err, tc.id)
			}
		})
	}
}

func TestPauseFails(t *testing.T) {
	for _, tc := range []struct {
		name, custom string
		change       func(*store)
		want         func(error) bool
	}{
		{"no answer from the index", "", func(s *store) { s.err = errdefs.ErrUnavailable }, errdefs.IsUnavailable},
		{"no binary for the processor", "", func(s *store) { s.arch = "vax" }, func(err error) bool { return err != nil }},
		{"a load that fails", "", func(s *store) { s.loadErr = errdefs.ErrResourceExhausted }, errdefs.IsResourceExhausted},
		{"a pull that fails", "registry.test/pause:1", func(s *store) { s.loadErr = errdefs.ErrUnauthenticated }, errdefs.IsUnauthorized},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := newStore()
			tc.change(s)
			p := NewPause(tc.custom, s, s, s.pull)
			if id, err := p.Ensure(t.Context()); id != "" || !tc.want(err) {
				t.Errorf("Ensure = %q, %v", id, err)
			}
			if id := p.ID(t.Context()); id != "" {
				t.Errorf("ID of the missing image = %q", id)
			}
		})
	}
	t.Run("a pull that leaves no image", func(t *testing.T) {
		s := newStore()
		p := NewPause("registry.test/pause:1", s, s, func(context.Context, string, *runtimeapi.AuthConfig) (string, error) { return "sha256:1", nil })
		if _, err := p.Ensure(t.Context()); !errdefs.IsNotFound(err) {
			t.Errorf("err = %v, want not found", err)
		}
	})
}
