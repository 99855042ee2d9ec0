package translate

import (
	"cmp"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/registry"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Image is a Docker image as the CRI sees it.
type Image struct {
	// ID is the image's only identifier in the CRI: "sha256:…".
	ID string
	// Ref is the first repository digest, else the ID.
	Ref string
	// RepoTags and RepoDigests are normalised (docker.io/library/…), sorted and unique.
	RepoTags    []string
	RepoDigests []string
	// Size is in bytes and never 0.
	Size       uint64
	User       string
	StopSignal string
	Labels     map[string]string
	// Entrypoint and Cmd are the image's default process.
	Entrypoint []string
	Cmd        []string
	// EnvNames are the variables that the image sets.
	EnvNames []string
	// Volumes are the paths the image declares as volumes, sorted.
	Volumes []string
}

// ReadImage reads GET /images/{name}/json. Fields that newer engines omit may be
// missing. An image from a mirror has its own names, and not those of [MirrorName].
func ReadImage(in image.InspectResponse) Image {
	out := newImage(in.ID, in.RepoTags, in.RepoDigests, max(in.Size, in.VirtualSize))
	if in.Config != nil {
		out.User = in.Config.User
		out.StopSignal = in.Config.StopSignal
		out.Labels = maps.Clone(in.Config.Labels)
		out.Entrypoint = slices.Clone(in.Config.Entrypoint)
		out.Cmd = slices.Clone(in.Config.Cmd)
		for _, env := range in.Config.Env {
			name, _, _ := strings.Cut(env, "=")
			out.EnvNames = append(out.EnvNames, name)
		}
		out.Volumes = sortedKeys(in.Config.Volumes)
	}
	return out
}

// ReadImageSummary reads an item of GET /images/json, which lacks user, stop
// signal, command and volumes.
func ReadImageSummary(in image.Summary) Image {
	digests := in.RepoDigests
	if in.Descriptor != nil {
		digests = append(digestsOf(in.RepoTags, in.Descriptor.Digest.String()), digests...)
	}
	out := newImage(in.ID, in.RepoTags, digests, max(in.Size, in.VirtualSize))
	out.Labels = maps.Clone(in.Labels)
	return out
}

// digestsOf returns an image's names with its digest. The containerd image store lists
// all names as tags, and the digest of one only.
func digestsOf(names []string, digest string) []string {
	var out []string
	for _, name := range names {
		if ref, err := parseName(name); err == nil {
			out = append(out, ImageReference{Name: ref.Name, Digest: cmp.Or(ref.Digest, digest)}.String())
		}
	}
	return out
}

func newImage(id string, tags, digests []string, size int64) Image {
	out := Image{
		ID:          id,
		Ref:         id,
		RepoTags:    normalizeTags(tags),
		RepoDigests: normalizeDigests(digests),
		Size:        uint64(max(size, 1)),
	}
	if len(out.RepoDigests) > 0 {
		out.Ref = out.RepoDigests[0]
	}
	return out
}

// normalizeTags drops entries that are not tags: "<none>:<none>" of engines before API
// 1.43, and the digests the containerd image store lists among the tags.
func normalizeTags(tags []string) []string {
	return normalizeNames(tags, func(ref ImageReference) bool { return ref.Digest == "" })
}

// normalizeDigests drops entries without a digest, such as "<none>@<none>", and the
// tag of a name that has both.
func normalizeDigests(digests []string) []string {
	return normalizeNames(digests, func(ref ImageReference) bool { return ref.Digest != "" })
}

func normalizeNames(names []string, keep func(ImageReference) bool) []string {
	var out []string
	for _, name := range names {
		ref, err := parseName(name)
		if err != nil || !keep(ref) {
			continue
		}
		if own, ok := ownName(ref); ok {
			out = append(out, own.String())
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// CRIImage returns the CRI's image. USER's first part is a uid if [ResolveUser]
// reads it as one, else a user name; neither is set if the image has no USER. A
// number that is not a valid uid is reported as a name: the kubelet then does not
// accept it as non-root, and ResolveUser refuses it.
func CRIImage(in Image, pinned bool) *runtimeapi.Image {
	out := &runtimeapi.Image{
		Id:          in.ID,
		RepoTags:    slices.Clone(in.RepoTags),
		RepoDigests: slices.Clone(in.RepoDigests),
		Size:        in.Size,
		Spec:        &runtimeapi.ImageSpec{Image: in.ID},
		Pinned:      pinned,
	}
	user, _, _ := strings.Cut(in.User, ":")
	if uid, ok := parseID(user); ok {
		out.Uid = &runtimeapi.Int64Value{Value: uid}
	} else {
		out.Username = user
	}
	return out
}

// imageName returns the name to show for a container's image: the requested tag;
// else one of the image's tags, preferably of the requested repository; else the
// requested digest; else the image's ID.
func imageName(requested string, in Image) string {
	ref, err := NormalizeImage(requested)
	named := err == nil && ref.ID == "" && ref.IDPrefix == ""
	if named && ref.Digest == "" {
		return requested
	}
	if i := slices.IndexFunc(in.RepoTags, func(tag string) bool { return named && repository(tag) == ref.Name }); i >= 0 {
		return in.RepoTags[i]
	}
	switch {
	case len(in.RepoTags) > 0:
		return in.RepoTags[0]
	case named:
		return requested
	}
	return in.ID
}

// repository returns the normalised name without its tag or digest.
func repository(name string) string {
	if named, err := reference.ParseNormalizedNamed(name); err == nil {
		return named.Name()
	}
	return ""
}

const (
	sha256Prefix = "sha256:"
	// minIDPrefix is the length of the shortest accepted prefix of an image ID, as in
	// CRI-O.
	minIDPrefix = 3
)

// ImageReference is what a CRI image string refers to.
type ImageReference struct {
	// ID, and nothing else, is set if the string is a full image ID.
	ID string
	// IDPrefix is set if the string may also be a prefix of an ID's hex digits. An
	// existing name takes precedence over it.
	IDPrefix string
	// Name is the repository: "docker.io/library/busybox".
	Name string
	// Tag is "latest" if the string has neither tag nor digest, and "" if it has
	// only a digest.
	Tag string
	// Digest is "sha256:…" or "".
	Digest string
}

// NormalizeImage parses any form of image reference: name[:tag][@digest] with
// Docker's short names, an ID with or without "sha256:", an ID prefix of at least
// 3 digits, and the forms dockershim reported ("docker-pullable://…",
// "docker://…"). Anything else is ErrInvalidArgument.
func NormalizeImage(ref string) (ImageReference, error) {
	text := strings.TrimPrefix(strings.TrimPrefix(ref, "docker-pullable://"), "docker://")
	hex := strings.TrimPrefix(text, sha256Prefix)
	if isFullID(hex) {
		return ImageReference{ID: sha256Prefix + hex}, nil
	}
	out, err := parseName(text)
	if err != nil {
		return ImageReference{}, invalid("image.image", "%q: %v", ref, err)
	}
	if len(hex) >= minIDPrefix && len(hex) < 64 && isHex(hex) {
		out.IDPrefix = hex
	}
	return out, nil
}

// parseName parses name[:tag][@digest].
func parseName(name string) (ImageReference, error) {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return ImageReference{}, err
	}
	out := ImageReference{Name: named.Name()}
	if digested, ok := named.(reference.Digested); ok {
		out.Digest = digested.Digest().String()
	}
	if tagged, ok := named.(reference.Tagged); ok {
		out.Tag = tagged.Tag()
	} else if out.Digest == "" {
		out.Tag = "latest"
	}
	return out, nil
}

// String returns the normalised reference: the ID, the name with its digest, or
// the name with its tag. A tag next to a digest is left out: the digest decides.
func (r ImageReference) String() string {
	switch {
	case r.ID != "":
		return r.ID
	case r.Digest != "":
		return r.Name + "@" + r.Digest
	}
	return r.Name + ":" + r.Tag
}

// PullTag returns the tag parameter for Docker's pull: the digest, else the tag.
// It is never empty for a name: without a tag Docker pulls all of them.
func (r ImageReference) PullTag() string {
	if r.Digest != "" {
		return r.Digest
	}
	return r.Tag
}

// Registry returns the registry's host, "docker.io" for Docker Hub; "" for IDs.
func (r ImageReference) Registry() string {
	host, _, _ := strings.Cut(r.Name, "/")
	return host
}

// Matches reports whether the reference names this image exactly. It ignores
// IDPrefix.
func (r ImageReference) Matches(in Image) bool {
	switch {
	case r.ID != "":
		if r.ID == in.ID {
			return true
		}
		// The containerd image store's ID is also the digest of the image.
		return slices.ContainsFunc(in.RepoDigests, func(d string) bool { return strings.HasSuffix(d, "@"+r.ID) })
	case r.Digest != "":
		return slices.Contains(in.RepoDigests, r.String())
	}
	return slices.Contains(in.RepoTags, r.String())
}

// FindImage returns the image among images that ref refers to: by ID, by name,
// else by a unique ID prefix. A malformed ref or an ambiguous prefix is
// ErrInvalidArgument, a ref that names no image ErrNotFound.
func FindImage(ref string, images []Image) (Image, error) {
	want, err := NormalizeImage(ref)
	if err != nil {
		return Image{}, err
	}
	if i := slices.IndexFunc(images, want.Matches); i >= 0 {
		return images[i], nil
	}
	var found []Image
	if want.IDPrefix != "" {
		for _, in := range images {
			if strings.HasPrefix(strings.TrimPrefix(in.ID, sha256Prefix), want.IDPrefix) {
				found = append(found, in)
			}
		}
	}
	switch len(found) {
	case 0:
		return Image{}, fmt.Errorf("image %q: %w", ref, errdefs.ErrNotFound)
	case 1:
		return found[0], nil
	}
	return Image{}, invalid("image.image", "ID prefix %q is ambiguous: it matches %d images", ref, len(found))
}

// FilterImages returns the images that a list filter selects, in their order: all
// of a repository if ref names one without tag or digest, else the one that
// [FindImage] finds. No match is not an error.
func FilterImages(ref string, images []Image) ([]Image, error) {
	if named, err := reference.ParseNormalizedNamed(ref); err == nil && reference.IsNameOnly(named) {
		var found []Image
		for _, in := range images {
			names := slices.Concat(in.RepoTags, in.RepoDigests)
			if slices.ContainsFunc(names, func(name string) bool { return repository(name) == named.Name() }) {
				found = append(found, in)
			}
		}
		if len(found) > 0 {
			return found, nil
		}
	}
	in, err := FindImage(ref, images)
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return []Image{in}, nil
}

// dockerHub is the host of Docker Hub in normalised names, and its address in
// credentials.
const (
	dockerHub        = "docker.io"
	dockerHubAddress = "https://index.docker.io/v1/"
)

// DockerAuth returns the credentials for pulling imageRef: none if auth is nil or
// for a registry other than the image's, as in containerd. auth.auth is
// "user:password" in base64; a malformed one is ErrInvalidArgument. Errors never
// contain the credentials.
func DockerAuth(auth *runtimeapi.AuthConfig, imageRef string) (registry.AuthConfig, error) {
	if auth == nil {
		return registry.AuthConfig{}, nil
	}
	ref, err := NormalizeImage(imageRef)
	if err != nil {
		return registry.AuthConfig{}, err
	}
	if a := auth.GetServerAddress(); a != "" && registryHost(a) != ref.Registry() {
		return registry.AuthConfig{}, nil
	}
	out := registry.AuthConfig{
		Username:      auth.GetUsername(),
		Password:      auth.GetPassword(),
		IdentityToken: auth.GetIdentityToken(),
		RegistryToken: auth.GetRegistryToken(),
	}
	if out.Username == "" && out.IdentityToken == "" && out.RegistryToken == "" && auth.GetAuth() != "" {
		if out.Username, out.Password, err = decodeAuth(auth.GetAuth()); err != nil {
			return registry.AuthConfig{}, err
		}
	}
	if out != (registry.AuthConfig{}) {
		out.ServerAddress = ref.Registry()
		if out.ServerAddress == dockerHub {
			out.ServerAddress = dockerHubAddress
		}
	}
	return out, nil
}

// registryHost reduces an address ("https://index.docker.io/v1/", "host:5000")
// to its host in the form used in normalised names.
func registryHost(address string) string {
	if _, rest, ok := strings.Cut(address, "://"); ok {
		address = rest
	}
	host, _, _ := strings.Cut(address, "/")
	switch host = strings.ToLower(host); host {
	case "index.docker.io", "registry-1.docker.io":
		return dockerHub
	}
	return host
}

func decodeAuth(auth string) (user, password string, err error) {
	text, err := base64.StdEncoding.DecodeString(auth)
	if err != nil {
		return "", "", invalid("auth.auth", "is not base64")
	}
	user, password, ok := strings.Cut(string(text), ":")
	if !ok {
		return "", "", invalid("auth.auth", "does not contain user:password")
	}
	return user, strings.TrimRight(password, "\x00"), nil
}

// sortedKeys returns a map's keys in order.
func sortedKeys[M ~map[K]V, K cmp.Ordered, V any](m M) []K {
	return slices.Sorted(maps.Keys(m))
}

// ArtifactImage returns an OCI artifact as an image: its names are normalised, size is
// that of its files.
func ArtifactImage(id string, names []string, size int64) Image {
	return newImage(id, names, names, size)
}
