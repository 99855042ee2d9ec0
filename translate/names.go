package translate

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	namePrefix    = "k8s"
	nameSeparator = "_"
	// sandboxContainer takes the place of the container name in a sandbox's name.
	sandboxContainer = "POD"
	// maxNamePart is the length in bytes up to which a part of a name is kept as it
	// is. Kubernetes names have at most 253 bytes.
	maxNamePart = 253
)

// Name holds the parts of a pod member's Docker container name.
type Name struct {
	// Container is the CRI container name, "POD" for a sandbox.
	Container string
	Pod       string
	Namespace string
	UID       string
	Attempt   uint32
}

// SandboxName returns the Docker name k8s_POD_<pod>_<namespace>_<uid>_<attempt>.
// Equal metadata have equal names, different metadata different ones. Parts with
// characters other than letters, digits, "." and "-", or longer than 253 bytes,
// are reduced to a prefix of those and a hash of the original. nil counts as empty.
func SandboxName(s *runtimeapi.PodSandboxMetadata) string {
	return joinName(sandboxContainer, s, s.GetAttempt())
}

// ContainerName returns the Docker name k8s_<container>_<pod>_<namespace>_<uid>_<attempt>
// by the rules of [SandboxName]. A container named "POD" gets a name no sandbox has.
func ContainerName(c *runtimeapi.ContainerMetadata, s *runtimeapi.PodSandboxMetadata) string {
	name := namePart(c.GetName())
	if name == sandboxContainer {
		name = hashedPart(name)
	}
	return joinName(name, s, c.GetAttempt())
}

func joinName(container string, s *runtimeapi.PodSandboxMetadata, attempt uint32) string {
	return strings.Join([]string{
		namePrefix,
		container,
		namePart(s.GetName()),
		namePart(s.GetNamespace()),
		namePart(s.GetUid()),
		strconv.FormatUint(uint64(attempt), 10),
	}, nameSeparator)
}

// ParseName splits a Docker name into its parts, ignoring a leading slash.
// cri-dockerd makes names of seven parts after a name conflict. Any other name
// is ErrInvalidArgument. Hashed parts stay as they are.
func ParseName(name string) (Name, error) {
	parts := strings.Split(strings.TrimPrefix(name, "/"), nameSeparator)
	if (len(parts) != 6 && len(parts) != 7) || parts[0] != namePrefix || parts[1] == "" || parts[2] == "" {
		return Name{}, fmt.Errorf("container name %q: %w: not the name of a pod member", name, errdefs.ErrInvalidArgument)
	}
	attempt, err := strconv.ParseUint(parts[5], 10, 32)
	if err != nil {
		return Name{}, fmt.Errorf("container name %q: %w: %q is not an attempt", name, errdefs.ErrInvalidArgument, parts[5])
	}
	return Name{Container: parts[1], Pod: parts[2], Namespace: parts[3], UID: parts[4], Attempt: uint32(attempt)}, nil
}

// namePart returns s as a part of a Docker name. Docker accepts
// [a-zA-Z0-9][a-zA-Z0-9_.-]*, and "_" separates the parts.
func namePart(s string) string {
	if len(s) > maxNamePart || strings.ContainsFunc(s, refusedInName) {
		return hashedPart(s)
	}
	return s
}

// hashedPart returns a readable prefix of s and a hash that keeps it unique.
func hashedPart(s string) string {
	sum := sha256.Sum256([]byte(s))
	if len(s) > 64 {
		s = s[:64]
	}
	readable := strings.Map(func(r rune) rune {
		if refusedInName(r) {
			return '-'
		}
		return r
	}, s)
	return readable + "." + hex.EncodeToString(sum[:8])
}

func refusedInName(r rune) bool {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '-':
		return false
	}
	return true
}

// PodName returns a pod's name for messages: NAMESPACE/NAME.
func PodName(m *runtimeapi.PodSandboxMetadata) string { return m.GetNamespace() + "/" + m.GetName() }

// ShortHash returns a hash of any string that is safe as a file name: 20 lowercase
// hexadecimal digits of its SHA-256.
func ShortHash(v string) string {
	sum := sha256.Sum256([]byte(v))
	return hex.EncodeToString(sum[:10])
}

// IsShortHash reports whether a string has the form of a [ShortHash].
func IsShortHash(v string) bool {
	b, err := hex.DecodeString(v)
	return err == nil && len(b) == 10 && v == strings.ToLower(v)
}
