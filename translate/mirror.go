package translate

import (
	"net/netip"
	"strings"

	"github.com/distribution/reference"
)

const (
	// mirrorPath begins the repository names under which cridock offers the engine
	// images from mirrors, on the node's loopback. The rest is the image's own name.
	mirrorPath = "cridock-mirror/"
	// mirrorPort stands for the colon of a registry's port, which a path cannot have.
	// Registries' names have no underscores.
	mirrorPort = "__"
)

// MirrorName returns the name under which the engine pulls a repository through
// cridock, which serves it at a loopback address. ok is false for a name that cannot
// be written so: its registry has capitals or is an IPv6 address, or it is too long.
// In the CRI such a name appears as the repository's own: see [ReadImage].
func MirrorName(address, repository string) (name string, ok bool) {
	host, path, ok := strings.Cut(repository, "/")
	if !ok || strings.Contains(host, mirrorPort) {
		return "", false
	}
	name = address + "/" + mirrorPath + strings.Replace(host, ":", mirrorPort, 1) + "/" + path
	_, err := reference.WithName(name)
	return name, err == nil
}

// IsMirrorName reports whether a repository's name is one that only [MirrorName]
// makes.
func IsMirrorName(repository string) bool {
	host, path, _ := strings.Cut(repository, "/")
	host, _, _ = strings.Cut(host, ":")
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback() && strings.HasPrefix(path, mirrorPath)
}

// ownName replaces the name that an image by digest has at cridock's loopback address
// with its own; ok is false if that name is malformed.
func ownName(ref ImageReference) (own ImageReference, ok bool) {
	if !IsMirrorName(ref.Name) {
		return ref, true
	}
	if ref.Digest == "" {
		return ref, false
	}
	_, name, _ := strings.Cut(ref.Name, "/"+mirrorPath)
	host, path, _ := strings.Cut(name, "/")
	own = ImageReference{Name: strings.Replace(host, mirrorPort, ":", 1) + "/" + path, Digest: ref.Digest}
	normal, err := parseName(own.String())
	return own, err == nil && normal.Name == own.Name
}
