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
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/registry"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/needs"
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
	s := newStore(t, 1e6)
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
	for name, s := range map[string]*Store{"the same process": s, "a new process": New(Options{Dir: s.opts.Dir, Limit: 1e6})} {
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
		if size, files, err := s.Size(t.Context()); err != nil || size != 6*minFile || files != 3+1+2*4 {
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
		"more than the store has": {[]ocispec.Descriptor{u.file("a", strings.Repeat("x", 2*minFile+1))}, errdefs.IsResourceExhausted},
		"many empty files":        {[]ocispec.Descriptor{u.file("a", ""), u.file("b", ""), u.file("c", "")}, errdefs.IsResourceExhausted},
		"other content":           {[]ocispec.Descriptor{wrong}, func(err error) bool { return strings.Contains(err.Error(), "does not have") }},
		"more content":            {[]ocispec.Descriptor{large}, func(err error) bool { return strings.Contains(err.Error(), "does not have") }},
		"a missing blob":          {[]ocispec.Descriptor{u.file("a", "x"), missing}, func(err error) bool { return strings.Contains(err.Error(), "404") }},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, 3*minFile) // a manifest and two files
			u.push("1", nil, tc.files...)
			if id, err := pull(t, s, u.repo()+":1"); err == nil || !tc.class(err) {
				t.Errorf("%q, %v", id, err)
			}
			if entries, _ := os.ReadDir(s.opts.Dir); len(entries) != 0 {
				t.Errorf("kept: %v", entries)
			}
		})
	}
	s := newStore(t, 3*minFile)
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

// TestNoArtifacts: a bound of zero refuses even an artifact without content.
func TestNoArtifacts(t *testing.T) {
	u := newUpstream(t)
	u.push("1", nil, u.file("a", ""))
	if _, err := pull(t, newStore(t, 0), u.repo()+":1"); !errdefs.IsResourceExhausted(err) {
		t.Errorf("error %v", err)
	}
}

// TestBrokenStore: whatever is on the disk, the artifact can be pulled again, and the
// store shows what is complete.
func TestBrokenStore(t *testing.T) {
	u := newUpstream(t)
	for name, tc := range map[string]struct {
		spoil func(dir string) error
		known bool // to a new process
	}{
		"the manifest is cut off": {func(dir string) error { return os.WriteFile(filepath.Join(dir, manifestFile), []byte("{"), 0o600) }, false},
		"the manifest is another": {func(dir string) error { return os.WriteFile(filepath.Join(dir, manifestFile), []byte("{}"), 0o600) }, false},
		"no manifest":             {func(dir string) error { return os.Remove(filepath.Join(dir, manifestFile)) }, false},
		"an unreadable manifest": {func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, manifestFile)), os.Mkdir(filepath.Join(dir, manifestFile), 0o700))
		}, false},
		"the names are cut off": {func(dir string) error { return os.WriteFile(filepath.Join(dir, namesFile), []byte(`["a`), 0o600) }, true},
		"no names":              {func(dir string) error { return os.Remove(filepath.Join(dir, namesFile)) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t, 1e6)
			id := u.push("1", nil, u.file("a", "content"))
			if _, err := pull(t, s, u.repo()+":1"); err != nil {
				t.Fatal(err)
			}
			if err := tc.spoil(filepath.Join(s.opts.Dir, strings.TrimPrefix(id, digestOf))); err != nil {
				t.Fatal(err)
			}
			s = New(s.opts)
			if _, ok, err := s.Files(t.Context(), id); ok != tc.known || err != nil {
				t.Errorf("the new process knows it: %v, %v", ok, err)
			}
			if got, err := pull(t, s, u.repo()+":1"); got != id || err != nil {
				t.Fatalf("pulled again: %q, %v", got, err)
			}
			if diff := cmp.Diff(map[string]string{"a": "content"}, contents(t, s, id)); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
			images, err := s.Images(t.Context())
			if err != nil || len(images) != 1 || !cmp.Equal(images[0].RepoTags, []string{u.repo() + ":1"}) {
				t.Errorf("images %v, %v", images, err)
			}
			if entries, _ := os.ReadDir(s.opts.Dir); len(entries) != 1 {
				t.Errorf("in the directory: %v", entries)
			}
		})
	}
}

// TestNamesCannotBeWritten: a pull that fails after the download needs no other one.
func TestNamesCannotBeWritten(t *testing.T) {
	u := newUpstream(t)
	s := newStore(t, 1e6)
	first := u.push("1", nil, u.file("a", "content"))
	if _, err := pull(t, s, u.repo()+":1"); err != nil {
		t.Fatal(err)
	}
	names := filepath.Join(s.opts.Dir, strings.TrimPrefix(first, digestOf), namesFile)
	if err := errors.Join(os.Remove(names), os.Mkdir(names, 0o700)); err != nil {
		t.Fatal(err)
	}
	file := u.file("a", "other")
	second := u.push("1", nil, file)
	if _, err := pull(t, s, u.repo()+":1"); err == nil {
		t.Fatal("the tag has moved")
	}
	if err := os.Remove(names); err != nil {
		t.Fatal(err)
	}
	delete(u.blobs, file.Digest.String())
	if id, err := pull(t, s, u.repo()+":1"); id != second || err != nil {
		t.Errorf("pulled again: %q, %v", id, err)
	}
}

// TestManyNames: the newest names are kept.
func TestManyNames(t *testing.T) {
	u := newUpstream(t)
	s := newStore(t, 1e6)
	id := u.push("new", nil, u.file("a", "content"))
	if _, err := pull(t, s, u.repo()+"@"+id); err != nil {
		t.Fatal(err)
	}
	a := s.known[strings.TrimPrefix(id, digestOf)]
	for i := len(a.names); i < maxNames; i++ {
		a.names = append(a.names, fmt.Sprintf("%s:%d", u.repo(), i))
	}
	if _, err := pull(t, s, u.repo()+":new"); err != nil {
		t.Fatal(err)
	}
	images, err := New(s.opts).Images(t.Context())
	if err != nil || len(images) != 1 {
		t.Fatalf("images %v, %v", images, err)
	}
	tags := images[0].RepoTags
	if !slices.Contains(tags, u.repo()+":new") || slices.Contains(tags, u.repo()+":1") || !slices.Contains(tags, u.repo()+":2") || images[0].Ref != u.repo()+"@"+id {
		t.Errorf("the artifact %s has %d tags: %q", images[0].Ref, len(tags), tags)
	}
}

// TestDraftThatStays: the store works even if what a pull has left cannot be removed.
func TestDraftThatStays(t *testing.T) {
	u := newUpstream(t)
	id := u.push("1", nil, u.file("a", "content"))
	s := newStore(t, 1e6)
	draft := filepath.Join(s.opts.Dir, draftPrefix+"x")
	if err := errors.Join(os.MkdirAll(draft, 0o700), os.WriteFile(filepath.Join(draft, "a"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() != 0 {
		if err := os.Chmod(draft, 0o500); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Chmod(draft, 0o700) })
	} else {
		err := unix.Mount("tmpfs", draft, "tmpfs", 0, "size=4k")
		needs.That(t, err == nil, "needs to mount a tmpfs, whose directory nobody can remove: %v", err)
		t.Cleanup(func() {
			entries, _ := filepath.Glob(filepath.Join(s.opts.Dir, draftPrefix+"*"))
			for _, e := range entries {
				_ = unix.Unmount(e, 0)
			}
		})
	}
	if got, err := pull(t, s, u.repo()+":1"); got != id || err != nil {
		t.Errorf("pulled: %q, %v", got, err)
	}
	if images, err := s.Images(t.Context()); err != nil || len(images) != 1 {
		t.Errorf("images %v, %v", images, err)
	}
}

// TestUntag: a tag that an image has taken is not the artifact's any more.
func TestUntag(t *testing.T) {
	u := newUpstream(t)
	s := newStore(t, 1e6)
	id := u.push("1", nil, u.file("a", "content"))
	if _, err := pull(t, s, u.repo()+":1"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{u.repo() + ":2", u.repo() + "@" + id, u.repo() + ":1"} {
		ref, err := translate.NormalizeImage(name)
		if err != nil {
			t.Fatal(err)
		}
		s = New(s.opts)
		if err := s.Untag(t.Context(), ref); err != nil {
			t.Fatal(err)
		}
		images, err := New(s.opts).Images(t.Context())
		if err != nil || len(images) != 1 || images[0].Ref != u.repo()+"@"+id || (len(images[0].RepoTags) == 0) != (ref.Tag == "1") {
			t.Errorf("without %s there is %v, %v", name, images, err)
		}
	}
}
