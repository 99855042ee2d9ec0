package artifact

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/registry"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cridock/cridock/shim/images/mirror"
	"github.com/cridock/cridock/translate"
)

// upstream is a registry.
type upstream struct {
	*httptest.Server
	manifests map[string][]byte // by tag and digest
	blobs     map[string][]byte
}

func newUpstream(t *testing.T) *upstream {
	u := &upstream{manifests: map[string][]byte{}, blobs: map[string][]byte{}}
	u.Server = httptest.NewServer(u)
	t.Cleanup(u.Close)
	return u
}

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(r.URL.Path, "/")
	kind, ref := parts[len(parts)-2], parts[len(parts)-1]
	body, ok := map[string]map[string][]byte{"manifests": u.manifests, "blobs": u.blobs}[kind][ref]
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
}

func (u *upstream) repo() string { return strings.TrimPrefix(u.URL, "http://") + "/team/data" }

// file is a layer with its title.
func (u *upstream) file(title, content string) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: "text/plain", Digest: digest.FromString(content), Size: int64(len(content))}
	if title != "" {
		d.Annotations = map[string]string{ocispec.AnnotationTitle: title}
	}
	u.blobs[d.Digest.String()] = []byte(content)
	return d
}

// push adds an artifact under a tag, and returns its digest.
func (u *upstream) push(tag string, change func(*ocispec.Manifest), files ...ocispec.Descriptor) string {
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/vnd.test", Config: ocispec.DescriptorEmptyJSON, Layers: files}
	if change != nil {
		change(&m)
	}
	b, _ := json.Marshal(m)
	d := digest.FromBytes(b).String()
	u.manifests[tag], u.manifests[d] = b, b
	return d
}

func newStore(t *testing.T, limit int64) *Store {
	return New(Options{Dir: filepath.Join(t.TempDir(), "artifacts"), Limit: limit, Source: mirror.New(mirror.Options{})})
}

func accept(context.Context, ocispec.Descriptor) error { return nil }

func pull(t *testing.T, s *Store, ref string) (string, error) {
	t.Helper()
	parsed, err := translate.NormalizeImage(ref)
	if err != nil {
		t.Fatal(err)
	}
	return s.Pull(t.Context(), parsed, registry.AuthConfig{}, accept)
}

// contents maps the names of an artifact's files to what is in them.
func contents(t *testing.T, s *Store, id string) map[string]string {
	t.Helper()
	dir, ok, err := s.Files(t.Context(), id)
	if err != nil || !ok {
		t.Fatalf("files of %s: %v, %v", id, ok, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = string(b)
	}
	return out
}

func TestPull(t *testing.T) {
	u := newUpstream(t)
	untitled := u.file("", "no name")
	first := u.push("1", nil, u.file("model.bin", "weights"), u.file("LIESMICH ß.md", "read me"), untitled)
	s := newStore(t, 1000)
	for _, ref := range []string{u.repo() + ":1", u.repo() + "@" + first, u.repo() + ":1@" + first} {
		if id, err := pull(t, s, ref); id != first || err != nil {
			t.Fatalf("%s: %q, %v", ref, id, err)
		}
	}
	want := map[string]string{"model.bin": "weights", "LIESMICH ß.md": "read me", strings.ReplaceAll(untitled.Digest.String(), ":", "-"): "no name"}
	if diff := cmp.Diff(want, contents(t, s, first)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}

	// The tag moves to another artifact; a new process sees the same.
	second := u.push("1", nil, u.file("model.bin", "other"))
	if id, err := pull(t, s, u.repo()+":1"); id != second || err != nil {
		t.Fatalf("the moved tag: %q, %v", id, err)
	}
	if err := os.MkdirAll(filepath.Join(s.opts.Dir, draftPrefix+"x", filesDir), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]*Store{"the same process": s, "a new process": New(Options{Dir: s.opts.Dir, Limit: 1000})} {
		images, err := s.Images(t.Context())
		if err != nil || len(images) != 2 {
			t.Fatalf("%s: %v, %v", name, images, err)
		}
		for _, i := range images {
			tags, size := []string{u.repo() + ":1"}, uint64(len("other"))
			if i.ID == first {
				tags, size = nil, uint64(len("weightsread meno name"))
			}
			if diff := cmp.Diff(translate.Image{ID: i.ID, Ref: u.repo() + "@" + i.ID, RepoTags: tags, RepoDigests: []string{u.repo() + "@" + i.ID}, Size: size}, i); diff != "" {
				t.Errorf("%s: image (-want +got):\n%s", name, diff)
			}
		}
		if size, files, err := s.Size(t.Context()); err != nil || size != 26 || files != 2 {
			t.Errorf("%s: %d bytes, %d files, %v", name, size, files, err)
		}
	}
	if _, err := os.Stat(filepath.Join(s.opts.Dir, draftPrefix+"x")); !os.IsNotExist(err) {
		t.Errorf("what an interrupted pull has left: %v", err)
	}
	for range 2 {
		if err := s.Remove(t.Context(), first); err != nil {
			t.Error(err)
		}
	}
	if _, ok, _ := s.Files(t.Context(), first); ok {
		t.Error("the removed artifact is there")
	}
	if entries, _ := os.ReadDir(s.opts.Dir); len(entries) != 1 {
		t.Errorf("left in the directory: %v", entries)
	}
}

// TestHostileArtifacts: nothing of these is kept.
func TestHostileArtifacts(t *testing.T) {
	u := newUpstream(t)
	wrong, large := u.file("a", "content"), u.file("b", "more")
	wrong.Digest = digest.FromString("something else")
	u.blobs[wrong.Digest.String()] = []byte("content")
	large.Size--
	missing := ocispec.Descriptor{Digest: digest.FromString("missing"), Size: 5}
	weak := u.file("a", "x")
	weak.Digest = "md5:aaaa"
	negative := u.file("a", "x")
	negative.Size = -1
	huge := u.file("a", "x")
	huge.Size = 1 << 61
	many := make([]ocispec.Descriptor, maxFiles+1)
	for i := range many {
		many[i] = u.file(fmt.Sprint(i), "x")
	}
	for name, tc := range map[string]struct {
		files []ocispec.Descriptor
		class func(error) bool
	}{
		"a title that climbs":     {[]ocispec.Descriptor{u.file("../../etc/passwd", "x")}, errdefs.IsFailedPrecondition},
		"the parent directory":    {[]ocispec.Descriptor{u.file("..", "x")}, errdefs.IsFailedPrecondition},
		"an absolute title":       {[]ocispec.Descriptor{u.file("/etc/passwd", "x")}, errdefs.IsFailedPrecondition},
		"a title with a line":     {[]ocispec.Descriptor{u.file("a\nb", "x")}, errdefs.IsFailedPrecondition},
		"a long title":            {[]ocispec.Descriptor{u.file(strings.Repeat("x", 256), "x")}, errdefs.IsFailedPrecondition},
		"one title twice":         {[]ocispec.Descriptor{u.file("a", "x"), u.file("a", "y")}, errdefs.IsFailedPrecondition},
		"no files":                {nil, errdefs.IsFailedPrecondition},
		"too many files":          {many, errdefs.IsFailedPrecondition},
		"a weak digest":           {[]ocispec.Descriptor{weak}, errdefs.IsFailedPrecondition},
		"a negative size":         {[]ocispec.Descriptor{negative}, errdefs.IsFailedPrecondition},
		"an impossible size":      {[]ocispec.Descriptor{huge}, errdefs.IsFailedPrecondition},
		"more than the store has": {[]ocispec.Descriptor{u.file("a", strings.Repeat("x", 101))}, errdefs.IsResourceExhausted},
		"other content":           {[]ocispec.Descriptor{wrong}, func(err error) bool { return strings.Contains(err.Error(), "does not have") }},
		"more content":            {[]ocispec.Descriptor{large}, func(err error) bool { return strings.Contains(err.Error(), "does not have") }},
		"a missing blob":          {[]ocispec.Descriptor{u.file("a", "x"), missing}, func(err error) bool { return strings.Contains(err.Error(), "404") }},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, 100)
			u.push("1", nil, tc.files...)
			if id, err := pull(t, s, u.repo()+":1"); err == nil || !tc.class(err) {
				t.Errorf("%q, %v", id, err)
			}
			if entries, _ := os.ReadDir(s.opts.Dir); len(entries) != 0 {
				t.Errorf("kept: %v", entries)
			}
		})
	}
	s := newStore(t, 100)
	u.push("image", func(m *ocispec.Manifest) { m.Config.MediaType, m.ArtifactType = ocispec.MediaTypeImageConfig, "" }, u.file("a", "x"))
	if _, err := pull(t, s, u.repo()+":image"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("an image: %v", err)
	}
	if _, err := pull(t, s, u.repo()+":none"); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("no such tag: %v", err)
	}
	refused := errors.New("refused")
	u.push("1", nil, u.file("a", "x"))
	ref, _ := translate.NormalizeImage(u.repo() + ":1")
	if _, err := s.Pull(t.Context(), ref, registry.AuthConfig{}, func(context.Context, ocispec.Descriptor) error { return refused }); !errors.Is(err, refused) {
		t.Errorf("a policy's refusal: %v", err)
	}
	if images, err := s.Images(t.Context()); err != nil || len(images) != 0 {
		t.Errorf("kept: %v, %v", images, err)
	}
}
