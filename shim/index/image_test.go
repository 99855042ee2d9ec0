package index_test

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cridock/cridock/shim/engine/enginetest"
	"github.com/cridock/cridock/shim/index"
	"github.com/cridock/cridock/translate"
)

// blockExits keeps exits from becoming visible until a channel is closed.
func blockExits(until <-chan struct{}) func(*index.Options) {
	return func(o *index.Options) {
		o.Exited = func(ctx context.Context, _ *translate.Container) {
			select {
			case <-until:
			case <-ctx.Done():
			}
		}
	}
}

func TestImageReferences(t *testing.T) {
	f := newFixture(t)
	digest := "sha256:" + strings.Repeat("cd", 32)
	id := f.docker.AddImage("nginx:1", enginetest.Image{
		Digests: []string{"nginx@" + digest}, Config: ocispec.ImageConfig{User: "7", StopSignal: "SIGQUIT"},
	})
	f.ready()
	want, ok, err := f.Image(t.Context(), id)
	if err != nil || !ok || want.User != "7" || want.StopSignal != "SIGQUIT" || !cmp.Equal(want.RepoTags, []string{"docker.io/library/nginx:1"}) {
		t.Fatalf("by ID: %+v, %v, %v", want, ok, err)
	}
	hex := strings.TrimPrefix(id, "sha256:")
	for _, ref := range []string{
		hex, hex[:12], hex[:3], "nginx:1", "docker.io/library/nginx:1", "index.docker.io/library/nginx:1",
		"nginx@" + digest, "docker.io/library/nginx:2@" + digest,
	} {
		got, ok, err := f.Image(t.Context(), ref)
		if err != nil || !ok {
			t.Errorf("%s: %v, %v", ref, ok, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s is another image:\n%s", ref, diff)
		}
	}
	for _, ref := range []string{"nginx", "nginx:2", hex[:2], "other@" + digest, strings.Repeat("0", 64)} {
		if got, ok, err := f.Image(t.Context(), ref); err != nil || ok {
			t.Errorf("%s: %+v, %v", ref, got, err)
		}
	}
	if _, _, err := f.Image(t.Context(), "NGINX:"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("not a reference: %v", err)
	}
}

func TestImagesFollowEvents(t *testing.T) {
	f := newFixture(t).ready()
	has := func(ref string) bool {
		_, ok, err := f.Image(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	f.docker.ResetCalls()
	id := f.docker.AddImage("nginx:1", enginetest.Image{})
	f.docker.AddImage("nginx:2", enginetest.Image{ID: id})
	f.eventually("the image is there", func() bool { return has("nginx:1") && has("nginx:2") })
	if calls := f.docker.Calls(); calls["image inspect"] != 1 {
		t.Errorf("calls for one new image: %v", calls)
	}
	f.docker.LoseEvents(true)
	if err := f.client.ImageRemove(t.Context(), "nginx:1", false); err != nil {
		t.Fatal(err)
	}
	if err := f.SyncImages(t.Context()); err != nil {
		t.Fatal(err)
	}
	if has("nginx:1") || !has("nginx:2") {
		t.Error("after one tag was removed")
	}
	if calls := f.docker.Calls(); calls["image inspect"] != 1 {
		t.Errorf("an image that is known was inspected again: %v", calls)
	}
}

func TestBrokenImageStore(t *testing.T) {
	f := newFixture(t)
	f.run(f.member("", 1))
	f.docker.FailNext("image list", 1, http.StatusInternalServerError, "layer store is broken")
	f.ready()
	if all, err := f.Containers(t.Context()); err != nil || len(all) != 1 {
		t.Errorf("containers %v, %v", all, err)
	}
	if images, err := f.Images(t.Context()); !errdefs.IsUnavailable(err) {
		t.Errorf("no list is not an empty list: %v, %v", images, err)
	}
	if err := f.SyncImages(t.Context()); err != nil {
		t.Fatal(err)
	}
	if images, err := f.Images(t.Context()); err != nil || len(images) != 1 {
		t.Errorf("images %v, %v", images, err)
	}
}
