package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
)

// NamespaceKeychains is the path of a directory with credentials by Kubernetes
// namespace and repository, as in CRI-O: NAMESPACE-SHA256.json, in the format of
// Docker's config.json, with the hash of the repository's normalised name. A
// credential provider of the kubelet writes a file for one pull, which removes it when
// it begins. Empty for none.
type NamespaceKeychains string

// take returns the keychain for a pull: the namespace's if it has one, else node. The
// caller calls used when it has read the keychain. Requested credentials take
// precedence over all keychains, so the file is then left alone.
func (d NamespaceKeychains) take(ctx context.Context, namespace, repository string, node Keychain, requested *runtimeapi.AuthConfig) (k Keychain, used func()) {
	path := d.path(namespace, repository)
	if path == "" || hasCredentials(requested) {
		return node, func() {}
	}
	if _, err := os.Lstat(path); err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			klog.FromContext(ctx).Error(err, "Ignoring the namespace's registry credentials", "namespace", namespace)
		}
		return node, func() {}
	}
	return Keychain(path), func() {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			klog.FromContext(ctx).Error(err, "Cannot remove used registry credentials", "namespace", namespace)
		}
	}
}

// path returns the path of a keychain; "" if there cannot be one.
func (d NamespaceKeychains) path(namespace, repository string) string {
	if d == "" || namespace == "" || strings.ContainsAny(namespace, "/\x00") || strings.HasPrefix(namespace, ".") {
		return ""
	}
	sum := sha256.Sum256([]byte(repository))
	return filepath.Join(string(d), namespace+"-"+hex.EncodeToString(sum[:])+".json")
}

// hasCredentials reports whether a request has credentials of its own.
func hasCredentials(a *runtimeapi.AuthConfig) bool {
	return a.GetUsername() != "" || a.GetAuth() != "" || a.GetIdentityToken() != "" || a.GetRegistryToken() != ""
}
