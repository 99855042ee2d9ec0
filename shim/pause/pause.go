package pause

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

const (
	// repository is in no registry: .internal is reserved for private use, so an
	// accidental pull cannot fetch somebody else's image.
	repository = "cridock.internal/pause"

	// user is the user and group of the process unless the pod sets others. It is
	// numeric, because the image has no /etc/passwd. The Kubernetes pause image
	// uses 65535 too.
	user = "65535:65535"

	// tagLength is the number of hex digits of the content hash in the tag.
	tagLength = 12
)

//go:embed pause_linux_*
var binaries embed.FS

// architectures are those with a binary, by Go's names. Their order decides [Name].
var architectures = []string{"amd64", "arm64", "arm", "ppc64le", "s390x", "riscv64"}

// Name returns the image's reference in [Archive], for example
// "cridock.internal/pause:0123456789ab". The tag is a hash over the image's content
// on all architectures: it is the same on every node, and a cridock with another
// pause process or configuration uses another name. So an existing image of this
// name is the right one and need not be loaded again.
var Name = sync.OnceValue(func() string {
	hash := sha256.New()
	for _, arch := range architectures {
		image, err := newImage(arch)
		if err != nil {
			panic("pause: " + err.Error()) // impossible: all are embedded
		}
		hash.Write([]byte(image.id()))
	}
	return repository + ":" + hex.EncodeToString(hash.Sum(nil))[:tagLength]
})

// Archive returns an archive for "docker load" (POST /images/load) with the pause
// image of one architecture, tagged [Name]. arch is Docker's or Go's name ("amd64",
// "arm64", "arm") or the kernel's ("x86_64", "aarch64", "armv7l"), as Docker's
// Version and Info report them; "arm" means ARMv7. For others the error is
// ErrNotImplemented. The bytes are the same on every call. With graph drivers the image's ID is [ID] of the same
// architecture; the containerd image store chooses its own.
func Archive(arch string) ([]byte, error) {
	image, err := newImage(arch)
	if err != nil {
		return nil, err
	}
	digest := hexDigest(image.config)
	manifest := mustJSON([]manifestEntry{{
		Config:   digest + ".json",
		RepoTags: []string{Name()},
		Layers:   []string{digest + "/layer.tar"},
	}})
	return tarball(
		entry{name: digest + ".json", mode: 0o644, data: image.config},
		entry{name: digest + "/", mode: 0o755},
		entry{name: digest + "/layer.tar", mode: 0o644, data: image.layer},
		entry{name: "manifest.json", mode: 0o644, data: manifest},
	), nil
}

// ID returns the image ID that Docker has for the image with graph drivers:
// "sha256:" and the hash of the image's configuration. arch and errors are as in
// [Archive].
func ID(arch string) (string, error) {
	image, err := newImage(arch)
	if err != nil {
		return "", err
	}
	return image.id(), nil
}

// image is one architecture's image: its configuration file and its one layer.
type image struct {
	config, layer []byte
}

func (i image) id() string { return "sha256:" + hexDigest(i.config) }

// goArch maps the kernel's names of architectures to Go's.
func goArch(arch string) string {
	switch arch {
	case "x86_64":
		return "amd64"
	case "aarch64":
		return "arm64"
	case "armv7l", "armv8l": // the latter is a 64-bit processor that runs a 32-bit kernel or process
		return "arm"
	}
	return arch
}

func newImage(arch string) (image, error) {
	arch = goArch(arch)
	if !slices.Contains(architectures, arch) {
		return image{}, fmt.Errorf("built-in pause image: %w: not available for architecture %q, set --pod-infra-container-image",
			errdefs.ErrNotImplemented, arch)
	}
	binary, err := binaries.ReadFile("pause_linux_" + arch)
	if err != nil {
		return image{}, fmt.Errorf("built-in pause image: %w", err)
	}
	variant := ""
	if arch == "arm" {
		variant = "v7"
	}
	layer := tarball(entry{name: "pause", mode: 0o755, data: binary})
	created := time.Unix(0, 0).UTC()
	return image{layer: layer, config: mustJSON(imageConfig{
		Architecture: arch,
		Variant:      variant,
		OS:           "linux",
		Author:       "cridock",
		Created:      created,
		Config: runConfig{
			User:       user,
			Env:        []string{"PATH=/"},
			Entrypoint: []string{"/pause"},
			WorkingDir: "/",
			StopSignal: "SIGTERM",
		},
		RootFS:  rootFS{Type: "layers", DiffIDs: []string{"sha256:" + hexDigest(layer)}},
		History: []history{{Created: created, CreatedBy: "cridock: add /pause"}},
	})}, nil
}

// The types below are the parts of the Docker image specification v1.2 that
// this image uses. The order of fields affects the image's ID.
type (
	imageConfig struct {
		Architecture string    `json:"architecture"`
		Variant      string    `json:"variant,omitempty"`
		OS           string    `json:"os"`
		Author       string    `json:"author"`
		Created      time.Time `json:"created"`
		Config       runConfig `json:"config"`
		RootFS       rootFS    `json:"rootfs"`
		History      []history `json:"history"`
	}

	runConfig struct {
		User       string
		Env        []string
		Entrypoint []string
		WorkingDir string
		StopSignal string
	}

	rootFS struct {
		Type    string   `json:"type"`
		DiffIDs []string `json:"diff_ids"`
	}

	history struct {
		Created   time.Time `json:"created"`
		CreatedBy string    `json:"created_by"`
	}

	manifestEntry struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
)

// entry is a file of a tar archive, or a directory if its name ends in "/".
type entry struct {
	name string
	mode int64
	data []byte
}

// tarball packs entries in the given order, owned by root and dated 1970.
func tarball(entries ...entry) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		header := &tar.Header{
			Name:    e.name,
			Mode:    e.mode,
			Size:    int64(len(e.data)),
			ModTime: time.Unix(0, 0),
			Format:  tar.FormatUSTAR,
		}
		// Writes to a buffer do not fail, and the names and sizes are ours.
		if err := w.WriteHeader(header); err != nil {
			panic("pause: " + err.Error())
		}
		if _, err := w.Write(e.data); err != nil {
			panic("pause: " + err.Error())
		}
	}
	if err := w.Close(); err != nil {
		panic("pause: " + err.Error())
	}
	return buf.Bytes()
}

// mustJSON encodes one of the types above, which cannot fail.
func mustJSON(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		panic("pause: " + err.Error())
	}
	return data
}

func hexDigest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
