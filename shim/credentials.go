package shim

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

// pullAuth returns the credentials for a pull: those of the request, else the
// node's for the registry. If the node's cannot be read it logs that and returns
// none: most images need none.
func (s *Service) pullAuth(ctx context.Context, requested *runtimeapi.AuthConfig, image string) (registry.AuthConfig, error) {
	auth, err := translate.DockerAuth(requested, image)
	if err != nil || auth != (registry.AuthConfig{}) || s.cfg.DockerConfig == "" {
		return auth, err
	}
	ref, err := translate.NormalizeImage(image)
	if err != nil {
		return auth, err
	}
	ctx, cancel := context.WithTimeout(ctx, helperTimeout)
	defer cancel()
	found, err := nodeCredentials(ctx, s.cfg.DockerConfig, ref.Registry())
	if err != nil {
		klog.FromContext(ctx).Error(err, "Ignoring the node's registry credentials", "image", image)
		return auth, nil
	}
	return translate.DockerAuth(&runtimeapi.AuthConfig{
		Username: found.Username, Password: found.Password, IdentityToken: found.IdentityToken, RegistryToken: found.RegistryToken,
	}, image)
}

// nodeCredentials looks up a registry in Docker's config.json and in the
// credential helpers that it names. It reads the file each time, as logins change
// it; a missing file means no credentials. Errors never contain credentials.
func nodeCredentials(ctx context.Context, path, host string) (types.AuthConfig, error) {
	f, err := os.Open(path) //nolint:gosec // a flag names the file
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
		return types.AuthConfig{}, fmt.Errorf("%s: %w", path, err)
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
			return types.AuthConfig{}, fmt.Errorf("%s: credentials of %s: %w", path, host, a.err)
		}
		return a.auth, nil
	case <-ctx.Done():
		return types.AuthConfig{}, fmt.Errorf("%s: credential helper for %s: %w", path, host, context.Cause(ctx))
	}
}
