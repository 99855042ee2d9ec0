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
	// sandboxContainer stands for the container name in a sandbox's name.
	sandboxContainer = "POD"
	// maxNamePart is the longest part of a name kept as it is. Kubernetes names
	// end at 253 bytes.
	maxNamePart = 253
)

// Name is a Docker container name of a pod member, taken apart.
type Name struct {
	// Container is the CRI container name, "POD" for a sandbox.
	Container string
	Pod       string
	Namespace string
	UID       string
	Attempt   uint32
}

// SandboxName gives the Docker name k8s_POD_<pod>_<namespace>_<uid>_<attempt>.
// Equal metadata give equal names, different metadata different ones. Parts
// with characters Docker refuses, or of more than 253 bytes, are shortened to
// what it accepts and marked with a hash of the whole. nil counts as empty.
func SandboxName(s *runtimeapi.PodSandboxMetadata) string {
	return joinName(sandboxContainer, s, s.GetAttempt())
}

// ContainerName gives the Docker name k8s_<container>_<pod>_<namespace>_<uid>_<attempt>
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

// ParseName takes a Docker name apart; a leading slash is dropped. Names of
// seven parts are those cri-dockerd made after a name conflict. What is not
// such a name is ErrInvalidArgument. Encoded parts stay encoded.
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

// namePart makes one part of a Docker name. Docker accepts
// [a-zA-Z0-9][a-zA-Z0-9_.-]*, and "_" separates the parts.
func namePart(s string) string {
	if len(s) > maxNamePart || strings.ContainsFunc(s, refusedInName) {
		return hashedPart(s)
	}
	return s
}

// hashedPart is a readable beginning of s and a hash that keeps it unique.
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
