package artifact

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cridock/cridock/translate"
)

// stalls has a registry send the first byte of a blob and then nothing. It returns a
// channel that gets a value for each such request.
func (u *upstream) stalls(blob ocispec.Descriptor) <-chan struct{} {
	begun := make(chan struct{}, 100)
	next := u.Config.Handler
	u.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v2/team/data/blobs/"+blob.Digest.String() {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Length", fmt.Sprint(blob.Size))
		_, _ = w.Write(u.blobs[blob.Digest.String()][:1])
		_ = http.NewResponseController(w).Flush()
		begun <- struct{}{}
		<-r.Context().Done()
	})
	return begun
}

// TestStalledDownload: a registry that stalls ends its own pull, and keeps nothing.
func TestStalledDownload(t *testing.T) {
	u := newUpstream(t)
	f := u.file("a", "content")
	u.push("1", nil, f)
	u.stalls(f)
	s := newStore(t, 1e6)
	s.opts.StallTimeout = 50 * time.Millisecond
	if _, err := pull(t, s, u.repo()+":1"); !errors.Is(err, errStalled) {
		t.Errorf("error %v, want %v", err, errStalled)
	}
	if entries, _ := os.ReadDir(s.opts.Dir); len(entries) != 0 || s.reserved != 0 {
		t.Errorf("kept: %v, %d bytes reserved", entries, s.reserved)
	}
}

// TestPullDuringStalledDownload: others pull meanwhile, even the same artifact from
// elsewhere, within what the stalled download has left of the bound.
func TestPullDuringStalledDownload(t *testing.T) {
	slow, quick := newUpstream(t), newUpstream(t)
	f := slow.file("a", "content")
	shared := slow.push("1", nil, f)
	begun := slow.stalls(f)
	s := newStore(t, 7*minFile) // three artifacts with one file, and a little
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	ref, err := translate.NormalizeImage(slow.repo() + ":1")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, err := s.Pull(ctx, ref, registry.AuthConfig{}, accept)
		ended <- err
	}()
	defer cancel()
	<-begun
	quick.push("1", nil, quick.file("a", "content"))
	if id, err := pull(t, s, quick.repo()+":1"); id != shared || err != nil {
		t.Errorf("the same artifact: %q, %v", id, err)
	}
	quick.push("2", nil, quick.file("b", strings.Repeat("x", 3*minFile)))
	if _, err := pull(t, s, quick.repo()+":2"); !errdefs.IsResourceExhausted(err) {
		t.Errorf("more than is left: %v", err)
	}
	quick.push("3", nil, quick.file("c", "123456"))
	if _, err := pull(t, s, quick.repo()+":3"); err != nil {
		t.Errorf("another artifact: %v", err)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the stalled download: %v", err)
	}
	if s.reserved != 0 {
		t.Errorf("%d bytes stay reserved", s.reserved)
	}
}
