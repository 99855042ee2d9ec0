package images

import (
	"context"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/klog/v2"
)

// FuzzNodeCredentials: whatever Docker's config.json contains, its credentials
// reach no error and no other registry. Helpers are programs on the node and
// are not run.
func FuzzNodeCredentials(f *testing.F) {
	f.Add(`{`, `}`, "registry.test")
	f.Add(`{"HttpHeaders":{"a":"b"},`, `,"auths":{"other.test":{"auth":"!"}}}`, "other.test")
	f.Add(`[`, `]`, "https://registry.test/v1/")
	f.Fuzz(func(t *testing.T, before, after, host string) {
		const secret = "s3cret-of-the-registry"
		encoded := base64.StdEncoding.EncodeToString([]byte("user:" + secret))
		text := before + `"auths":{"registry.test":{"auth":"` + encoded + `"}}` + after
		if lower := strings.ToLower(text); strings.Contains(lower, "cred") || strings.Contains(text, `\u`) {
			return
		}
		path := filepath.Join(t.TempDir(), "config.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		auth, err := Keychain(path).lookUp(context.Background(), host)
		if err != nil && (strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), encoded)) {
			t.Fatalf("the error has the credentials: %v", err)
		}
		if auth.Password == secret && !strings.Contains(host, "registry.test") {
			t.Fatalf("%q gets the credentials of registry.test", host)
		}
	})
}

// FuzzPullProgress: a stream of messages results in a digest or an error; one
// that reports an error never counts as pulled.
func FuzzPullProgress(f *testing.F) {
	f.Add([]byte(`{"status":"Pulling","id":"a","progressDetail":{"current":1,"total":2}}{"status":"Digest: sha256:0"}`))
	f.Add([]byte(`{"error":"denied","errorDetail":{"message":"denied"}}`))
	f.Add([]byte(`{"status":"Digest: x"}{`))
	f.Fuzz(func(t *testing.T, stream []byte) {
		p := &pullProgress{log: klog.Background()}
		digest, err := p.follow(strings.NewReader(string(stream)))
		if err != nil && digest != "" {
			t.Fatalf("%q, %v", digest, err)
		}
		if _, after := p.follow(strings.NewReader(string(stream) + `{"error":"refused"}`)); after == nil {
			t.Fatal("an error at the end is overlooked")
		}
	})
}
