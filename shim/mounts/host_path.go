package mounts

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"k8s.io/klog/v2"

	"github.com/cridock/cridock/internal/beneath"
)

// hostPath returns a host path with its links resolved. It creates a missing path
// as a directory, unless it is at or below a path in reject: the CRI requires an
// error, but every runtime creates it and manifests rely on that.
func hostPath(ctx context.Context, path string, reject []string) (string, error) {
	source, err := filepath.EvalSymlinks(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return source, err
	}
	real, err := realAbsentPath(path)
	if err != nil {
		return "", err
	}
	for _, rejected := range reject {
		if top := filepath.Clean(rejected); within(filepath.Clean(path), top) || within(real, top) {
			return "", fmt.Errorf("%w, and absent-mount-sources-to-reject lists %s", fs.ErrNotExist, rejected)
		}
	}
	// This follows no link: neither a dangling one nor one created just now.
	if err := beneath.Root("/").MkdirAll(strings.TrimPrefix(real, "/"), 0o755); err != nil {
		return "", fmt.Errorf("create the missing directory: %w", err)
	}
	klog.FromContext(ctx).Info("Created a directory for a missing host path", "path", real)
	return real, nil
}

// realAbsentPath returns a missing path with the links in its existing part
// resolved.
func realAbsentPath(path string) (string, error) {
	path = filepath.Clean(path)
	for dir, rest := filepath.Dir(path), filepath.Base(path); ; dir, rest = filepath.Dir(dir), filepath.Join(filepath.Base(dir), rest) {
		real, err := filepath.EvalSymlinks(dir)
		if err == nil {
			return filepath.Join(real, rest), nil
		}
		if !errors.Is(err, fs.ErrNotExist) || dir == "/" {
			return "", err
		}
	}
}

// within reports whether the clean path is top or below it.
func within(path, top string) bool {
	return path == top || strings.HasPrefix(path, strings.TrimSuffix(top, "/")+"/")
}
