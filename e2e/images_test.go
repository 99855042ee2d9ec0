package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func (c *cridock) pull(t *testing.T, ref string) string {
	t.Helper()
	return rpc(t, c.images.PullImage, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}}).ImageRef
}

func (c *cridock) imageStatus(t *testing.T, ref string) *runtimeapi.Image {
	t.Helper()
	return rpc(t, c.images.ImageStatus, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: ref}}).Image
}

// pushed builds a new image, pushes it under the tags, removes it from the node
// and returns its digest. Afterwards, cridock knows nothing of it.
func (c *cridock) pushed(t *testing.T, repo, auth string, tags ...string) string {
	t.Helper()
	return c.pushedBuild(t, repo, auth, "USER 1234\n", tags...)
}

// pushedBuild is pushed with the test's own Dockerfile.
func (c *cridock) pushedBuild(t *testing.T, repo, auth, dockerfile string, tags ...string) string {
	t.Helper()
	local := "localhost/e2e/push-" + strings.NewReplacer("/", "-", ":", "-").Replace(repo) + ":1"
	c.docker.build(t, local, fmt.Sprintf("FROM %s\nLABEL repo=%s\n%s", c.image, repo, dockerfile))
	for _, tag := range tags {
		c.docker.tag(t, local, repo, tag)
		c.docker.push(t, repo, tag, auth)
	}
	digest := c.docker.digestOf(t, local, repo)
	var image struct {
		ID string `json:"Id"`
	}
	c.docker.must(t, http.MethodGet, "/images/"+local+"/json", nil, &image)
	eventually(t, "cridock sees the image", time.Minute, func() bool { return c.imageStatus(t, image.ID) != nil })
	c.docker.removeImage(t, image.ID)
	eventually(t, "cridock sees that the image is gone", time.Minute, func() bool { return c.imageStatus(t, image.ID) == nil })
	return digest
}

func TestImages(t *testing.T) {
	t.Parallel()
	c := sharedCridock(t, "docker")
	repo := c.needRegistry(t) + "/e2e/images"
	digest := c.pushed(t, repo, "", "one", "two", "latest")
	id := c.pull(t, repo+":one")
	for _, ref := range []string{repo + ":two", repo + "@" + digest, repo + ":one@" + digest, repo} {
		if got := c.pull(t, ref); got != id {
			t.Errorf("%s was pulled as %s, want %s", ref, got, id)
		}
	}
	for _, ref := range []string{repo + ":one", repo + ":two", repo, repo + "@" + digest, repo + ":one@" + digest, id, strings.TrimPrefix(id, "sha256:")} {
		checkImage(t, c.imageStatus(t, ref), ref, id, repo, digest)
	}
	short, image := c.byShortestID(t, id)
	checkImage(t, image, short, id, repo, digest)
	if got := rpc(t, c.images.ListImages, &runtimeapi.ListImagesRequest{Filter: &runtimeapi.ImageFilter{Image: &runtimeapi.ImageSpec{Image: repo}}}).Images; len(got) != 1 {
		t.Errorf("the list of the repository is %v", got)
	} else {
		checkImage(t, got[0], "the repository", id, repo, digest)
	}
	listed := 0
	for _, i := range rpc(t, c.images.ListImages, &runtimeapi.ListImagesRequest{}).Images {
		if i.Id == id {
			listed++
			checkImage(t, i, "the list", id, repo, digest)
		}
	}
	if listed != 1 {
		t.Errorf("listed %d times", listed)
	}
	checkImageOfContainer(t, c, repo, id, digest)

	rpc(t, c.images.RemoveImage, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: repo + ":two"}})
	for _, ref := range []string{repo + ":one", repo + ":two", repo, repo + "@" + digest, id} {
		if i := c.imageStatus(t, ref); i != nil {
			t.Errorf("after the removal %s is %v", ref, i)
		}
	}
	rpc(t, c.images.RemoveImage, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: repo + ":two"}})
}

// byShortestID returns an image by its shortestID, and that. Another test may have made
// an image with the same digits in between.
func (c *cridock) byShortestID(t *testing.T, id string) (short string, image *runtimeapi.Image) {
	t.Helper()
	eventually(t, "a part of the ID is unique", time.Minute, func() bool {
		short = c.shortestID(t, id)
		r, err := try(c.images.ImageStatus, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: short}})
		if status.Code(err) == codes.InvalidArgument {
			return false
		}
		if err != nil {
			t.Fatal(err)
		}
		image = r.Image
		return true
	})
	return short, image
}

// shortestID returns the shortest prefix of an image's ID, of at least three
// digits, that no other image has.
func (c *cridock) shortestID(t *testing.T, id string) string {
	t.Helper()
	images := rpc(t, c.images.ListImages, &runtimeapi.ListImagesRequest{}).Images
	for n := len("sha256:") + 3; n < len(id); n++ {
		if !slices.ContainsFunc(images, func(i *runtimeapi.Image) bool { return i.Id != id && strings.HasPrefix(i.Id, id[:n]) }) {
			return strings.TrimPrefix(id[:n], "sha256:")
		}
	}
	return id
}

func checkImage(t *testing.T, i *runtimeapi.Image, ref, id, repo, digest string) {
	t.Helper()
	if i.GetId() != id || i.GetSize() == 0 || i.GetUid().GetValue() != 1234 || i.GetPinned() ||
		!sameLines(strings.Join(i.GetRepoTags(), "\n"), repo+":one\n"+repo+":two\n"+repo+":latest") ||
		strings.Join(i.GetRepoDigests(), "\n") != repo+"@"+digest {
		t.Errorf("by %s the image is %v; want %s with three tags and %s", ref, i, id, digest)
	}
}

// checkImageOfContainer runs a container and checks that its status has the
// image's ID, and that the image cannot be removed meanwhile.
func checkImageOfContainer(t *testing.T, c *cridock, repo, id, digest string) {
	t.Helper()
	p := c.runPod(t)
	main := p.start("main", "sleep 1000", func(cfg *runtimeapi.ContainerConfig) {
		cfg.Image = &runtimeapi.ImageSpec{Image: id, UserSpecifiedImage: repo + ":one"}
	})
	if s := main.status(); s.ImageRef != repo+"@"+digest || s.ImageId != id || !strings.HasPrefix(s.Image.GetImage(), repo+":") {
		t.Errorf("the container's image is %v, reference %q, ID %q; want %s", s.Image, s.ImageRef, s.ImageId, id)
	}
	byDigest := p.create("digest", "true", func(cfg *runtimeapi.ContainerConfig) { cfg.Image = &runtimeapi.ImageSpec{Image: repo + "@" + digest} })
	if s := byDigest.status(); !strings.HasPrefix(s.Image.GetImage(), repo+":") {
		t.Errorf("by digest the container's image is %v, want a tag", s.Image)
	}
	_, err := try(c.images.RemoveImage, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: repo + ":one"}})
	wantCode(t, err, codes.FailedPrecondition, id)
	p.remove()
}

func TestPullRefused(t *testing.T) {
	t.Parallel()
	c := sharedCridock(t, "docker")
	registry := c.needRegistry(t)
	const anyError = codes.OK
	for ref, want := range map[string]codes.Code{
		"":                               codes.InvalidArgument,
		"e2e/UPPER":                      codes.InvalidArgument,
		strings.Repeat("0", 64):          codes.InvalidArgument,
		registry + "/e2e/no-such:latest": codes.NotFound,
		"127.0.0.1:1/e2e/nobody:latest":  anyError,
	} {
		_, err := try(c.images.PullImage, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
		if got := status.Code(err); got == codes.OK || (got != want && want != anyError) {
			t.Errorf("%q: %v, want %v", ref, err, want)
		}
	}
	_, err := try(c.runtime.RunPodSandbox, &runtimeapi.RunPodSandboxRequest{Config: c.podConfig(t), RuntimeHandler: "no-such-handler"})
	if err == nil {
		t.Error("an unknown runtime handler was taken")
	}
}

// serveRegistry runs a registry, beside the node's own, with these files in its new
// directory, of which config.yml is its configuration.
func (n *node) serveRegistry(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := n.command("docker-registry", "serve", filepath.Join(dir, "config.yml"))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = cmd.Wait() }() // it is stopped with the node
}

// authRegistry runs a registry that requires a password, beside the node's own.
func authRegistry(t *testing.T, n *node, user, password string) (address string) {
	t.Helper()
	dir := filepath.Join(n.dir, "auth-registry")
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	address = "127.0.0.1:5001"
	n.serveRegistry(t, dir, map[string]string{
		"htpasswd": user + ":" + string(hash) + "\n",
		"config.yml": fmt.Sprintf(`version: 0.1
log: {level: warn}
storage: {filesystem: {rootdirectory: %[1]s/data}}
http: {addr: "%[2]s"}
auth: {htpasswd: {realm: e2e, path: %[1]s/htpasswd}}
`, dir, address),
	})
	eventually(t, "the registry answers", time.Minute, func() bool {
		resp, err := n.http().Get("http://" + address + "/v2/")
		if err == nil {
			_ = resp.Body.Close()
		}
		return err == nil && resp.StatusCode == http.StatusUnauthorized
	})
	return address
}

func TestPullWithAuth(t *testing.T) {
	t.Parallel()
	c := sharedCridock(t, "docker")
	address := authRegistry(t, c.node, "robot", "secret-of-e2e")
	repo := address + "/e2e/private"
	c.pushed(t, repo, `"username":"robot","password":"secret-of-e2e","serveraddress":"`+address+`"`, "1")
	image := &runtimeapi.ImageSpec{Image: repo + ":1"}
	for _, tc := range []struct {
		name string
		auth *runtimeapi.AuthConfig
		good bool
	}{
		{"no auth", nil, false},
		{"wrong password", &runtimeapi.AuthConfig{Username: "robot", Password: "wrong"}, false},
		{"another registry's", &runtimeapi.AuthConfig{Username: "robot", Password: "secret-of-e2e", ServerAddress: "registry.example"}, false},
		{"user and password", &runtimeapi.AuthConfig{Username: "robot", Password: "secret-of-e2e"}, true},
		{"with the server's address", &runtimeapi.AuthConfig{Username: "robot", Password: "secret-of-e2e", ServerAddress: address}, true},
		{"encoded", &runtimeapi.AuthConfig{Auth: "cm9ib3Q6c2VjcmV0LW9mLWUyZQ=="}, true},
	} {
		r, err := try(c.images.PullImage, &runtimeapi.PullImageRequest{Image: image, Auth: tc.auth})
		if good := err == nil; good != tc.good {
			t.Errorf("%s: %v, %v", tc.name, r, err)
		}
		if err != nil {
			t.Logf("%s: %v", tc.name, err)
			continue
		}
		rpc(t, c.images.RemoveImage, &runtimeapi.RemoveImageRequest{Image: image})
	}
	log, err := os.ReadFile(c.logFile())
	if err != nil || strings.Contains(string(log), "secret-of-e2e") || strings.Contains(string(log), "cm9ib3Q6") {
		t.Errorf("the password is in the log, %v", err)
	}
}

// TestPullCancelled cancels a pull in the middle of a layer, and checks that
// Docker stops downloading.
func TestPullCancelled(t *testing.T) {
	t.Parallel()
	c := sharedCridock(t, "docker")
	repo := c.needRegistry(t) + "/e2e/slow"
	c.pushedBuild(t, repo, "", "RUN head -c 200000 /dev/urandom >/layer\n", "1")
	asked := make(chan struct{}, 16)
	address, gone := slowRegistry(t, c.node, asked)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := c.images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: address + "/e2e/slow:1"}})
		done <- err
	}()
	select {
	case <-asked:
	case err := <-done:
		t.Fatalf("the pull ended before it was cancelled: %v", err)
	case <-time.After(time.Minute):
		t.Fatal("docker does not load the layer")
	}
	cancel()
	if err := <-done; status.Code(err) != codes.Canceled {
		t.Errorf("the cancelled pull ends with %v", err)
	}
	select {
	case <-gone:
	case <-time.After(time.Minute):
		t.Error("docker goes on with a pull that was cancelled")
	}
}

// slowRegistry is a proxy for the node's registry. It sends the beginning of a
// layer, and then a byte now and then: Docker only notices a cancellation when
// data arrives. gone receives a value when a client has given up waiting.
func slowRegistry(t *testing.T, n *node, asked chan<- struct{}) (address string, gone <-chan struct{}) {
	t.Helper()
	listener, err := n.listen()
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: n.registry})
	proxy.Transport = n.http().Transport
	proxy.FlushInterval = -1 // otherwise Docker waits for the response header
	left := make(chan struct{}, 16)
	proxy.ModifyResponse = func(r *http.Response) error {
		if r.ContentLength < 100_000 { // a manifest or a configuration
			return nil
		}
		r.Body = &slowBody{ReadCloser: r.Body, ctx: r.Request.Context(), asked: asked, gone: left}
		return nil
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: proxy}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return listener.Addr().String(), left
}

// slowBody returns a kilobyte, and then a byte now and then.
type slowBody struct {
	io.ReadCloser
	ctx         context.Context
	asked, gone chan<- struct{}
	begun       bool
}

func (b *slowBody) Read(p []byte) (int, error) {
	if !b.begun {
		b.begun = true
		b.asked <- struct{}{}
		return b.ReadCloser.Read(p[:1024])
	}
	select {
	case <-b.ctx.Done():
		b.gone <- struct{}{}
		return 0, b.ctx.Err()
	case <-time.After(50 * time.Millisecond):
		return b.ReadCloser.Read(p[:1])
	}
}

func TestImageFsInfo(t *testing.T) {
	t.Parallel()
	c := sharedCridock(t, "docker")
	p := c.runPod(t)
	p.start("main", "head -c 1000000 /dev/zero >/file; sleep 1000")
	eventually(t, "both file systems have a usage", 90*time.Second, func() bool {
		info := rpc(t, c.images.ImageFsInfo, &runtimeapi.ImageFsInfoRequest{})
		images, containers := info.GetImageFilesystems(), info.GetContainerFilesystems()
		return len(images) == 1 && images[0].GetUsedBytes().GetValue() > 1<<20 && strings.HasPrefix(images[0].GetFsId().GetMountpoint(), c.node.dir) &&
			len(containers) == 1 && containers[0].GetUsedBytes().GetValue() >= 1000000
	})
}

// TestPauseImage: the image is loaded from the one that cridock ships, and
// protected from the kubelet's garbage collection.
func TestPauseImage(t *testing.T) {
	t.Parallel()
	c := sharedCridock(t, "docker")
	p := c.runPod(t)
	var sandbox struct{ Image string }
	c.docker.must(t, http.MethodGet, "/containers/"+p.id+"/json", nil, &sandbox)
	if i := c.imageStatus(t, sandbox.Image); !i.GetPinned() {
		t.Errorf("the sandbox's image is %v, not pinned", i)
	}
}
