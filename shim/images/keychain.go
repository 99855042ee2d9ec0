package images

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	dockerconfig "github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/types"
	"github.com/docker/docker/api/types/registry"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/translate"
)

const (
	// helperTimeout bounds a credential helper, which may call a cloud service.
	helperTimeout = 30 * time.Second
	// dockerHubKey is Docker Hub's name in config.json.
	dockerHubKey = "https://index.docker.io/v1/"
	dockerHub    = "docker.io"
)

// Keychain is the path of Docker's config.json, which holds the node's registry
// credentials and names credential helpers. The file need not exist; an empty
// Keychain has no credentials.
type Keychain string

// Resolve returns the credentials for a pull: the requested ones, else the node's for
// the image's registry. If the node's cannot be read it logs that and returns none:
// most images need none. Errors and logs never contain credentials.
func (k Keychain) Resolve(ctx context.Context, requested *runtimeapi.AuthConfig, image string) (registry.AuthConfig, error) {
	auth, err := translate.DockerAuth(requested, image)
	if err != nil || auth != (registry.AuthConfig{}) || k == "" {
		return auth, err
	}
	ref, err := translate.NormalizeImage(image)
	if err != nil {
		return auth, err
	}
	ctx, cancel := context.WithTimeout(ctx, helperTimeout)
	defer cancel()
	found, err := k.lookUp(ctx, ref.Registry())
	if err != nil {
		klog.FromContext(ctx).Error(err, "Ignoring the node's registry credentials", "image", image)
		return auth, nil
	}
	return translate.DockerAuth(&runtimeapi.AuthConfig{
		Username: found.Username, Password: found.Password, IdentityToken: found.IdentityToken, RegistryToken: found.RegistryToken,
	}, image)
}

// Credential returns the node's credentials for a registry's host, as in config.json;
// none is not an error.
func (k Keychain) Credential(ctx context.Context, host string) (registry.AuthConfig, error) {
	if k == "" {
		return registry.AuthConfig{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, helperTimeout)
	defer cancel()
	found, err := k.lookUp(ctx, host)
	return registry.AuthConfig{Username: found.Username, Password: found.Password, IdentityToken: found.IdentityToken, RegistryToken: found.RegistryToken}, err
}

// lookUp finds the credentials of a registry. It reads the file each time, as logins
// change it; a missing file means no credentials.
func (k Keychain) lookUp(ctx context.Context, host string) (types.AuthConfig, error) {
	f, err := os.Open(string(k))
	if errors.Is(err, fs.ErrNotExist) {
		return types.AuthConfig{}, nil
	}
	if err != nil {
		return types.AuthConfig{}, err
	}
	defer func() { _ = f.Close() }()
	cfg, err := dockerconfig.LoadFromReader(f)
	if errors.Is(err, io.EOF) {
		return types.AuthConfig{}, nil // an empty file
	}
	if err != nil {
		return types.AuthConfig{}, fmt.Errorf("%s: %w", k, err)
	}
	if host == dockerHub {
		host = dockerHubKey
	}
	type answer struct {
		auth types.AuthConfig
		err  error
	}
	done := make(chan answer, 1)
	// The library calls a helper without a context, so a hanging one is abandoned.
	go func() {
		auth, err := cfg.GetAuthConfig(host)
		done <- answer{auth, err}
	}()
	select {
	case a := <-done:
		if a.err != nil {
			return types.AuthConfig{}, fmt.Errorf("%s: credentials of %s: %w", k, host, a.err)
		}
		return a.auth, nil
	case <-ctx.Done():
		return types.AuthConfig{}, fmt.Errorf("%s: credential helper for %s: %w", k, host, context.Cause(ctx))
	}
}
