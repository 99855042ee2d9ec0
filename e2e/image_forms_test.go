package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/internal/testca"
)

// content is a registry of images that no builder at hand makes, and of answers that
// no registry gives when asked to. All repositories have the same content.
type content struct {
	t         *testing.T
	blobs     map[string][]byte
	manifests map[string]ocispec.Descriptor // by tag and digest
	status    map[string]int                // of the answer for a tag, instead
}

func newContent(t *testing.T) *content {
	return &content{t: t, blobs: map[string][]byte{}, manifests: map[string]ocispec.Descriptor{}, status: map[string]int{}}
}

// serve serves the content on an address of the node.
func (c *content) serve(l net.Listener) (address string) {
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: c}
	go func() { _ = server.Serve(l) }()
	c.t.Cleanup(func() { _ = server.Close() })
	return l.Addr().String()
}

func (c *content) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	kind, ref := "", r.URL.Path
	if parts := strings.Split(r.URL.Path, "/"); len(parts) > 3 {
		kind, ref = parts[len(parts)-2], parts[len(parts)-1]
	}
	if code := c.status[ref]; code != 0 {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_, _ = w.Write([]byte(`{"errors":[{"code":"TOOMANYREQUESTS","message":"you have reached the limit"}]}`))
		return
	}
	body, ok := c.blobs[ref]
	mediaType := "application/octet-stream"
	if d, found := c.manifests[ref]; found && kind == "manifests" {
		body, ok, mediaType = c.blobs[d.Digest.String()], true, d.MediaType
		w.Header().Set("Docker-Content-Digest", d.Digest.String())
	}
	if r.URL.Path == "/v2/" {
		return
	}
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", mediaType)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
}

// blob adds a blob.
func (c *content) blob(mediaType string, b []byte) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	c.blobs[d.Digest.String()] = b
	return d
}

// manifest adds a manifest or an index, under its digest and a tag if there is one.
func (c *content) manifest(mediaType, tag string, m any) ocispec.Descriptor {
	b, err := json.Marshal(m)
	if err != nil {
		c.t.Fatal(err)
	}
	d := c.blob(mediaType, b)
	c.manifests[d.Digest.String()] = d
	if tag != "" {
		c.manifests[tag] = d
	}
	return d
}

// image adds an image of layers, which are tar archives, without history.
func (c *content) image(tag string, layerType string, compress func([]byte) []byte, layers ...[]byte) ocispec.Descriptor {
	cfg := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}, RootFS: ocispec.RootFS{Type: "layers"}}
	cfg.Config.Cmd = []string{"/bin/busybox", "sleep", "1000"}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, layer := range layers {
		cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, digest.FromBytes(layer))
		m.Layers = append(m.Layers, c.blob(layerType, compress(layer)))
	}
	b, err := json.Marshal(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	m.Config = c.blob(ocispec.MediaTypeImageConfig, b)
	return c.manifest(ocispec.MediaTypeImageManifest, tag, m)
}

// fileArchive returns a tar archive of one file.
func fileArchive(t *testing.T, name string, body []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(body)), Typeflag: tar.TypeReg})
	if err == nil {
		_, err = w.Write(body)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write(b)
	_ = w.Close()
	return out.Bytes()
}

// zstandard returns b as a frame of Zstandard, in blocks that are not compressed
// (RFC 8878, 3.1.1).
func zstandard(b []byte) []byte {
	const block = 128 << 10
	out := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 7 << 3} // no checksum; a window of one block
	for first := true; first || len(b) > 0; first = false {
		n := min(len(b), block)
		header := uint32(n) << 3
		if n == len(b) {
			header |= 1
		}
		out = append(append(out, byte(header), byte(header>>8), byte(header>>16)), b[:n]...)
		b = b[n:]
	}
	return out
}

// busybox returns an archive of busybox, which differs for each mark: containerd does
// not fetch a layer whose content it has already, in whatever form.
func busybox(t *testing.T, mark string) []byte {
	t.Helper()
	path, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return fileArchive(t, "bin/busybox", append(b, mark...))
}

// TestImageForms pulls, lists and runs images in the forms that podman and buildah
// write: without history, in an OCI index with artifacts, with Zstandard layers, and
// with as many layers as the storage driver takes.
func TestImageForms(t *testing.T) {
	t.Parallel()
	c := newCridock(t, newNode(t), "docker")
	store := newContent(t)
	base := busybox(t, "")
	plain := store.image("plain", ocispec.MediaTypeImageLayerGzip, gzipped, base)
	plain.Platform = &ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}
	empty := store.blob(ocispec.MediaTypeEmptyJSON, []byte("{}"))
	artifact := store.manifest(ocispec.MediaTypeImageManifest, "artifact", ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/vnd.test",
		Config: empty, Layers: []ocispec.Descriptor{store.blob("text/plain", []byte("hello"))},
	})
	attestation := artifact
	attestation.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	foreign := plain
	foreign.Platform = &ocispec.Platform{OS: "linux", Architecture: "none"}
	index := func(tag string, list ...ocispec.Descriptor) {
		store.manifest(ocispec.MediaTypeImageIndex, tag, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: list})
	}
	index("index", attestation, foreign, plain)
	store.image("zstd", ocispec.MediaTypeImageLayerZstd, zstandard, busybox(t, "zstd"))
	many := [][]byte{base}
	for i := len(many); i < 127; i++ {
		many = append(many, fileArchive(t, fmt.Sprintf("layer-%d", i), []byte("x")))
	}
	store.image("layers-125", ocispec.MediaTypeImageLayerGzip, gzipped, many[:125]...)
	store.image("layers-127", ocispec.MediaTypeImageLayerGzip, gzipped, many...)
	l, err := c.listen()
	if err != nil {
		t.Fatal(err)
	}
	repo := store.serve(l) + "/e2e/forms"
	old := c.docker.apiMinor(t) < 42
	for _, tag := range []string{"plain", "index", "zstd", "layers-125", "layers-127"} {
		r, err := try(c.images.PullImage, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: repo + ":" + tag}})
		if err != nil {
			// Docker has Zstandard since 23.0; its graph drivers stop at 125 layers.
			if (tag != "zstd" || !old) && (tag != "layers-127" || status.Code(err) != codes.FailedPrecondition) {
				t.Errorf("%s: %v", tag, err)
			}
			t.Logf("%s: %v", tag, err)
			continue
		}
		i := c.imageStatus(t, repo+":"+tag)
		if want := repo + "@" + store.manifests[tag].Digest.String(); i.GetId() != r.ImageRef || strings.Join(i.GetRepoDigests(), " ") == "" || !strings.Contains(strings.Join(i.GetRepoDigests(), " "), want) {
			t.Errorf("%s is %v, want %s", tag, i, want)
		}
		p := c.runPod(t)
		p.start("main", "", func(cfg *runtimeapi.ContainerConfig) {
			cfg.Image, cfg.Command, cfg.Args = &runtimeapi.ImageSpec{Image: r.ImageRef}, nil, nil
		})
		p.remove()
	}
}

// TestPullErrorClasses has a real engine fail in each way that pulls fail, and checks
// the code, the reason that the kubelet reads, and the cure.
func TestPullErrorClasses(t *testing.T) {
	t.Parallel()
	c := newCridock(t, newNode(t), "docker")
	n := c.node
	registry := n.needRegistry(t)
	c.pushed(t, registry+"/e2e/errors", "", "1")
	private := authRegistry(t, n, "robot", "secret")
	remote := remoteListener(t, n)
	store := newContent(t)
	empty := store.blob(ocispec.MediaTypeEmptyJSON, []byte("{}"))
	artifact := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/vnd.test",
		Config: empty, Layers: []ocispec.Descriptor{store.blob("text/plain", []byte("hello"))},
	}
	artifact.Layers[0].Annotations = map[string]string{ocispec.AnnotationTitle: "../../escaped"}
	store.manifest(ocispec.MediaTypeImageManifest, "artifact", artifact)
	image := store.image("", ocispec.MediaTypeImageLayerGzip, gzipped, fileArchive(t, "file", []byte("x")))
	image.Platform = &ocispec.Platform{OS: "linux", Architecture: "none"}
	store.manifest(ocispec.MediaTypeImageIndex, "platform", ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{image}})
	store.manifest("application/vnd.docker.distribution.manifest.v1+prettyjws", "schema1", schema1())
	store.status["limited"], store.status["broken"] = http.StatusTooManyRequests, http.StatusServiceUnavailable
	local, err := n.listen()
	if err != nil {
		t.Fatal(err)
	}
	other := store.serve(local) + "/e2e/a:"
	const unavailable = "RegistryUnavailable: "
	for _, tc := range []struct {
		name, ref string
		code      codes.Code
		reason    string
		cure      string
	}{
		{"no such repository", registry + "/e2e/none:1", codes.NotFound, "", "check the image's name and tag"},
		{"no such tag", registry + "/e2e/errors:none", codes.NotFound, "", "check the image's name and tag"},
		{"no such digest", registry + "/e2e/errors@sha256:" + strings.Repeat("a", 64), codes.NotFound, "", "check the image's name and tag"},
		{"denied", private + "/e2e/private:1", codes.Unknown, "", "imagePullSecrets"},
		{"rate limit", other + "limited", codes.ResourceExhausted, "", "mirror"},
		{"registry broken", other + "broken", codes.Unknown, unavailable, "the registry has a fault"},
		{"registry down", "127.0.0.1:1/e2e/a:1", codes.Unknown, unavailable, "check the registry"},
		{"name resolution", "no-such-host.invalid/e2e/a:1", codes.Unknown, unavailable, "DNS"},
		{"TLS", tlsContent(t, store, remote()) + "/e2e/a:1", codes.Unknown, unavailable, "certs.d"},
		{"no TLS", store.serve(remote()) + "/e2e/a:1", codes.Unknown, unavailable, "insecure-registries"},
		{"platform", other + "platform", codes.NotFound, "", "platform"},
		{"hostile artifact", other + "artifact", codes.FailedPrecondition, "", "want a file's name"},
		{"schema 1", other + "schema1", codes.FailedPrecondition, "", "schema 1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.name == "schema 1" && n.docker.apiMinor(t) < 45 {
				tc.code, tc.cure = codes.NotFound, "no FSLayers" // this engine reads it
			}
			_, err := try(c.images.PullImage, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: tc.ref}})
			t.Logf("%v", err)
			if message := status.Convert(err).Message(); status.Code(err) != tc.code || !strings.HasPrefix(message, tc.reason) || !strings.Contains(message, tc.cure) {
				t.Errorf("want %v with the reason %q and the cure %q", tc.code, tc.reason, tc.cure)
			}
		})
	}
}

// schema1 returns a manifest of 2015. Engines that know the format want it signed, and do
// not check by whom.
func schema1() json.RawMessage {
	const body = `{"schemaVersion":1,"name":"e2e/a","tag":"schema1","architecture":"amd64","fsLayers":[],"history":[]`
	protected := fmt.Sprintf(`{"formatLength":%d,"formatTail":%q,"time":"2015-01-01T00:00:00Z"}`, len(body), base64.RawURLEncoding.EncodeToString([]byte("}")))
	return json.RawMessage(body + `,"signatures":[{"header":{"alg":"none"},"signature":"","protected":"` + base64.RawURLEncoding.EncodeToString([]byte(protected)) + `"}]}`)
}

// remoteListener returns a function that listens on an address of the node outside of
// 127.0.0.0/8, which Docker takes for remote.
func remoteListener(t *testing.T, n *node) (listen func() net.Listener) {
	t.Helper()
	n.run(t, "ip", "address", "add", "192.0.2.1/32", "dev", "lo")
	return func() (l net.Listener) {
		if err := n.inNetNS(func() (err error) {
			l, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp", "192.0.2.1:0")
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return l
	}
}

// tlsContent serves content with a certificate of an unknown authority.
func tlsContent(t *testing.T, c *content, l net.Listener) (address string) {
	t.Helper()
	cert, key := testca.New(t, "unknown").Issue(t, "127.0.0.1")
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	address = l.Addr().String()
	c.serve(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{pair}}))
	return address
}

// TestArtifactVolume mounts an OCI artifact, which Docker cannot hold.
func TestArtifactVolume(t *testing.T) {
	t.Parallel()
	c := newCridock(t, newNode(t), "docker")
	store := newContent(t)
	file := func(title, text string) ocispec.Descriptor {
		d := store.blob("text/plain", []byte(text))
		d.Annotations = map[string]string{ocispec.AnnotationTitle: title}
		return d
	}
	d := store.manifest(ocispec.MediaTypeImageManifest, "1", ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/vnd.test",
		Config: store.blob(ocispec.MediaTypeEmptyJSON, []byte("{}")), Layers: []ocispec.Descriptor{file("model.bin", "weights"), file("README.md", "read me")},
	})
	l, err := c.listen()
	if err != nil {
		t.Fatal(err)
	}
	repo := store.serve(l) + "/e2e/artifact"
	id := c.pull(t, repo+":1")
	if err := c.stop(); err != nil {
		t.Fatal(err)
	}
	if err := c.start(); err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{repo + ":1", repo + "@" + d.Digest.String(), id} {
		if i := c.imageStatus(t, ref); i.GetId() != id || id != d.Digest.String() || i.GetSize() != uint64(len("weightsread me")) || strings.Join(i.GetRepoTags(), " ") != repo+":1" {
			t.Errorf("%s is %v", ref, i)
		}
	}
	listed := rpc(t, c.images.ListImages, &runtimeapi.ListImagesRequest{Filter: &runtimeapi.ImageFilter{Image: &runtimeapi.ImageSpec{Image: repo + ":1"}}}).Images
	if len(listed) != 1 || listed[0].GetId() != id {
		t.Errorf("listed %v", listed)
	}
	p := c.runPod(t)
	p.create("created", "true", imageVolume(repo+":1", ""))
	_, err = try(c.images.RemoveImage, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: id}})
	wantCode(t, err, codes.FailedPrecondition, "volume") // it may be about to start
	main := p.start("main", "sleep 1000", imageVolume(repo+":1", ""))
	if got := main.sh("cd /volume && ls && cat model.bin README.md; touch x 2>/dev/null || echo read-only"); got != "README.md\nmodel.bin\nweightsread meread-only" {
		t.Errorf("the container sees %q", got)
	}
	_, err = try(c.images.RemoveImage, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: id}})
	wantCode(t, err, codes.FailedPrecondition, "volume")
	p.remove()
	rpc(t, c.images.RemoveImage, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: repo + ":1"}})
	if i := c.imageStatus(t, id); i != nil {
		t.Errorf("after the removal there is %v", i)
	}
}
