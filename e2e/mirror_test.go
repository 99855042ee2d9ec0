package e2e

import (
	"encoding/json"
	"errors"
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

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/internal/testca"
)

// tlsRegistry runs a registry with TLS and an authority of its own on the node's
// loopback, beside the node's registry. It wants a client certificate, which is in the
// files that are returned: ca.crt, node.crt and node.key in dir.
func tlsRegistry(t *testing.T, n *node) (address, dir string) {
	t.Helper()
	dir, address = filepath.Join(n.dir, "tls-registry"), "127.0.0.1:5003"
	ca := testca.New(t, "mirrors")
	cert, key := ca.Issue(t, "127.0.0.1")
	nodeCert, nodeKey := ca.Issue(t, "node")
	n.serveRegistry(t, dir, map[string]string{
		"ca.crt": string(ca.PEM), "server.crt": string(cert), "server.key": string(key), "node.crt": string(nodeCert), "node.key": string(nodeKey),
		"config.yml": fmt.Sprintf(`version: 0.1
log: {level: warn}
storage: {filesystem: {rootdirectory: %[1]s/data}}
http: {addr: "%[2]s", tls: {certificate: %[1]s/server.crt, key: %[1]s/server.key, clientcas: [%[1]s/ca.crt]}}
`, dir, address),
	})
	eventually(t, "the registry listens", time.Minute, func() bool {
		conn, err := n.dial(t.Context(), "tcp", address)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	return address, dir
}

// copyRepository copies what a registry has of a repository to the directory of
// another one: registries without their blobs are of no use as mirrors.
func copyRepository(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// writeMirrors writes the hosts.toml of a registry into cridock's directory.
func writeMirrors(t *testing.T, dir, registry, text string) {
	t.Helper()
	path := filepath.Join(dir, registry)
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, "hosts.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// names are what Docker itself calls images.
func (d *docker) names(t *testing.T) (tags, digests []string) {
	t.Helper()
	var list []struct{ RepoTags, RepoDigests []string }
	d.must(t, http.MethodGet, "/images/json", nil, &list)
	for _, i := range list {
		tags, digests = append(tags, i.RepoTags...), append(digests, i.RepoDigests...)
	}
	return tags, digests
}

// TestMirrors pulls images of registries that the node cannot reach from mirrors: one
// that is down, one that lacks the image, and one with a private authority that wants
// a client certificate. All names are those that were asked for.
func TestMirrors(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	certs := filepath.Join(n.dir, "certs.d")
	c := newCridock(t, n, "docker", "--registry-config-dir="+certs)
	plain := n.needRegistry(t)
	digest := c.pushed(t, plain+"/team/app", "", "1", "2")
	mirror, dir := tlsRegistry(t, n)
	copyRepository(t, filepath.Join(n.dir, "registry"), filepath.Join(dir, "data"))
	settings := fmt.Sprintf(`
[host."http://127.0.0.1:1"]
[host."http://%s/lacks/v2"]
override_path = true
[host."https://%s"]
ca = %q
client = [[%q, %q]]
`, plain, mirror, filepath.Join(dir, "ca.crt"), filepath.Join(dir, "node.crt"), filepath.Join(dir, "node.key"))
	writeMirrors(t, certs, "registry.invalid", settings)
	writeMirrors(t, certs, "other.invalid_5000_", settings)

	repos := []string{"registry.invalid/team/app", "other.invalid:5000/team/app"}
	var id string
	for _, repo := range repos {
		id = c.pull(t, repo+":1")
		for _, ref := range []string{repo + ":1", repo + "@" + digest, id} {
			i := c.imageStatus(t, ref)
			if i.GetId() != id || !strings.Contains(strings.Join(i.GetRepoTags(), " "), repo+":1") || !strings.Contains(strings.Join(i.GetRepoDigests(), " "), repo+"@"+digest) ||
				strings.Contains(i.String(), "cridock-mirror") {
				t.Errorf("%s is %v", ref, i)
			}
		}
	}
	tags, digests := n.docker.names(t)
	for _, repo := range repos {
		if !slices.Contains(tags, repo+":1") {
			t.Errorf("Docker's tags %q lack %s:1", tags, repo)
		}
	}
	if strings.Contains(strings.Join(tags, " "), "cridock-mirror") {
		t.Errorf("Docker's tags %q have one of cridock's own", tags)
	}
	t.Logf("Docker's digests: %q", digests)
	for _, repo := range repos {
		if again := c.pull(t, repo+"@"+digest); again != id {
			t.Errorf("by digest %s was pulled, by tag %s", again, id)
		}
	}
	runsFromMirror(t, c, "registry.invalid/team/app", digest)

	// The names survive a restart, and all are gone with the image.
	if err := c.stop(); err != nil {
		t.Fatal(err)
	}
	if err := c.start(); err != nil {
		t.Fatal(err)
	}
	if i := c.imageStatus(t, "registry.invalid/team/app@"+digest); i == nil {
		t.Error("the image is unknown by its digest after a restart")
	}
	rpc(t, c.images.RemoveImage, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: "registry.invalid/team/app:1"}})
	if tags, digests := n.docker.names(t); strings.Contains(fmt.Sprint(tags, digests), "team/app") {
		t.Errorf("after the removal Docker has %q, %q", tags, digests)
	}
	refusedFromMirror(t, c, certs)
}

// runsFromMirror runs a container by the digest that was asked for.
func runsFromMirror(t *testing.T, c *cridock, repo, digest string) {
	t.Helper()
	p := c.runPod(t)
	main := p.start("main", "sleep 1000", func(cfg *runtimeapi.ContainerConfig) { cfg.Image = &runtimeapi.ImageSpec{Image: repo + "@" + digest} })
	if s := main.status(); !strings.HasSuffix(s.ImageRef, "@"+digest) || strings.Contains(s.String(), "cridock-mirror") {
		t.Errorf("the container's image is %q, %v", s.ImageRef, s.Image)
	}
	p.remove()
}

// refusedFromMirror checks what is not pulled, and why.
func refusedFromMirror(t *testing.T, c *cridock, certs string) {
	t.Helper()
	pull := func(ref string) error {
		_, err := try(c.images.PullImage, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
		return err
	}
	err := pull("registry.invalid/team/app:none")
	if err == nil || !strings.Contains(err.Error(), "its mirrors: 127.0.0.1:1: ") {
		t.Errorf("a tag that no mirror has: %v", err)
	}
	wantCode(t, pull("127.0.0.1:5089/cridock-mirror/registry.invalid/team/app:1"), codes.InvalidArgument, "cridock-mirror")
	writeMirrors(t, certs, "registry.invalid", "no = 1")
	wantCode(t, pull("registry.invalid/team/app:1"), codes.FailedPrecondition, "hosts.toml")
	resp, err := c.node.http().Get("http://127.0.0.1:5089/v2/")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusUnauthorized || !json.Valid(body) {
		t.Errorf("a stranger gets %s: %s", resp.Status, body)
	}
}

// TestMirrorBreaksOff: a mirror whose layer breaks off for good costs one attempt.
func TestMirrorBreaksOff(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	certs := filepath.Join(n.dir, "certs.d")
	c := newCridock(t, n, "docker", "--registry-config-dir="+certs)
	good := n.needRegistry(t)
	c.pushedBuild(t, good+"/team/app", "", "RUN head -c 3000000 /dev/urandom >/layer\n", "1")
	bad := failingRegistry(t, n)
	writeMirrors(t, certs, "registry.invalid", fmt.Sprintf("[host.\"http://%s\"]\n[host.\"http://%s\"]\n", bad, good))
	c.pull(t, "registry.invalid/team/app:1")
	log, err := os.ReadFile(c.logFile())
	if err != nil || !strings.Contains(string(log), `"Cannot pull from mirror"`) || !strings.Contains(string(log), bad) {
		t.Errorf("the log does not name the mirror, %v", err)
	}
}

// TestImageVerifiers: what the policy refuses is not pulled, and the kubelet gets the
// reason; what it accepts is pulled by the digest that it was asked about.
func TestImageVerifiers(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	dir := filepath.Join(n.dir, "verifiers")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\necho \"$@\" >>" + n.dir + "/asked\ncase $2 in *:bad) echo no signature; exit 1;; esac\n"
	if err := os.WriteFile(filepath.Join(dir, "verify"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	c := newCridock(t, n, "docker", "--image-verifier-dir="+dir)
	repo := n.needRegistry(t) + "/e2e/policy"
	digest := c.pushed(t, repo, "", "good", "bad")
	_, err := try(c.images.PullImage, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: repo + ":bad"}})
	wantCode(t, err, codes.Unknown, "no signature")
	if !strings.HasPrefix(status.Convert(err).Message(), "SignatureValidationFailed: ") {
		t.Errorf("the kubelet does not find the reason in %v", err)
	}
	if c.imageStatus(t, repo+"@"+digest) != nil {
		t.Error("a refused image was pulled")
	}
	id := c.pull(t, repo+":good")
	if i := c.imageStatus(t, repo+":good"); i.GetId() != id || strings.Join(i.GetRepoDigests(), " ") != repo+"@"+digest {
		t.Errorf("the accepted image is %v", i)
	}
	asked, err := os.ReadFile(filepath.Join(n.dir, "asked"))
	want := "-name " + repo + ":good -digest " + digest + " -stdin-media-type application/vnd.oci.descriptor.v1+json\n"
	if err != nil || !strings.HasSuffix(string(asked), want) {
		t.Errorf("the verifier was asked %q, %v; want %q", asked, err, want)
	}
}

// failingRegistry is a proxy for the node's registry that has no layers larger than a
// megabyte.
func failingRegistry(t *testing.T, n *node) (address string) {
	t.Helper()
	listener, err := n.listen()
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: n.registry})
	proxy.Transport = n.http().Transport
	proxy.ModifyResponse = func(r *http.Response) error {
		if r.ContentLength > 1<<20 {
			return errors.New("no such layer here")
		}
		return nil
	}
	proxy.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: proxy}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return listener.Addr().String()
}
