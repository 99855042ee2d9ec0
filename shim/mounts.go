package shim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	securejoin "github.com/cyphar/filepath-securejoin"
	pathrs "github.com/cyphar/filepath-securejoin/pathrs-lite"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/translate"
)

// resolveMounts finds the real source of each mount. name is Docker's of the
// container.
func (s *Service) resolveMounts(ctx context.Context, mounts []*runtimeapi.Mount, name string) ([]translate.ResolvedMount, error) {
	resolved := make([]translate.ResolvedMount, len(mounts))
	for i, m := range mounts {
		if m.GetImage().GetImage() != "" {
			r, err := s.resolveImageMount(ctx, m, name)
			if err != nil {
				return nil, &translate.ReasonError{Reason: translate.ReasonImageVolumeMountFailed, Err: fmt.Errorf("mounts[%d].image: %w", i, err)}
			}
			resolved[i] = r
			continue
		}
		source, err := s.hostPath(ctx, m.GetHostPath())
		if err != nil {
			return nil, fmt.Errorf("mounts[%d].host_path %q: %w: %w", i, m.GetHostPath(), errdefs.ErrFailedPrecondition, err)
		}
		resolved[i].Source = source
	}
	return resolved, nil
}

// hostPath is a host path with its links followed. One that does not exist
// becomes a directory: the CRI asks for an error, but every runtime makes it and
// manifests count on that.
func (s *Service) hostPath(ctx context.Context, path string) (string, error) {
	source, err := filepath.EvalSymlinks(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return source, err
	}
	if err := s.checkAbsentSource(path); err != nil {
		return "", err
	}
	// Below "/" its answer to a link is the kernel's, and unlike os.MkdirAll it
	// follows none that appears meanwhile, nor one that leads nowhere.
	if err := pathrs.MkdirAll("/", path, 0o755); err != nil {
		return "", fmt.Errorf("make the missing directory: %w", err)
	}
	klog.FromContext(ctx).Info("Made a directory for a host path that did not exist", "path", path)
	return filepath.EvalSymlinks(path)
}

// checkAbsentSource refuses to make a directory at or below a path that the
// settings reject, by whatever links the request gets there.
func (s *Service) checkAbsentSource(path string) error {
	real, err := securejoin.SecureJoin("/", path)
	if err != nil {
		return err
	}
	for _, rejected := range s.cfg.AbsentMountSourcesToReject {
		if slices.ContainsFunc([]string{filepath.Clean(path), real}, func(p string) bool { return within(p, filepath.Clean(rejected)) }) {
			return fmt.Errorf("it %w, and absent-mount-sources-to-reject has %s", fs.ErrNotExist, rejected)
		}
	}
	return nil
}

// within tells whether a clean path is another one or below it.
func within(path, top string) bool {
	return path == top || strings.HasPrefix(path, strings.TrimSuffix(top, "/")+"/")
}
