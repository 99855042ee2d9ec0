package translate

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"hash"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
)

// SealKeySize is the length of a seal's key in bytes.
const SealKeySize = sha256.Size

// sealVersion is part of every seal; it changes with what a seal covers.
const sealVersion = "cridock seal 1"

// Seal proves that cridock made a container. Containers inherit their image's
// labels, so labels alone prove nothing: an image may carry any of them, copied
// from a pod's container or invented. A seal is an HMAC-SHA256, with a key that
// never leaves the node, over
//
//   - the container's Docker name and the image that it was created from, which
//     its creator chose, so that a seal found in an image is invalid for every
//     container of that image, and
//   - all labels that [ReadSandbox] and [ReadContainer] read.
//
// A nil Seal seals nothing and accepts no seal. A Seal is safe for concurrent use.
type Seal struct{ key []byte }

// NewSeal returns a Seal with a key of [SealKeySize] bytes. A key of another
// length is ErrInvalidArgument.
func NewSeal(key []byte) (*Seal, error) {
	if len(key) != SealKeySize {
		return nil, fmt.Errorf("key of the seal: %w: %d bytes, want %d", errdefs.ErrInvalidArgument, len(key), SealKeySize)
	}
	return &Seal{key: append([]byte(nil), key...)}, nil
}

// String keeps the key out of logs.
func (s *Seal) String() string { return "seal" }

// sealedLabels are the labels of each kind that a seal covers.
var sealedLabels = map[Kind][]string{
	KindSandbox: {LabelType, LabelContainerName, LabelPodName, LabelPodNamespace, LabelPodUID, LabelConfig},
	KindContainer: {LabelType, LabelSandboxID, LabelLogPath, LabelContainerName, LabelPodName, LabelPodNamespace, LabelPodUID,
		LabelConfig, LabelRequest},
}

// stamp seals a request to create a container.
func (s *Seal) stamp(c *Create) {
	if s != nil {
		c.Config.Labels[LabelSeal] = s.sum(c.Name, c.Config)
	}
}

// made reports whether cridock made a container.
func (s *Seal) made(in container.InspectResponse) bool {
	if s == nil {
		return false
	}
	return hmac.Equal([]byte(s.sum(strings.TrimPrefix(in.Name, "/"), in.Config)), []byte(in.Config.Labels[LabelSeal]))
}

func (s *Seal) sum(name string, cfg *container.Config) string {
	mac := hmac.New(sha256.New, s.key)
	writeField(mac, sealVersion)
	writeField(mac, name)
	writeField(mac, cfg.Image)
	for _, key := range sealedLabels[Kind(cfg.Labels[LabelType])] {
		writeField(mac, cfg.Labels[key])
	}
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// writeField writes a string's length and the string, so that different lists of
// strings never produce the same bytes.
func writeField(mac hash.Hash, field string) {
	_ = binary.Write(mac, binary.BigEndian, uint64(len(field))) // a hash never fails to write
	mac.Write([]byte(field))
}
