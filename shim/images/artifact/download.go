package artifact

import (
	"context"
	_ "crypto/sha512" // digests of layers
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/atomicwriter"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cridock/cridock/shim/images/mirror"
)

// maxFiles bounds the files of an artifact.
const maxFiles = 1024

// imageConfigs are the media types of what Docker runs.
var imageConfigs = map[string]bool{
	ocispec.MediaTypeImageConfig: true, "application/vnd.docker.container.image.v1+json": true,
}

// download adds an artifact.
func (s *Store) download(ctx context.Context, name string, c *mirror.Content) error {
	var m ocispec.Manifest
	if err := json.Unmarshal(c.Manifest, &m); err != nil {
		return fmt.Errorf("artifact %s: %w: %w", c.Image.Digest, errdefs.ErrFailedPrecondition, err)
	}
	titles, err := layout(m)
	if err != nil {
		return fmt.Errorf("artifact %s: %w: %w", c.Image.Digest, errdefs.ErrFailedPrecondition, err)
	}
	a := newStored(m, len(c.Manifest))
	release, err := s.reserve(ctx, a.cost)
	if err != nil {
		return fmt.Errorf("artifact %s: %w", c.Image.Digest, err)
	}
	defer release()
	if err := os.MkdirAll(s.opts.Dir, 0o700); err != nil {
		return err
	}
	draft, err := os.MkdirTemp(s.opts.Dir, draftPrefix)
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(draft) }()
	if err := s.write(ctx, draft, m, titles, c); err != nil {
		return err
	}
	return s.add(ctx, name, draft, a)
}

// reserve takes bytes of the bound until the caller calls release: the downloads in
// progress count as the artifacts do.
func (s *Store) reserve(ctx context.Context, cost int64) (release func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.loadLocked(ctx); err != nil {
		return nil, err
	}
	used := s.reserved
	for _, a := range s.known {
		used += a.cost
	}
	if cost > s.opts.Limit-used {
		return nil, fmt.Errorf("%w: its %d bytes and the %d of others exceed artifact-store-size, %d", errdefs.ErrResourceExhausted, cost, used, s.opts.Limit)
	}
	s.reserved += cost
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.reserved -= cost
	}, nil
}

// add makes a complete draft an artifact, unless it has been pulled from another
// repository meanwhile. A directory that has its name and could not be read makes way.
func (s *Store) add(ctx context.Context, name, draft string, a *stored) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known[name] != nil {
		return nil
	}
	path := filepath.Join(s.opts.Dir, name)
	if _, err := os.Lstat(path); err == nil {
		s.discard(ctx, path)
	}
	if err := os.Rename(draft, path); err != nil {
		return err
	}
	s.known[name] = a
	return syncDir(s.opts.Dir)
}

// syncDir waits until the names in a directory are on the disk.
func syncDir(path string) error {
	d, err := os.Open(path) //nolint:gosec // cridock's own
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// layout returns the names of an artifact's files, in the order of its layers.
func layout(m ocispec.Manifest) (titles []string, err error) {
	var size int64
	switch {
	case len(m.Layers) == 0:
		return nil, errors.New("it has no files; an index cannot be mounted")
	case imageConfigs[m.Config.MediaType] && m.ArtifactType == "":
		return nil, errors.New("it is an image and not an artifact")
	case len(m.Layers) > maxFiles:
		return nil, fmt.Errorf("it has %d files, more than %d", len(m.Layers), maxFiles)
	}
	seen := map[string]bool{}
	for _, l := range m.Layers {
		title := l.Annotations[ocispec.AnnotationTitle]
		if title == "" {
			title = strings.ReplaceAll(l.Digest.String(), ":", "-")
		}
		if err := l.Digest.Validate(); err != nil {
			return nil, fmt.Errorf("file %q: %w", title, err)
		}
		if !isName(title) || seen[title] {
			return nil, fmt.Errorf("file %q: want a file's name that no other file has", title)
		}
		if l.Size < 0 || l.Size > 1<<60-size {
			return nil, fmt.Errorf("file %q: impossible size %d", title, l.Size)
		}
		seen[title] = true
		titles, size = append(titles, title), size+l.Size
	}
	return titles, nil
}

// isName reports whether a title is one element of a path, and readable.
func isName(title string) bool {
	return title != "." && title != ".." && len(title) <= 255 && utf8.ValidString(title) &&
		!strings.ContainsRune(title, '/') && strings.IndexFunc(title, unicode.IsControl) < 0
}

// write fills an artifact's directory. All users may read the files: a container's
// user does.
func (s *Store) write(ctx context.Context, dir string, m ocispec.Manifest, titles []string, c *mirror.Content) error {
	files := filepath.Join(dir, filesDir)
	if err := os.Mkdir(files, 0o755); err != nil { //nolint:gosec // see above
		return err
	}
	for i, l := range m.Layers {
		if err := s.writeLayer(ctx, filepath.Join(files, titles[i]), l, c); err != nil {
			return fmt.Errorf("file %q: %w", titles[i], err)
		}
	}
	if err := atomicwriter.WriteFile(filepath.Join(dir, manifestFile), c.Manifest, 0o600); err != nil {
		return err
	}
	return errors.Join(syncDir(files), syncDir(dir))
}

// writeLayer writes a layer's content if it has the size and the digest that the
// manifest declares.
func (s *Store) writeLayer(ctx context.Context, path string, l ocispec.Descriptor, c *mirror.Content) (err error) {
	ctx, progress, stop := watch(ctx, s.opts.StallTimeout)
	defer stop()
	defer func() {
		if cause := context.Cause(ctx); err != nil && cause != nil {
			err = cause
		}
	}()
	body, err := c.Blob(ctx, l)
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644) //nolint:gosec // all users may read it
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	verifier := l.Digest.Verifier()
	n, err := io.Copy(io.MultiWriter(f, verifier, progress), io.LimitReader(body, l.Size+1))
	if err != nil {
		return err
	}
	if n != l.Size || !verifier.Verified() {
		return fmt.Errorf("the content does not have the size %d and the digest %s", l.Size, l.Digest)
	}
	return f.Sync()
}
