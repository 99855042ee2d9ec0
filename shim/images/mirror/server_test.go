package mirror

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cridock/cridock/internal/testca"
	"github.com/cridock/cridock/translate"
)

// upstream is a registry with one image. Its fields change what it answers.
type upstream struct {
	*httptest.Server
	config, layer, manifest []byte

	prefix   string            // of the API's paths, instead of "/v2"
	blobs    map[string][]byte // replaces content
	user     string            // the only one it answers
	token    bool              // it wants a token of its own for that user
	redirect string            // where it sends those that ask for a blob

	mu   sync.Mutex
	seen []*http.Request
}

func newUpstream(t *testing.T) *upstream {
	u := newUnstarted()
	u.Server = httptest.NewServer(u)
	t.Cleanup(u.Close)
	return u
}

func newUnstarted() *upstream {
	u := &upstream{config: []byte(`{"os":"linux"}`), layer: []byte(strings.Repeat("layer", 1000)), prefix: "/v2", blobs: map[string][]byte{}}
	describe := func(mediaType string, b []byte) ocispec.Descriptor {
		return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	}
	u.manifest, _ = json.Marshal(ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest, Config: describe(ocispec.MediaTypeImageConfig, u.config),
		Layers: []ocispec.Descriptor{describe(ocispec.MediaTypeImageLayer, u.layer)},
	})
	return u
}

func (u *upstream) digest() string { return digest.FromBytes(u.manifest).String() }

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	u.seen = append(u.seen, r)
	u.mu.Unlock()
	if r.URL.Path == "/token" {
		if name, _, _ := r.BasicAuth(); name != u.user {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = io.WriteString(w, `{"token":"of `+u.user+`"}`)
		return
	}
	if u.user != "" && !u.allowed(w, r) {
		return
	}
	contents := map[string][]byte{"manifests/1": u.manifest, "manifests/" + u.digest(): u.manifest}
	for _, b := range [][]byte{u.config, u.layer} {
		contents["blobs/"+digest.FromBytes(b).String()] = b
	}
	for key, b := range u.blobs {
		contents[key] = b
	}
	b, ok := contents[strings.TrimPrefix(r.URL.Path, u.prefix+"/team/app/")]
	if !ok || b == nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if u.redirect != "" && strings.Contains(r.URL.Path, "/blobs/") {
		http.Redirect(w, r, u.redirect+r.URL.Path, http.StatusTemporaryRedirect)
		return
	}
	w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(string(b)))
}

func (u *upstream) allowed(w http.ResponseWriter, r *http.Request) bool {
	name, _, _ := r.BasicAuth()
	if u.token && r.Header.Get("Authorization") == "Bearer of "+u.user || !u.token && name == u.user {
		return true
	}
	challenge := `Basic realm="test"`
	if u.token {
		challenge = `Bearer realm="` + u.URL + `/token",service="test"`
	}
	w.Header().Set("WWW-Authenticate", challenge)
	w.WriteHeader(http.StatusUnauthorized)
	return false
}

// requests returns the requests that the registry has seen, and forgets them.
func (u *upstream) requests() []*http.Request {
	u.mu.Lock()
	defer u.mu.Unlock()
	seen := u.seen
	u.seen = nil
	return seen
}

// node is a Server with the mirrors of r.test in a hosts.toml.
type node struct {
	*Server
	t     *testing.T
	creds map[string]registry.AuthConfig
}

func newNode(t *testing.T, hosts string, more ...string) *node {
	n := &node{t: t, creds: map[string]registry.AuthConfig{}}
	files := map[string]string{"r.test/hosts.toml": hosts}
	for i := 0; i+1 < len(more); i += 2 {
		files[filepath.Join("r.test", more[i])] = more[i+1]
	}
	n.Server = New(Options{Dir: write(t, files), Credential: func(_ context.Context, host string) (registry.AuthConfig, error) {
		return n.creds[host], nil
	}})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return n
}

// pull does what an engine and the puller do: it takes the first source that has all
// of the image. It returns that source's host.
func (n *node) pull(ref string) (host string, attempts *Attempts) {
	n.t.Helper()
	parsed, err := translate.NormalizeImage(ref)
	if err != nil {
		n.t.Fatal(err)
	}
	sources, attempts, err := n.Sources(n.t.Context(), parsed, registry.AuthConfig{Username: "puller", Password: "secret"})
	if err != nil {
		n.t.Fatal(err)
	}
	for ctx, source := range sources {
		if err := fetch(ctx, source); err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			attempts.Fail(source.Host, err)
			continue
		}
		return source.Host, attempts
	}
	return "", attempts
}

// fetch reads an image and compares its content with the digests, as engines do.
func fetch(ctx context.Context, s Source) error {
	base, ref, _ := strings.Cut(s.Name, "@")
	at, repo, _ := strings.Cut(base, "/")
	body, err := get(ctx, "http://"+at+"/v2/"+repo+"/manifests/"+ref, s.Auth, "")
	if err != nil {
		return err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(body, &m); err != nil {
		return err
	}
	for _, d := range append(m.Layers, m.Config) {
		head, err := get(ctx, "http://"+at+"/v2/"+repo+"/blobs/"+d.Digest.String(), s.Auth, "bytes=0-3")
		if err != nil {
			return err
		}
		tail, err := get(ctx, "http://"+at+"/v2/"+repo+"/blobs/"+d.Digest.String(), s.Auth, "bytes=4-")
		if err != nil {
			return err
		}
		if got := digest.FromBytes(append(head, tail...)); got != d.Digest {
			return fmt.Errorf("verification failed: %s is %s", d.Digest, got)
		}
	}
	return nil
}

func get(ctx context.Context, url string, auth registry.AuthConfig, part string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	if auth.Username != "" {
		req.SetBasicAuth(auth.Username, auth.Password)
	}
	if part != "" {
		req.Header.Set("Range", part)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return body, err
}

func host(s *httptest.Server) string {
	u, _ := url.Parse(s.URL)
	return u.Host
}

// TestSources: the first mirror with the whole image serves it; every other costs one
// attempt.
func TestSources(t *testing.T) {
	good := newUpstream(t)
	other := func(change func(*upstream)) *upstream {
		u := newUpstream(t)
		change(u)
		return u
	}
	layer := "blobs/" + digest.FromBytes(good.layer).String()
	for name, u := range map[string]*upstream{
		"is down":                   {Server: &httptest.Server{URL: "http://127.0.0.1:1"}},
		"lacks the image":           other(func(u *upstream) { u.blobs["manifests/1"], u.blobs["manifests/"+u.digest()] = nil, nil }),
		"resolves, but has no more": other(func(u *upstream) { u.blobs["manifests/"+u.digest()] = nil }),
		"lacks a layer":             other(func(u *upstream) { u.blobs[layer] = nil }),
		"has another manifest":      other(func(u *upstream) { u.blobs["manifests/"+u.digest()] = []byte(`{"schemaVersion":2}`) }),
		"has a large manifest":      other(func(u *upstream) { u.blobs["manifests/1"] = []byte(strings.Repeat(" ", maxManifest+1)) }),
		"has no JSON":               other(func(u *upstream) { u.blobs["manifests/1"] = []byte("<html>") }),
		"sends too much":            other(func(u *upstream) { u.blobs[layer] = append(good.layer, 'x') }),
		"sends something else":      other(func(u *upstream) { u.blobs[layer] = []byte(strings.Repeat("LAYER", 1000)) }),
		"wants a password":          other(func(u *upstream) { u.user = "somebody" }),
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, fmt.Sprintf("[host.%q]\n[host.%q]\n", u.URL, good.URL))
			got, attempts := n.pull("r.test/team/app:1")
			if got != host(good.Server) || len(attempts.Failed) != 1 || !strings.Contains(attempts.Failed[0].Error(), host(u.Server)) || !attempts.Direct {
				t.Errorf("pulled from %q, attempts %+v", got, attempts)
			}
			for _, r := range append(good.requests(), u.requests()...) {
				if name, _, _ := r.BasicAuth(); name != "" || r.URL.Query().Get("ns") != "r.test" {
					t.Errorf("a mirror was asked %s as %q", r.URL, name)
				}
			}
		})
	}
}

// TestSourcesByCapability: a tag's digest is from a host that may resolve, content
// from one that may be pulled from.
func TestSourcesByCapability(t *testing.T) {
	content, names := newUpstream(t), newUpstream(t)
	content.blobs["manifests/1"] = nil
	n := newNode(t, fmt.Sprintf("[host.%q]\ncapabilities = [\"pull\"]\n[host.%q]\ncapabilities = [\"resolve\"]\n", content.URL, names.URL))
	if got, attempts := n.pull("r.test/team/app:1"); got != host(content.Server) || len(attempts.Failed) != 0 {
		t.Errorf("pulled from %q, attempts %+v", got, attempts)
	}
	if got := names.requests(); len(got) != 1 || !strings.HasSuffix(got[0].URL.Path, "/manifests/1") {
		t.Errorf("the host that only resolves was asked %d times", len(got))
	}
	if got, _ := n.pull("r.test/team/app@" + content.digest()); got != host(content.Server) || len(names.requests()) != 0 {
		t.Errorf("by digest: pulled from %q", got)
	}
	if got, attempts := n.pull("r.test/team/app:2"); got != "" || len(attempts.Failed) != 1 {
		t.Errorf("a tag that does not exist: pulled from %q, attempts %+v", got, attempts)
	}
}

// TestHostSettings: path, headers, CA, client certificate and the node's credentials.
func TestHostSettings(t *testing.T) {
	ca := testca.New(t, "ca")
	cert, key := ca.Issue(t, "127.0.0.1")
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	u, store := newUnstarted(), newUpstream(t)
	u.prefix, u.user, u.token, u.redirect = "/proxy/quay", "node", true, store.URL+"/elsewhere"
	store.prefix = "/elsewhere" + u.prefix
	u.Server = httptest.NewUnstartedServer(u)
	u.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAnyClientCert}
	u.StartTLS()
	t.Cleanup(u.Close)
	n := newNode(t, fmt.Sprintf("[host.\"%s/proxy/quay\"]\noverride_path = true\nca = \"ca.crt\"\nclient = \"node.pem\"\nheader = {X-Team = \"a\"}\n", u.URL),
		"ca.crt", string(ca.PEM), "node.pem", string(cert)+string(key))
	n.creds[host(u.Server)] = registry.AuthConfig{Username: "node", Password: "p"}
	if got, attempts := n.pull("r.test/team/app:1"); got != host(u.Server) {
		t.Fatalf("pulled from %q, attempts %+v", got, attempts)
	}
	for _, r := range u.requests() {
		if r.Header.Get("X-Team") != "a" || len(r.TLS.PeerCertificates) != 1 {
			t.Errorf("%s has the header %q and %d certificates", r.URL, r.Header.Get("X-Team"), len(r.TLS.PeerCertificates))
		}
	}
	for _, r := range store.requests() {
		if r.Header.Get("X-Team") != "" || r.Header.Get("Authorization") != "" {
			t.Errorf("the store that the mirror names got its secrets: %v", r.Header)
		}
	}
}

// TestOrigin: only the registry itself gets the pull's credentials, and no other
// server means that there is nothing to try directly.
func TestOrigin(t *testing.T) {
	u := newUpstream(t)
	u.user = "puller"
	n := newNode(t, "")
	n.opts.Dir = write(t, map[string]string{
		"_default/hosts.toml": fmt.Sprintf("server = %q", u.URL),
		strings.Replace(host(u.Server), ":", "_", 1) + "_/hosts.toml": fmt.Sprintf("server = %q", u.URL),
	})
	if got, attempts := n.pull(host(u.Server) + "/team/app:1"); got != host(u.Server) || attempts.Direct {
		t.Errorf("pulled from %q, attempts %+v", got, attempts)
	}
	for _, r := range u.requests() {
		if r.URL.RawQuery != "" {
			t.Errorf("the registry itself was asked %s", r.URL)
		}
	}
	if got, attempts := n.pull("r.test/team/app:1"); got != "" || attempts.Direct || len(attempts.Failed) != 1 {
		t.Errorf("another server: pulled from %q, attempts %+v", got, attempts)
	}
}

// TestNoWayAroundTheServer: a name that cannot have mirrors is not pulled from the
// registry that another server replaces.
func TestNoWayAroundTheServer(t *testing.T) {
	u := newUpstream(t)
	n := newNode(t, "")
	for _, file := range []string{"_default", "r.test"} {
		n.opts.Dir = write(t, map[string]string{file + "/hosts.toml": fmt.Sprintf("server = %q", u.URL)})
		for _, ref := range []string{"R.test/team/app:1", "[2001:db8::1]:5000/team/app:1", "r.test/" + strings.Repeat("a", 240) + ":1"} {
			if file != "_default" && strings.HasPrefix(ref, "[") {
				continue // another registry
			}
			if got, attempts := n.pull(ref); got != "" || attempts.Direct || len(attempts.Failed) != 1 {
				t.Errorf("%s, %s: pulled from %q, attempts %+v", file, ref, got, attempts)
			}
		}
	}
}

// TestNoCapability: without a host that may resolve a tag, or be pulled from, the error
// says so.
func TestNoCapability(t *testing.T) {
	u := newUpstream(t)
	for capability, ref := range map[string]string{"pull": "r.test/team/app:1", "resolve": "r.test/team/app@" + u.digest()} {
		n := newNode(t, fmt.Sprintf("server = %q\ncapabilities = [%q]\n", u.URL, capability))
		got, attempts := n.pull(ref)
		if got != "" || attempts.Direct || !strings.Contains(attempts.Err().Error(), "capabilities") {
			t.Errorf("%s: pulled from %q, attempts %+v", capability, got, attempts)
		}
		parsed, err := translate.NormalizeImage(ref)
		if err != nil {
			t.Fatal(err)
		}
		err = n.Each(t.Context(), parsed, registry.AuthConfig{}, func(context.Context, *Content) error { return nil })
		if err == nil || !strings.Contains(err.Error(), "capabilities") || strings.Contains(err.Error(), "%!") {
			t.Errorf("%s: %v", capability, err)
		}
	}
}

// TestOneImage: the engine reaches what an index names, and no other manifest of the
// repository.
func TestOneImage(t *testing.T) {
	u := newUpstream(t)
	index, err := json.Marshal(ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{{Digest: digest.Digest(u.digest()), Size: int64(len(u.manifest))}}})
	if err != nil {
		t.Fatal(err)
	}
	other := []byte(`{"layers":[]}`)
	u.blobs["manifests/1"], u.blobs["manifests/"+digest.FromBytes(index).String()], u.blobs["manifests/"+digest.FromBytes(other).String()] = index, index, other
	n := newNode(t, fmt.Sprintf("[host.%q]\n", u.URL))
	ref, err := translate.NormalizeImage("r.test/team/app:1")
	if err != nil {
		t.Fatal(err)
	}
	sources, attempts, err := n.Sources(t.Context(), ref, registry.AuthConfig{})
	if err != nil {
		t.Fatal(err)
	}
	offered := 0
	for ctx, s := range sources {
		offered++
		base, _, _ := strings.Cut(s.Name, "@")
		at, repo, _ := strings.Cut(base, "/")
		url := "http://" + at + "/v2/" + repo
		layer := "/blobs/" + digest.FromBytes(u.layer).String()
		for _, step := range []struct{ path, want string }{
			{"/manifests/" + digest.FromBytes(other).String(), "404"},
			{layer, "404"}, // the manifest has not been read
			{"/manifests/" + digest.FromBytes(index).String(), ""},
			{"/manifests/" + u.digest(), ""},
			{layer, ""},
			{"/manifests/" + digest.FromBytes(other).String(), "404"},
		} {
			_, err := get(ctx, url+step.path, s.Auth, "")
			if (err == nil) != (step.want == "") || err != nil && !strings.HasPrefix(err.Error(), step.want) {
				t.Errorf("%s: %v, want %q", step.path, err, step.want)
			}
		}
	}
	if offered != 1 || len(attempts.Failed) != 0 {
		t.Errorf("%d sources, attempts %+v", offered, attempts)
	}
	for _, r := range u.requests() {
		if strings.HasSuffix(r.URL.Path, digest.FromBytes(other).String()) {
			t.Errorf("the mirror was asked %s", r.URL)
		}
	}
}

// TestStrangers: the port serves a pull in progress and nobody else.
func TestStrangers(t *testing.T) {
	u := newUpstream(t)
	n := newNode(t, fmt.Sprintf("[host.%q]\n", u.URL))
	ref, err := translate.NormalizeImage("r.test/team/app:1")
	if err != nil {
		t.Fatal(err)
	}
	sources, _, err := n.Sources(t.Context(), ref, registry.AuthConfig{})
	if err != nil {
		t.Fatal(err)
	}
	var last Source
	for ctx, s := range sources {
		last = s
		base, _, _ := strings.Cut(s.Name, "@")
		at, repo, _ := strings.Cut(base, "/")
		at = "http://" + at + "/v2/"
		stranger := registry.AuthConfig{Username: user, Password: "guessed"}
		foreign := digest.FromString("x").String()
		for what, got := range map[string]struct {
			url  string
			auth registry.AuthConfig
			want string
		}{
			"no password":            {at, registry.AuthConfig{}, "401"},
			"a wrong one":            {at + repo + "/manifests/" + u.digest(), stranger, "401"},
			"another user":           {at, registry.AuthConfig{Username: "x", Password: s.Auth.Password}, "401"},
			"another repository":     {at + "cridock-mirror/r.test/other/manifests/" + u.digest(), s.Auth, "404"},
			"a tag":                  {at + repo + "/manifests/1", s.Auth, "404"},
			"a blob of nothing":      {at + repo + "/blobs/" + foreign, s.Auth, "404"},
			"a path that climbs":     {at + repo + "/blobs/../../x", s.Auth, "404"},
			"something else":         {at + repo + "/referrers/" + u.digest(), s.Auth, "404"},
			"what it needs":          {at + repo + "/manifests/" + u.digest(), s.Auth, ""},
			"the version of the API": {at, s.Auth, ""},
		} {
			_, err := get(ctx, got.url, got.auth, "")
			if (err == nil) != (got.want == "") || err != nil && !strings.HasPrefix(err.Error(), got.want) {
				t.Errorf("%s: %v, want %q", what, err, got.want)
			}
		}
	}
	at, _, _ := strings.Cut(last.Name, "/")
	if _, err := get(t.Context(), "http://"+at+"/v2/", last.Auth, ""); err == nil || !strings.HasPrefix(err.Error(), "401") {
		t.Errorf("after the pull: %v", err)
	}
}

// TestNoPortWithoutMirrors: the port opens only for a registry with mirrors.
func TestNoPortWithoutMirrors(t *testing.T) {
	n := newNode(t, "")
	if got, attempts := n.pull("other.test/team/app:1"); got != "" || !attempts.Direct || len(attempts.Failed) != 0 {
		t.Errorf("pulled from %q, attempts %+v", got, attempts)
	}
	if n.server != nil {
		t.Error("the port is open")
	}
}
