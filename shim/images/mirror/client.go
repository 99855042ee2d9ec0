package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote/auth"
)

const (
	// maxManifest bounds, in bytes, a manifest; containerd and Docker have the same.
	maxManifest = 4 << 20
	// manifestTimeout bounds one attempt to read a manifest.
	manifestTimeout = 30 * time.Second
	// headerTimeout is how long a host may take to begin an answer.
	headerTimeout = 30 * time.Second
	// idleTimeout closes connections that are still in use when their client is closed.
	idleTimeout = 30 * time.Second
	// maxDrained bounds what is read of a refused answer, to use its connection again.
	maxDrained = 64 << 10
)

// manifestTypes are the media types of manifests, as in an Accept header.
var manifestTypes = strings.Join([]string{
	"application/vnd.docker.distribution.manifest.v2+json",
	"application/vnd.docker.distribution.manifest.list.v2+json",
	ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex,
}, ", ")

// client asks one host for one repository.
type client struct {
	host  Host
	repo  string // below the host
	http  *auth.Client
	close func()
}

// newClient returns a client that authenticates as credential says.
func newClient(h Host, repo string, credential auth.CredentialFunc) *client {
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: h.dial}).DialContext,
		TLSClientConfig: h.tls, TLSHandshakeTimeout: h.dial, ResponseHeaderTimeout: headerTimeout, ForceAttemptHTTP2: true,
		IdleConnTimeout:    idleTimeout,
		DisableCompression: true, // the bytes must be those of the digest
	}
	return &client{host: h, repo: repo, close: transport.CloseIdleConnections, http: &auth.Client{
		Client: &http.Client{Transport: hostHeaders{host: h, next: transport}}, Credential: credential, Cache: auth.NewCache(), ClientID: "cridock",
	}}
}

// hostHeaders adds the configured headers to the requests that go to the host itself,
// and not to those that it redirects elsewhere.
type hostHeaders struct {
	host Host
	next http.RoundTripper
}

// RoundTrip implements [http.RoundTripper].
func (t hostHeaders) RoundTrip(r *http.Request) (*http.Response, error) {
	if len(t.host.header) == 0 || r.URL.Host != t.host.URL.Host || r.URL.Scheme != t.host.URL.Scheme {
		return t.next.RoundTrip(r)
	}
	r = r.Clone(r.Context())
	for key, values := range t.host.header {
		r.Header[key] = values
	}
	return t.next.RoundTrip(r)
}

// get asks for a manifest or blob; kind is "manifests" or "blobs". The caller closes
// the body. An answer other than success is an error.
func (c *client) get(ctx context.Context, kind, ref string, header http.Header) (*http.Response, error) {
	u := c.host.URL.JoinPath(c.repo, kind, ref)
	if !c.host.Origin {
		u.RawQuery = "ns=" + c.host.registry // as containerd does, for mirrors of several registries
	}
	ctx = auth.WithScopes(ctx, auth.ScopeRepository(c.repo, auth.ActionPull))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil) //nolint:gosec // the operator has named the host, and the digest or tag is checked
	if err != nil {
		return nil, err
	}
	for key, values := range header {
		req.Header[key] = values
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusPartialContent {
		_, _ = io.CopyN(io.Discard, resp.Body, maxDrained)
		_ = resp.Body.Close()
		return nil, fmt.Errorf("%s %s: %s", kind, ref, resp.Status)
	}
	return resp, nil
}

// manifest is a manifest that matches its digest.
type manifest struct {
	mediaType string
	body      []byte
	digest    digest.Digest
	// sizes are the sizes of the blobs that it names.
	sizes map[string]int64
	// entries are the digests of the manifests that it names: an index does.
	entries []string
}

// manifest reads the manifest with a tag or digest. One that does not match its
// digest, or is too large, is an error.
func (c *client) manifest(ctx context.Context, ref string) (*manifest, error) {
	ctx, cancel := context.WithTimeout(ctx, manifestTimeout)
	defer cancel()
	resp, err := c.get(ctx, "manifests", ref, http.Header{"Accept": {manifestTypes}})
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxManifest+1))
	if err != nil {
		return nil, fmt.Errorf("manifest %s: %w", ref, err)
	}
	if len(body) > maxManifest {
		return nil, fmt.Errorf("manifest %s is larger than %d bytes", ref, maxManifest)
	}
	m := &manifest{mediaType: resp.Header.Get("Content-Type"), body: body}
	if err := m.verify(ref); err != nil {
		return nil, err
	}
	return m, m.parse()
}

// verify sets the digest, and compares it with the one that was asked for.
func (m *manifest) verify(ref string) error {
	m.digest = digest.FromBytes(m.body)
	want, err := digest.Parse(ref)
	if err != nil {
		return nil //nolint:nilerr // a tag
	}
	m.digest = want.Algorithm().FromBytes(m.body)
	if m.digest != want {
		return fmt.Errorf("manifest %s: the content has the digest %s", want, m.digest)
	}
	return nil
}

// parse reads what the manifest refers to.
func (m *manifest) parse() error {
	var in struct {
		MediaType string               `json:"mediaType"`
		Config    ocispec.Descriptor   `json:"config"`
		Layers    []ocispec.Descriptor `json:"layers"`
		Manifests []ocispec.Descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(m.body, &in); err != nil {
		return errors.New("the manifest is not JSON")
	}
	if in.MediaType != "" {
		m.mediaType = in.MediaType
	}
	m.sizes = map[string]int64{}
	for _, d := range append(in.Layers, in.Config) {
		if d.Digest != "" {
			m.sizes[d.Digest.String()] = d.Size
		}
	}
	for _, d := range in.Manifests {
		m.entries = append(m.entries, d.Digest.String())
	}
	return nil
}
