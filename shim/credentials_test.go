package shim_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/docker/docker/api/types/registry"
	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/shim/engine/enginetest"
)

// helper is a credential helper: it knows one registry, and fails for others as
// the protocol specifies.
const helper = `#!/bin/sh
read -r registry
case $registry in
helped.test) echo '{"ServerURL":"helped.test","Username":"h","Secret":"` + secret + `"}' ;;
broken.test) echo "the vault is sealed" >&2; exit 1 ;;
*) echo "credentials not found in native keychain"; exit 1 ;;
esac
`

// TestNodeCredentials: a pull without credentials uses the node's.
func TestNodeCredentials(t *testing.T) {
	n := newNode(t, func(n *node) { n.cfg.DockerConfig = filepath.Join(n.dir, "config.json") })
	n.must(os.WriteFile(filepath.Join(n.dir, "docker-credential-test"), []byte(helper), 0o700))
	t.Setenv("PATH", n.dir+":"+os.Getenv("PATH"))
	var got registry.AuthConfig
	for _, image := range []string{"registry.test/app:1", "helped.test/app:1", "missing.test/app:1", "broken.test/app:1", "app:1"} {
		n.docker.Publish(image, enginetest.Image{Pull: func(_ context.Context, _ func(string), auth string) error {
			got = registry.AuthConfig{}
			return json.Unmarshal([]byte(auth), &got)
		}})
	}
	encoded := base64.StdEncoding.EncodeToString([]byte("u:" + secret))
	config := `{
		"auths": {"https://registry.test/v2/": {"auth": "` + encoded + `"}, "https://index.docker.io/v1/": {"auth": "` + encoded + `"}},
		"credHelpers": {"helped.test": "test", "missing.test": "test", "broken.test": "test"}
	}`
	none := registry.AuthConfig{}
	stored := registry.AuthConfig{Username: "u", Password: secret, ServerAddress: "registry.test"}
	for _, tc := range []struct {
		name, config, image string
		auth                *runtimeapi.AuthConfig
		want                registry.AuthConfig
	}{
		{"no file", "", "registry.test/app:1", nil, none},
		{"a broken file", "{", "registry.test/app:1", nil, none},
		{"stored", config, "registry.test/app:1", nil, stored},
		{"an empty request is none", config, "registry.test/app:1", &runtimeapi.AuthConfig{}, stored},
		{"Docker Hub", config, "app:1", nil, registry.AuthConfig{Username: "u", Password: secret, ServerAddress: "https://index.docker.io/v1/"}},
		{"from a helper", config, "helped.test/app:1", nil, registry.AuthConfig{Username: "h", Password: secret, ServerAddress: "helped.test"}},
		{"a helper without any", config, "missing.test/app:1", nil, none},
		{"a helper that fails", config, "broken.test/app:1", nil, none},
		{"the request's go first", config, "registry.test/app:1", &runtimeapi.AuthConfig{Username: "mine", Password: secret},
			registry.AuthConfig{Username: "mine", Password: secret, ServerAddress: "registry.test"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.config != "" {
				n.must(os.WriteFile(n.cfg.DockerConfig, []byte(tc.config), 0o600))
			}
			if _, err := n.pull(n.ctx, tc.image, tc.auth); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("credentials (-want +got):\n%s", diff)
			}
		})
	}
}
