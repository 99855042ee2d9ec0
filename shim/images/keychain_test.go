package images

import (
	"context"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/docker/docker/api/types/registry"
	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestKeychain(t *testing.T) {
	encoded := base64.StdEncoding.EncodeToString([]byte("u:p"))
	stored := `{"auths":{"registry.test":{"auth":"` + encoded + `"},"https://index.docker.io/v1/":{"auth":"` + encoded + `"}}}`
	for _, tc := range []struct {
		name, config, image string
		auth                *runtimeapi.AuthConfig
		want                registry.AuthConfig
	}{
		{"stored", stored, "registry.test/app:1", nil, registry.AuthConfig{Username: "u", Password: "p", ServerAddress: "registry.test"}},
		{"Docker Hub", stored, "app:1", nil, registry.AuthConfig{Username: "u", Password: "p", ServerAddress: "https://index.docker.io/v1/"}},
		{"another registry", stored, "other.test/app:1", nil, registry.AuthConfig{}},
		{"requested", stored, "registry.test/app:1", &runtimeapi.AuthConfig{IdentityToken: "t"}, registry.AuthConfig{IdentityToken: "t", ServerAddress: "registry.test"}},
		{"an empty file", "", "registry.test/app:1", nil, registry.AuthConfig{}},
		{"a broken file", "{", "registry.test/app:1", nil, registry.AuthConfig{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "config.json")
			if err := os.WriteFile(path, []byte(tc.config), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := Keychain(path).Resolve(t.Context(), tc.auth, tc.image)
			if err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("credentials (-want +got):\n%s", diff)
			}
		})
	}
	for _, none := range []Keychain{"", Keychain(filepath.Join(t.TempDir(), "none.json"))} {
		if got, err := none.Resolve(t.Context(), nil, "app:1"); err != nil || got != (registry.AuthConfig{}) {
			t.Errorf("without a file: %v", err)
		}
	}
}

// TestKeychainLeavesAHangingHelper: a helper that never answers does not block
// the pull.
func TestKeychainLeavesAHangingHelper(t *testing.T) {
	dir := t.TempDir()
	gate := filepath.Join(dir, "gate")
	if err := syscall.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"docker-credential-hangs": "#!/bin/sh\nread -r _ <" + gate + "\n",
		"config.json":             `{"credHelpers":{"registry.test":"hangs"}}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error, 1)
	go func() {
		_, err := Keychain(filepath.Join(dir, "config.json")).lookUp(ctx, "registry.test")
		failed <- err
	}()
	running, err := os.OpenFile(gate, os.O_WRONLY, 0) // waits for the helper
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = running.Close() }() // stops the helper
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v, want canceled", err)
	}
}
