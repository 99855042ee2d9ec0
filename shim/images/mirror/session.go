package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
)

// maxManifests bounds the manifests that one pull reads: an index, and its entries.
const maxManifests = 64

// session is the pull of one image from one host.
type session struct {
	client *client
	repo   string // what the engine calls the repository
	fail   context.CancelCauseFunc

	mu        sync.Mutex
	manifests map[string]*manifest
	entries   map[string]bool  // digests of the manifests that these name
	sizes     map[string]int64 // of the blobs that these name
}

func newSession(c *client, repo string, fail context.CancelCauseFunc) *session {
	return &session{client: c, repo: repo, fail: fail, manifests: map[string]*manifest{}, entries: map[string]bool{}, sizes: map[string]int64{}}
}

// add keeps a manifest. The engine may then ask for the blobs and manifests that it
// names.
func (s *session) add(m *manifest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.manifests[m.digest.String()] = m
	for d, size := range m.sizes {
		s.sizes[d] = size
	}
	for _, d := range m.entries {
		s.entries[d] = true
	}
}

// serve answers a request of the engine, which has shown the session's password.
func (s *session) serve(w http.ResponseWriter, r *http.Request) {
	path := strings.Trim(strings.TrimPrefix(r.URL.Path, "/v2"), "/")
	if path == "" {
		_, _ = io.WriteString(w, "{}")
		return
	}
	rest, ok := strings.CutPrefix(path, s.repo+"/")
	kind, ref, _ := strings.Cut(rest, "/")
	d, err := digest.Parse(ref)
	if !ok || err != nil {
		refuse(w, http.StatusNotFound, "NAME_UNKNOWN", "the pull does not need this")
		return
	}
	switch kind {
	case "manifests":
		s.serveManifest(w, r, d)
	case "blobs":
		s.serveBlob(w, r, d)
	default:
		refuse(w, http.StatusNotFound, "UNSUPPORTED", "this is for pulls alone")
	}
}

func (s *session) serveManifest(w http.ResponseWriter, r *http.Request, d digest.Digest) {
	m, err := s.manifest(r.Context(), d)
	if errors.Is(err, errUnnamed) {
		refuse(w, http.StatusNotFound, "MANIFEST_UNKNOWN", err.Error())
		return
	}
	if err != nil {
		s.broken(w, r, err)
		return
	}
	w.Header().Set("Content-Type", m.mediaType)
	w.Header().Set("Docker-Content-Digest", d.String())
	w.Header().Set("Content-Length", strconv.Itoa(len(m.body)))
	if r.Method == http.MethodGet {
		_, _ = w.Write(m.body)
	}
}

// errUnnamed is the error for a manifest that the pull does not need.
var errUnnamed = errors.New("no manifest of the pull names it")

// manifest returns the pull's manifest or one that it names, which it asks for once.
func (s *session) manifest(ctx context.Context, d digest.Digest) (*manifest, error) {
	s.mu.Lock()
	m, named, known := s.manifests[d.String()], s.entries[d.String()], len(s.manifests)
	s.mu.Unlock()
	if m != nil {
		return m, nil
	}
	if !named {
		return nil, errUnnamed
	}
	if known >= maxManifests {
		return nil, fmt.Errorf("more than %d manifests", maxManifests)
	}
	m, err := s.client.manifest(ctx, d.String())
	if err == nil {
		s.add(m)
	}
	return m, err
}

// serveBlob forwards a blob, or a part of it, and no more than its manifest declares.
func (s *session) serveBlob(w http.ResponseWriter, r *http.Request, d digest.Digest) {
	s.mu.Lock()
	size, ok := s.sizes[d.String()]
	s.mu.Unlock()
	if !ok {
		refuse(w, http.StatusNotFound, "BLOB_UNKNOWN", "no manifest of the pull names it")
		return
	}
	if r.Method == http.MethodHead {
		w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
		w.Header().Set("Docker-Content-Digest", d.String())
		return
	}
	header := http.Header{}
	if part := r.Header.Get("Range"); part != "" {
		header.Set("Range", part)
	}
	resp, err := s.client.get(r.Context(), "blobs", d.String(), header)
	if err == nil && (resp.ContentLength > size || resp.StatusCode == http.StatusOK && resp.ContentLength >= 0 && resp.ContentLength != size) {
		_ = resp.Body.Close()
		err = fmt.Errorf("blob %s has %d bytes; its manifest declares %d", d, resp.ContentLength, size)
	}
	if err != nil {
		s.broken(w, r, err)
		return
	}
	defer func() { _ = resp.Body.Close() }()
	for _, key := range []string{"Content-Length", "Content-Range", "Accept-Ranges"} {
		if v := resp.Header.Get(key); v != "" {
			w.Header().Set(key, v)
		}
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.WriteHeader(resp.StatusCode)
	// A blob that breaks off is the engine's to continue.
	if _, err := io.Copy(w, io.LimitReader(resp.Body, size)); err != nil {
		panic(http.ErrAbortHandler) // an answer without a length must not look complete
	}
}

// broken ends the pull from this host: the engine would try it again several times.
func (s *session) broken(w http.ResponseWriter, r *http.Request, err error) {
	if !errors.Is(err, context.Canceled) && r.Context().Err() == nil {
		s.fail(err)
	}
	refuse(w, http.StatusBadGateway, "UNKNOWN", err.Error())
}
