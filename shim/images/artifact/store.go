// Package artifact keeps OCI artifacts that pods mount as volumes: manifests whose
// layers are files. Docker's graph drivers cannot hold them.
//
// Each artifact is a directory below the store's own, named by the digest of its
// manifest: the manifest, the names that it was pulled by, and one file for each layer,
// named by its title. A directory is complete and on the disk when it has its name;
// what has another name, or not the manifest of its digest, is removed at the first use.
//
// A registry is hostile. A title is the name of a file in one directory and nothing
// else; sizes and digests are verified, and the store's size is bounded. Layers are
// not unpacked.
//
// The package knows neither the engine nor gRPC.
package artifact

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/registry"
	"github.com/moby/sys/atomicwriter"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/internal/keylock"
	"github.com/cridock/cridock/shim/images/mirror"
	"github.com/cridock/cridock/translate"
)

const (
	manifestFile = "manifest.json"
	namesFile    = "names.json"
	filesDir     = "files"
	draftPrefix  = ".pull-"
	// maxNames bounds the names of an artifact; the oldest are dropped.
	maxNames = 256
	// minFile is how many bytes a file counts at least for the bound: a block.
	minFile  = 4096
	digestOf = "sha256:"
)

// hash is the format of a directory's name; nothing else becomes a path.
var hash = regexp.MustCompile("^[0-9a-f]{64}$")

// Source finds artifacts in registries; see [mirror.Server.Each].
type Source interface {
	Each(ctx context.Context, ref translate.ImageReference, auth registry.AuthConfig, use func(context.Context, *mirror.Content) error) error
}

// Store keeps artifacts. Its methods are safe for concurrent use.
type Store struct {
	opts    Options
	pulling keylock.Lock // one download at a time of an artifact from one repository

	mu       sync.Mutex
	known    map[string]*stored // by hash; nil until the directory has been read
	reserved int64              // bytes of the downloads in progress
}

// Options configures a [Store]. Dir and Source are required.
type Options struct {
	// Dir is the store's directory, which it makes when it is needed.
	Dir string
	// Limit bounds, in bytes, what the artifacts use; zero refuses all.
	Limit int64
	// StallTimeout ends a download of which nothing arrives for this long; zero for never.
	StallTimeout time.Duration
	// Source has the artifacts.
	Source Source
}

// stored is an artifact on the disk.
type stored struct {
	names []string // normalised, with tag or digest, oldest first
	size  int64    // of its files, in bytes
	cost  int64    // bytes that count for the bound
	files uint64   // files and directories on the disk
}

// newStored returns an artifact without names.
func newStored(m ocispec.Manifest, manifestSize int) *stored {
	a := &stored{cost: max(int64(manifestSize), minFile), files: uint64(len(m.Layers)) + 4} // manifest, names and two directories
	for _, l := range m.Layers {
		a.size, a.cost = a.size+l.Size, a.cost+max(l.Size, minFile)
	}
	return a
}

// New returns a Store. It does not touch the disk.
func New(o Options) *Store { return &Store{opts: o} }

// loadLocked reads the directory once and removes what is not complete. What cannot be
// removed does no harm and stays until the next process.
func (s *Store) loadLocked(ctx context.Context) error {
	if s.known != nil {
		return nil
	}
	known := map[string]*stored{}
	entries, err := os.ReadDir(s.opts.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("artifacts: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(s.opts.Dir, e.Name())
		if strings.HasPrefix(e.Name(), draftPrefix) {
			s.discard(ctx, path)
			continue
		}
		if !hash.MatchString(e.Name()) {
			continue
		}
		a, err := read(ctx, path)
		switch {
		case err == nil:
			known[e.Name()] = a
		case errors.Is(err, errBroken) || errors.Is(err, fs.ErrNotExist):
			klog.FromContext(ctx).Error(err, "Removing broken artifact", "path", path)
			s.discard(ctx, path)
		default: // it may be readable the next time
			klog.FromContext(ctx).Error(err, "Skipping artifact", "path", path)
		}
	}
	s.known = known
	return nil
}

// errBroken is the class of errors for a directory that no pull has written so.
var errBroken = errors.New("not the manifest of the directory's digest")

// read reads an artifact's directory. One without readable names has none: the next
// pull adds them.
func read(ctx context.Context, path string) (*stored, error) {
	b, err := os.ReadFile(filepath.Join(path, manifestFile)) //nolint:gosec // cridock's own
	if err != nil {
		return nil, err
	}
	var m ocispec.Manifest
	if digest.FromBytes(b).Encoded() != filepath.Base(path) || json.Unmarshal(b, &m) != nil {
		return nil, fmt.Errorf("%s: %w", path, errBroken)
	}
	a := newStored(m, len(b))
	b, err = os.ReadFile(filepath.Join(path, namesFile)) //nolint:gosec // cridock's own
	if err == nil {
		err = json.Unmarshal(b, &a.names)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		klog.FromContext(ctx).Error(err, "Artifact has no names", "path", path)
		a.names = nil
	}
	return a, nil
}

// discard removes a directory of the store if it can: out of the way at once, so that
// what is left after a crash is a draft.
func (s *Store) discard(ctx context.Context, path string) {
	trash, err := s.moveAway(path)
	if err == nil {
		err = os.RemoveAll(trash)
	}
	if err != nil {
		klog.FromContext(ctx).Error(err, "Cannot remove artifact", "path", path)
	}
}

// moveAway makes a directory of the store a draft.
func (s *Store) moveAway(path string) (draft string, err error) {
	draft = filepath.Join(s.opts.Dir, draftPrefix+rand.Text())
	return draft, os.Rename(path, draft)
}

// Images returns all artifacts as the CRI sees them, sorted by ID.
func (s *Store) Images(ctx context.Context) ([]translate.Image, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.loadLocked(ctx); err != nil {
		return nil, err
	}
	images := make([]translate.Image, 0, len(s.known))
	for name, a := range s.known {
		images = append(images, translate.ArtifactImage(digestOf+name, slices.Sorted(slices.Values(a.names)), a.size))
	}
	slices.SortFunc(images, func(a, b translate.Image) int { return strings.Compare(a.ID, b.ID) })
	return images, nil
}

// Size returns the number of bytes that all artifacts use, as they count for the bound,
// and of files and directories.
func (s *Store) Size(ctx context.Context) (bytes, files uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.loadLocked(ctx); err != nil {
		return 0, 0, err
	}
	for _, a := range s.known {
		bytes, files = bytes+uint64(max(a.cost, 0)), files+a.files
	}
	return bytes, files, nil
}

// Files returns the directory with an artifact's files; ok is false if the store does
// not have the artifact.
func (s *Store) Files(ctx context.Context, id string) (dir string, ok bool, err error) {
	name := strings.TrimPrefix(id, digestOf)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.loadLocked(ctx); err != nil {
		return "", false, err
	}
	if s.known[name] == nil {
		return "", false, nil
	}
	return filepath.Join(s.opts.Dir, name, filesDir), true, nil
}

// Remove removes an artifact with all its names; a missing one is success. Containers
// that mount it must not run.
func (s *Store) Remove(ctx context.Context, id string) error {
	name := strings.TrimPrefix(id, digestOf)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.loadLocked(ctx); err != nil || s.known[name] == nil {
		return err
	}
	trash, err := s.moveAway(filepath.Join(s.opts.Dir, name))
	if err != nil {
		return fmt.Errorf("remove artifact %s: %w", id, err)
	}
	delete(s.known, name)
	return os.RemoveAll(trash)
}

// Pull pulls an artifact, with accept asked before any file of it is read, and
// returns its ID. What is not an artifact, or has files that cannot be kept, is
// errdefs.ErrFailedPrecondition; one that is too large ErrResourceExhausted.
func (s *Store) Pull(ctx context.Context, ref translate.ImageReference, auth registry.AuthConfig, accept func(context.Context, ocispec.Descriptor) error) (id string, err error) {
	var final error // not the fault of one server
	err = s.opts.Source.Each(ctx, ref, auth, func(ctx context.Context, c *mirror.Content) error {
		if final = accept(ctx, c.Image); final != nil {
			return nil
		}
		id, err = s.take(ctx, ref, c)
		if errdefs.IsFailedPrecondition(err) || errdefs.IsResourceExhausted(err) {
			final = err
			return nil
		}
		return err
	})
	return id, errors.Join(final, err)
}

// take adds an artifact, or its name if the store has it.
func (s *Store) take(ctx context.Context, ref translate.ImageReference, c *mirror.Content) (id string, err error) {
	name := strings.TrimPrefix(c.Image.Digest.String(), digestOf)
	if !hash.MatchString(name) {
		return "", fmt.Errorf("artifact %s: %w: want a digest of SHA-256", c.Image.Digest, errdefs.ErrFailedPrecondition)
	}
	// Not the digest alone: another repository that names it may be slow on purpose.
	unlock, err := s.pulling.Lock(ctx, ref.Name+"@"+name)
	if err != nil {
		return "", err
	}
	defer unlock()
	_, have, err := s.Files(ctx, name)
	if err == nil && !have {
		err = s.download(ctx, name, c)
	}
	if err != nil {
		return "", err
	}
	return digestOf + name, s.rename(name, ref)
}

// Untag takes a tag from the artifact that has it; none is not an error. A digest stays.
func (s *Store) Untag(ctx context.Context, ref translate.ImageReference) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.loadLocked(ctx); err != nil || ref.Digest != "" {
		return err
	}
	return s.takeNames("", []string{ref.String()})
}

// takeNames takes names from all artifacts but one.
func (s *Store) takeNames(but string, names []string) error {
	for name, a := range s.known {
		kept := slices.DeleteFunc(slices.Clone(a.names), func(n string) bool { return slices.Contains(names, n) })
		if name == but || len(kept) == len(a.names) {
			continue
		}
		if err := s.writeNames(filepath.Join(s.opts.Dir, name), kept); err != nil {
			return err
		}
		a.names = kept
	}
	return nil
}

// rename gives an artifact the names of a reference; a tag is taken from the artifact
// that had it.
func (s *Store) rename(name string, ref translate.ImageReference) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, id := s.known[name], digestOf+name
	if a == nil {
		return fmt.Errorf("artifact %s: %w: it was removed while it was pulled", id, errdefs.ErrAborted)
	}
	names := []string{ref.Name + "@" + id}
	if ref.Digest == "" {
		names = append(names, ref.String())
	}
	if err := s.takeNames(name, names); err != nil {
		return err
	}
	all := slices.DeleteFunc(slices.Clone(a.names), func(n string) bool { return slices.Contains(names, n) })
	all = append(all, names...)
	all = all[max(0, len(all)-maxNames):]
	if err := s.writeNames(filepath.Join(s.opts.Dir, name), all); err != nil {
		return err
	}
	a.names = all
	return nil
}

func (s *Store) writeNames(dir string, names []string) error {
	b, err := json.Marshal(names)
	if err != nil {
		return err
	}
	return atomicwriter.WriteFile(filepath.Join(dir, namesFile), b, 0o600)
}
