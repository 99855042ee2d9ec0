package shim_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/docker/docker/api/types/registry"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/shim/engine/enginetest"
)

const appImage = "registry.test/team/app:1"

func (n *node) pull(ctx context.Context, image string, auth *runtimeapi.AuthConfig) (string, error) {
	r, err := n.images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: image}, Auth: auth})
	return r.GetImageRef(), err
}

func (n *node) imageStatus(ref string) *runtimeapi.Image {
	n.t.Helper()
	r, err := n.images.ImageStatus(n.ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
	n.must(err)
	return r.Image
}

func (n *node) removeImage(ref string) error {
	_, err := n.images.RemoveImage(n.ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
	return err
}

// heldPulls are pulls of an image that block until release is called.
type heldPulls struct {
	begun     atomic.Int32
	abandoned atomic.Int32 // those of which the engine knows that the client has left
	release   func()
}

// heldPull publishes an image whose pulls block.
func (n *node) heldPull(ref string) *heldPulls {
	released := make(chan struct{})
	p := &heldPulls{release: func() { close(released) }}
	n.docker.Publish(ref, enginetest.Image{Pull: func(ctx context.Context, _ func(string), _ string) error {
		p.begun.Add(1)
		stop := context.AfterFunc(ctx, func() { p.abandoned.Add(1) })
		defer stop()
		<-released
		return nil
	}})
	return p
}

func TestPullIsShared(t *testing.T) {
	n := newNode(t)
	pulls := n.heldPull(appImage)
	ids := make(chan string, 10)
	pull := func(ctx context.Context, auth *runtimeapi.AuthConfig) {
		id, err := n.pull(ctx, appImage, auth)
		if err != nil && ctx.Err() == nil {
			t.Error(err)
		}
		ids <- id
	}
	impatient, cancel := context.WithCancel(n.ctx)
	go pull(impatient, nil)
	n.waiting("pull", 1)
	for range 4 {
		go pull(n.ctx, nil)
	}
	n.waiting("pull", 5)
	// The caller that started the pull disconnects; the others still get it.
	cancel()
	if id := <-ids; id != "" {
		t.Errorf("a cancelled pull returned %s", id)
	}
	// A pull is not shared with other credentials.
	go pull(n.ctx, &runtimeapi.AuthConfig{Username: "u", Password: secret})
	n.eventually("a pull of its own for other credentials", func() bool { return pulls.begun.Load() == 2 })
	pulls.release()
	want := ""
	for range 5 {
		id := <-ids
		if want == "" {
			want = id
		}
		if id == "" || id != want {
			t.Errorf("image %q, want %q", id, want)
		}
	}
	if got := n.docker.Calls()["image pull"]; got != 2 {
		t.Errorf("%d pulls, want 2", got)
	}
}

func TestPullIsCancelledByTheLast(t *testing.T) {
	n := newNode(t)
	pulls := n.heldPull(appImage)
	ctx, cancel := context.WithCancel(n.ctx)
	failed := make(chan error, 2)
	for range 2 {
		go func() {
			_, err := n.pull(ctx, appImage, nil)
			failed <- err
		}()
	}
	n.waiting("pull", 2)
	n.eventually("the pull has begun", func() bool { return pulls.begun.Load() == 1 })
	cancel()
	wantCode(t, <-failed, codes.Canceled)
	wantCode(t, <-failed, codes.Canceled)
	n.eventually("the pull has ended", func() bool { return n.metric(`cridock_image_pull_duration_seconds_count{result="error"}`) == "1" })
	n.eventually("the engine has noticed", func() bool { return pulls.abandoned.Load() == 1 })
	pulls.release()
	if n.imageStatus(appImage) != nil {
		t.Error("a cancelled pull has made an image")
	}
	if _, err := n.pull(n.ctx, appImage, nil); err != nil {
		t.Errorf("the next pull: %v", err)
	}
	if pulls.begun.Load() != 2 {
		t.Errorf("%d pulls, want 2", pulls.begun.Load())
	}
	expired, cancel := context.WithTimeout(n.ctx, time.Nanosecond)
	defer cancel()
	_, err := n.pull(expired, appImage, nil)
	wantCode(t, err, codes.DeadlineExceeded)
}

func TestPullErrors(t *testing.T) {
	n := newNode(t)
	for _, tc := range []struct {
		name, text, prefix string
		code               codes.Code
	}{
		{"no access", "pull access denied for app, repository does not exist or may require 'docker login'", "", codes.Unknown},
		{"no such tag", "manifest unknown: manifest unknown", "", codes.NotFound},
		{"too many", "toomanyrequests: You have reached your pull rate limit", "", codes.ResourceExhausted},
		{"registry down", "Get https://registry.test/v2/: dial tcp 10.0.0.1:443: connect: connection refused", "RegistryUnavailable: ", codes.Unknown},
		{"registry broken", "received unexpected HTTP status: 503 Service Unavailable", "RegistryUnavailable: ", codes.Unknown},
		{"no signature", "remote trust data does not exist for registry.test/app", "SignatureValidationFailed: ", codes.Unknown},
		{"disk full", "write /var/lib/docker/tmp/x: no space left on device", "", codes.ResourceExhausted},
		{"engine restarts", "error creating temporary lease: transport is closing: unavailable", "", codes.Unavailable},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n.docker.Publish(appImage, enginetest.Image{Pull: func(context.Context, func(string), string) error { return errors.New(tc.text) }})
			_, err := n.pull(n.ctx, appImage, nil)
			wantCode(t, err, tc.code, tc.text, appImage)
			if message := status.Convert(err).Message(); !strings.HasPrefix(message, tc.prefix) {
				t.Errorf("message %q does not begin with %q", message, tc.prefix)
			}
		})
	}
	_, err := n.pull(n.ctx, "registry.test/not/published:1", nil)
	wantCode(t, err, codes.NotFound, "registry.test/not/published:1")
	n.docker.FailNext("image pull", 1, http.StatusInternalServerError, "Get https://registry.test/v2/: net/http: TLS handshake timeout")
	_, err = n.pull(n.ctx, appImage, nil)
	wantCode(t, err, codes.Unknown, "RegistryUnavailable: ")
}

// TestNoArtifacts: where no artifact is kept, the registry is not asked for one.
func TestNoArtifacts(t *testing.T) {
	for _, size := range []int64{0, 1 << 20} {
		var requests atomic.Int32
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			requests.Add(1)
			w.WriteHeader(http.StatusNotFound)
		}))
		defer server.Close()
		n := newNode(t, func(n *node) { n.cfg.MaxArtifacts = size })
		ref := strings.TrimPrefix(server.URL, "http://") + "/app:1"
		n.docker.Publish(ref, enginetest.Image{Pull: func(context.Context, func(string), string) error {
			return errors.New("unsupported media type application/x")
		}})
		_, err := n.pull(n.ctx, ref, nil)
		if got := requests.Load(); err == nil || (got > 0) != (size > 0) {
			t.Errorf("with room for %d bytes: %d requests, %v", size, got, err)
		}
	}
}

// TestTagMovesToArtifactAndBack: a reference is what was pulled by it last.
func TestTagMovesToArtifactAndBack(t *testing.T) {
	file := "content"
	manifest := fmt.Appendf(nil, `{"artifactType":"application/vnd.test","layers":[{"digest":"sha256:%x","size":%d}]}`, sha256.Sum256([]byte(file)), len(file))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/blobs/") {
			_, _ = io.WriteString(w, file)
			return
		}
		_, _ = w.Write(manifest)
	}))
	defer server.Close()
	n := newNode(t, func(n *node) { n.cfg.MaxArtifacts = 1 << 20 })
	ref := strings.TrimPrefix(server.URL, "http://") + "/app:1"
	artifact := fmt.Sprintf("sha256:%x", sha256.Sum256(manifest))
	for _, isArtifact := range []bool{false, true, false} {
		n.docker.Publish(ref, enginetest.Image{Pull: func(context.Context, func(string), string) error {
			if isArtifact {
				return errors.New("unsupported media type application/vnd.test")
			}
			return nil
		}})
		id, err := n.pull(n.ctx, ref, nil)
		n.must(err)
		if got := n.imageStatus(ref).GetId(); got != id || (id == artifact) != isArtifact {
			t.Errorf("pulled %s, the status is of %s; the artifact is %s", id, got, artifact)
		}
	}
	if err := n.removeImage(artifact); err != nil || n.imageStatus(ref) == nil {
		t.Errorf("the artifact is removed: %v", err)
	}
}

func TestPullStallsAndEnds(t *testing.T) {
	n := newNode(t, func(n *node) { n.cfg.PullProgressTimeout = 100 * time.Millisecond })
	ended := make(chan struct{})
	n.docker.Publish(appImage, enginetest.Image{Pull: func(_ context.Context, progress func(string), _ string) error {
		progress("Extracting")
		<-ended
		return nil
	}})
	_, err := n.pull(n.ctx, appImage, nil)
	close(ended)
	if err == nil || !strings.Contains(err.Error(), "no progress") {
		t.Errorf("a pull that stands still: %v", err)
	}
}

func TestPullCredentials(t *testing.T) {
	n := newNode(t)
	var got registry.AuthConfig
	n.docker.Publish(appImage, enginetest.Image{Pull: func(_ context.Context, _ func(string), auth string) error {
		got = registry.AuthConfig{}
		return json.Unmarshal([]byte(auth), &got)
	}})
	for name, tc := range map[string]struct {
		auth *runtimeapi.AuthConfig
		want registry.AuthConfig
	}{
		"none":     {nil, registry.AuthConfig{}},
		"password": {&runtimeapi.AuthConfig{Username: "u", Password: secret}, registry.AuthConfig{Username: "u", Password: secret, ServerAddress: "registry.test"}},
		"auth": {&runtimeapi.AuthConfig{Auth: base64.StdEncoding.EncodeToString([]byte("u:" + secret))},
			registry.AuthConfig{Username: "u", Password: secret, ServerAddress: "registry.test"}},
		"identity token":            {&runtimeapi.AuthConfig{IdentityToken: secret}, registry.AuthConfig{IdentityToken: secret, ServerAddress: "registry.test"}},
		"registry token":            {&runtimeapi.AuthConfig{RegistryToken: secret}, registry.AuthConfig{RegistryToken: secret, ServerAddress: "registry.test"}},
		"those of another registry": {&runtimeapi.AuthConfig{Username: "u", Password: secret, ServerAddress: "https://other.test"}, registry.AuthConfig{}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := n.pull(n.ctx, appImage, tc.auth); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("credentials (-want +got):\n%s", diff)
			}
		})
	}
}

// TestImageNames looks up one image by everything that names it.
func TestImageNames(t *testing.T) {
	n := newNode(t)
	const digest = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	n.docker.Publish("busybox:2", enginetest.Image{Digests: []string{"busybox@" + digest}})
	id, err := n.pull(n.ctx, "busybox:2", nil)
	n.must(err)
	n.docker.AddImage("registry.test/mirror:2", enginetest.Image{ID: id})
	n.eventually("the second tag is seen", func() bool { return len(n.imageStatus(id).GetRepoTags()) == 2 })
	want := n.imageStatus(id)
	if want.GetId() != id || want.Size == 0 {
		t.Fatalf("image = %v, want %s", want, id)
	}
	names := []string{"busybox:2", "docker.io/library/busybox:2", "docker.io/library/busybox@" + digest, "busybox@" + digest,
		"registry.test/mirror:2", strings.TrimPrefix(id, "sha256:"), strings.TrimPrefix(id, "sha256:")[:12]}
	for _, name := range names {
		if diff := cmp.Diff(want, n.imageStatus(name), protocmp.Transform()); diff != "" {
			t.Errorf("image by %s (-want +got):\n%s", name, diff)
		}
	}
	for _, unknown := range []string{"busybox:3", "busybox", strings.Repeat("0", 64), "sha256:" + strings.Repeat("0", 64), "registry.test/busybox:2"} {
		if got := n.imageStatus(unknown); got != nil {
			t.Errorf("image by %s = %v, want none", unknown, got)
		}
		n.must(n.removeImage(unknown))
	}
	list, err := n.images.ListImages(n.ctx, &runtimeapi.ListImagesRequest{Filter: &runtimeapi.ImageFilter{Image: &runtimeapi.ImageSpec{Image: "busybox:2"}}})
	n.must(err)
	if diff := cmp.Diff([]*runtimeapi.Image{want}, list.Images, protocmp.Transform()); diff != "" {
		t.Errorf("list (-want +got):\n%s", diff)
	}
}

func TestRemoveImage(t *testing.T) {
	n := newNode(t)
	const digest = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	for _, by := range []string{"registry.test/app:1", "registry.test/other:1", "registry.test/app@" + digest, "id", "short id"} {
		t.Run(by, func(t *testing.T) {
			id := n.docker.AddImage("registry.test/app:1", enginetest.Image{})
			n.docker.AddImage("registry.test/other:1", enginetest.Image{ID: id})
			n.docker.AddImage("registry.test/app@"+digest, enginetest.Image{ID: id})
			n.eventually("all names are seen", func() bool {
				i := n.imageStatus(id)
				return len(i.GetRepoTags()) == 2 && len(i.GetRepoDigests()) == 1
			})
			ref := map[string]string{"id": id, "short id": strings.TrimPrefix(id, "sha256:")[:12]}[by]
			if ref == "" {
				ref = by
			}
			inParallel(8, func() {
				if err := n.removeImage(ref); err != nil {
					t.Errorf("at once: %v", err)
				}
			})
			for _, name := range []string{id, "registry.test/app:1", "registry.test/other:1", "registry.test/app@" + digest} {
				if n.imageStatus(name) != nil {
					t.Errorf("%s is there after the removal by %s", name, by)
				}
			}
			n.must(n.removeImage(ref))
		})
	}
	t.Run("in use", func(t *testing.T) {
		n.docker.AddImage("registry.test/tag:1", enginetest.Image{ID: n.imageID})
		pod := n.runPod(n.podConfig("web"))
		id := n.runContainer(pod, containerConfig("main", "sleep", "1"))
		n.eventually("both tags are seen", func() bool { return len(n.imageStatus(n.imageID).GetRepoTags()) == 2 })
		for _, ref := range []string{testImage, "registry.test/tag:1", n.imageID} {
			wantCode(t, n.removeImage(ref), codes.FailedPrecondition, n.imageID, id)
		}
		if got := n.imageStatus(n.imageID).GetRepoTags(); len(got) != 2 {
			t.Errorf("tags = %v: a removal that failed has taken some", got)
		}
		// The sandboxes' image is in use too.
		pinned := ""
		list, err := n.images.ListImages(n.ctx, &runtimeapi.ListImagesRequest{})
		n.must(err)
		for _, i := range list.Images {
			if i.Pinned {
				pinned = i.Id
			}
		}
		wantCode(t, n.removeImage(pinned), codes.FailedPrecondition, pinned)
		if n.imageStatus(pinned) == nil {
			t.Error("the sandboxes' image is gone")
		}
		// An exited container does not keep its image, and can still be inspected.
		n.must(n.stopContainer(id, 0))
		n.must(n.removeImage(testImage))
		if n.imageStatus(n.imageID) != nil {
			t.Error("the image is still there")
		}
		if st := n.status(id); st.ImageId != n.imageID {
			t.Errorf("image of the container = %q, want %q", st.ImageId, n.imageID)
		}
	})
}

// TestPauseImageIsBroughtBack: pods can be run even after the sandboxes' image
// has been removed.
func TestPauseImageIsBroughtBack(t *testing.T) {
	n := newNode(t)
	list, err := n.images.ListImages(n.ctx, &runtimeapi.ListImagesRequest{})
	n.must(err)
	for _, i := range list.Images {
		if i.Pinned {
			n.must(n.removeImage(i.Id))
		}
	}
	n.runPod(n.podConfig("web"))
}

// TestPinnedImages: the operator's patterns pin images beside the sandbox image.
func TestPinnedImages(t *testing.T) {
	n := newNode(t, func(n *node) { n.cfg.PinnedImages = []string{"registry.test/base/*"} })
	for _, name := range []string{"registry.test/base/app:1", "registry.test/other:1"} {
		n.docker.Publish(name, enginetest.Image{})
		_, err := n.pull(n.ctx, name, nil)
		n.must(err)
		if got, want := n.imageStatus(name).GetPinned(), strings.Contains(name, "/base/"); got != want {
			t.Errorf("%s is pinned: %v, want %v", name, got, want)
		}
	}
}

// TestPullForNamespace: a pull for a pod uses the credentials of its namespace.
func TestPullForNamespace(t *testing.T) {
	auth := ""
	n := newNode(t, func(n *node) { n.cfg.NamespacedAuthDir = filepath.Join(n.dir, "auth") })
	n.must(os.Mkdir(n.cfg.NamespacedAuthDir, 0o700))
	sum := sha256.Sum256([]byte("registry.test/team/app"))
	file := filepath.Join(n.cfg.NamespacedAuthDir, "team-"+hex.EncodeToString(sum[:])+".json")
	n.must(os.WriteFile(file, []byte(`{"auths":{"registry.test":{"username":"team","password":"p"}}}`), 0o600))
	n.docker.Publish(appImage, enginetest.Image{Pull: func(_ context.Context, _ func(string), got string) error {
		auth = got
		return nil
	}})
	_, err := n.images.PullImage(n.ctx, &runtimeapi.PullImageRequest{
		Image:         &runtimeapi.ImageSpec{Image: appImage},
		SandboxConfig: &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Namespace: "team"}},
	})
	n.must(err)
	if !strings.Contains(auth, `"username":"team"`) {
		t.Errorf("the pull had the credentials %s", auth)
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the used file: %v", err)
	}
}
