package images

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/registry"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestNamespaceCredentials: the pod's namespace has credentials for one pull.
func TestNamespaceCredentials(t *testing.T) {
	config := func(user string) []byte {
		return fmt.Appendf(nil, `{"auths":{"registry.test":{"auth":%q}}}`, base64.StdEncoding.EncodeToString([]byte(user+":p")))
	}
	dir := t.TempDir()
	node := filepath.Join(dir, "config.json")
	if err := os.WriteFile(node, config("node"), 0o600); err != nil {
		t.Fatal(err)
	}
	keychains := filepath.Join(dir, "auth")
	file := filepath.Join(keychains, fmt.Sprintf("team-%x.json", sha256.Sum256([]byte("registry.test/app"))))
	if err := os.Mkdir(keychains, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, namespace, image string
		auth                   *runtimeapi.AuthConfig
		want                   string
		used                   bool
	}{
		{"the namespace's", "team", "registry.test/app:1", nil, "team", true},
		{"by digest", "team", "registry.test/app@" + testDigest, nil, "team", true},
		{"another namespace", "other", "registry.test/app:1", nil, "node", false},
		{"no namespace", "", "registry.test/app:1", nil, "node", false},
		{"a namespace that is a path", "../auth/team", "registry.test/app:1", nil, "node", false},
		{"another image", "team", "registry.test/other:1", nil, "node", false},
		{"requested", "team", "registry.test/app:1", &runtimeapi.AuthConfig{Username: "asked"}, "asked", false},
		{"requested without content", "team", "registry.test/app:1", &runtimeapi.AuthConfig{}, "team", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if err := os.WriteFile(file, config("team"), 0o600); err != nil {
				t.Fatal(err)
			}
			f := newPuller(func(o *PullerOptions) { o.Keychain, o.Namespaces = Keychain(node), NamespaceKeychains(keychains) })
			got := ""
			f.engine.pull = func(_ context.Context, _ string, auth registry.AuthConfig) (string, error) {
				got = auth.Username
				if _, err := os.Stat(file); os.IsNotExist(err) != tc.used {
					t.Errorf("the file during the pull: %v; want it removed: %v", err, tc.used)
				}
				return "", nil
			}
			if _, err := f.PullFor(t.Context(), tc.namespace, tc.image, tc.auth); err != nil || got != tc.want {
				t.Errorf("credentials of %q, error %v; want %q", got, err, tc.want)
			}
			if _, err := os.Stat(file); os.IsNotExist(err) != tc.used {
				t.Errorf("the file: %v; want it removed: %v", err, tc.used)
			}
		})
	}
}

// TestNamespaceCredentialsStay: a pull that cannot begin leaves them to the next.
func TestNamespaceCredentialsStay(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, fmt.Sprintf("team-%x.json", sha256.Sum256([]byte("registry.test/app"))))
	f := newPuller(func(o *PullerOptions) {
		o.Namespaces, o.Ready = NamespaceKeychains(dir), func(context.Context) error { return errdefs.ErrUnavailable }
	})
	if err := os.WriteFile(file, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := f.PullFor(t.Context(), "team", "registry.test/app:1", nil); !errdefs.IsUnavailable(err) {
		t.Errorf("without the engine: %v", err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("a pull that has not begun: %v", err)
	}
}
