package translate

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
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
	// ID is the one identifier of the image everywhere in the CRI: "sha256:…".
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
	// Entrypoint and Cmd are what the image runs.
	Entrypoint []string
	Cmd        []string
	// Volumes are the paths the image declares as volumes, sorted.
	Volumes []string
}

// ReadImage reads GET /images/{name}/json. Fields that newer engines leave out
// may be missing.
func ReadImage(in image.InspectResponse) Image {
	out := newImage(in.ID, in.RepoTags, in.RepoDigests, max(in.Size, in.VirtualSize))
	if in.Config != nil {
		out.User = in.Config.User
		out.StopSignal = in.Config.StopSignal
		out.Labels = maps.Clone(in.Config.Labels)
		out.Entrypoint = slices.Clone(in.Config.Entrypoint)
		out.Cmd = slices.Clone(in.Config.Cmd)
		out.Volumes = sortedKeys(in.Config.Volumes)
	}
	return out
}

// ReadImageSummary reads an item of GET /images/json, which lacks user, stop
// signal, command and volumes.
func ReadImageSummary(in image.Summary) Image {
	out := newImage(in.ID, in.RepoTags, in.RepoDigests, max(in.Size, in.VirtualSize))
	out.Labels = maps.Clone(in.Labels)
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

// normalizeTags drops what is no tag: "<none>:<none>" of engines before API
// 1.43, and the digests the containerd image store lists among the tags.
func normalizeTags(tags []string) []string {
	return normalizeNames(tags, func(n reference.Named) bool {
		_, tagged := n.(reference.Tagged)
		_, digested := n.(reference.Digested)
		return tagged && !digested
	})
}

func normalizeDigests(digests []string) []string {
	return normalizeNames(digests, func(n reference.Named) bool {
		_, digested := n.(reference.Digested)
		return digested
	})
}

func normalizeNames(names []string, keep func(reference.Named) bool) []string {
	var out []string
	for _, name := range names {
		if named, err := reference.ParseNormalizedNamed(name); err == nil && keep(named) {
			out = append(out, named.String())
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// CRIImage gives the CRI's image. USER's first part is a uid if [ResolveUser]
// takes it for one, else a user name; neither when the image names none. A number
// that is no uid is reported as a name: that is not a proven non-root user for the
// kubelet, and ResolveUser refuses it.
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

// imageName is the name a container's image is shown by: the tag that was asked
// for; else one of the image's tags, of the repository that was asked for if it
// has one there; else the digest that was asked for; else the image's ID.
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

// repository is a normalised name without its tag or digest.
func repository(name string) string {
	if named, err := reference.ParseNormalizedNamed(name); err == nil {
		return named.Name()
	}
	return ""
}

const (
	sha256Prefix = "sha256:"
	// minIDPrefix is the shortest beginning of an image ID taken for one, as with
	// CRI-O.
	minIDPrefix = 3
)

// ImageReference is what a CRI image string refers to.
type ImageReference struct {
	// ID is set, and nothing else, when the string is a whole image ID.
	ID string
	// IDPrefix is set when the string may also be the beginning of an ID's hex
	// digits. A name that exists goes before it.
	IDPrefix string
	// Name is the repository: "docker.io/library/busybox".
	Name string
	// Tag is "latest" when neither tag nor digest was given, and "" with a digest
	// alone.
	Tag string
	// Digest is "sha256:…" or "".
	Digest string
}

// NormalizeImage reads any form of image reference: name[:tag][@digest] with
// Docker's short names, an ID with or without "sha256:", the beginning of one
// of at least 3 digits, and what dockershim reported ("docker-pullable://…",
// "docker://…"). What is none of these is ErrInvalidArgument.
func NormalizeImage(ref string) (ImageReference, error) {
	text := strings.TrimPrefix(strings.TrimPrefix(ref, "docker-pullable://"), "docker://")
	hex := strings.TrimPrefix(text, sha256Prefix)
	if isFullID(hex) {
		return ImageReference{ID: sha256Prefix + hex}, nil
	}
	named, err := reference.ParseNormalizedNamed(text)
	if err != nil {
		return ImageReference{}, invalid("image.image", "%q: %v", ref, err)
	}
	out := ImageReference{Name: named.Name()}
	if len(hex) >= minIDPrefix && len(hex) < 64 && isHex(hex) {
		out.IDPrefix = hex
	}
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

// String is the normalised reference: the ID, the name with its digest, or the
// name with its tag. A tag beside a digest says nothing: the digest decides.
func (r ImageReference) String() string {
	switch {
	case r.ID != "":
		return r.ID
	case r.Digest != "":
		return r.Name + "@" + r.Digest
	}
	return r.Name + ":" + r.Tag
}

// PullTag is what Docker's pull takes for a tag: the digest, else the tag. It is
// never empty for a name: without one Docker pulls all tags.
func (r ImageReference) PullTag() string {
	if r.Digest != "" {
		return r.Digest
	}
	return r.Tag
}

// Registry is the host of the registry, "docker.io" for Docker Hub; "" for IDs.
func (r ImageReference) Registry() string {
	host, _, _ := strings.Cut(r.Name, "/")
	return host
}

// Matches says whether the reference names this image exactly. A beginning of
// an ID is not considered; see IDPrefix.
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

// FindImage gives the image among images that ref refers to: by ID, by name,
// else by a beginning of an ID that only one image has. A ref that can't be read
// is ErrInvalidArgument, one that names no image ErrNotFound, an ambiguous
// beginning ErrInvalidArgument.
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
	return Image{}, invalid("image.image", "%q is ambiguous: the IDs of %d images begin with it", ref, len(found))
}

// FilterImages returns the images that the filter of a list selects, in their
// order: those of a repository when ref names one without tag or digest, else
// the one that [FindImage] finds. None is not an error.
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

// DockerAuth gives the credentials for pulling imageRef. nil gives none, and so
// do credentials for another registry than the image's, as with containerd.
// auth.auth is "user:password" in base64; one that can't be read is
// ErrInvalidArgument. Errors never contain the credentials.
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
// to the host as it is written in normalised names.
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
		return "", "", invalid("auth.auth", "does not hold user:password")
	}
	return user, strings.TrimRight(password, "\x00"), nil
}

// pullErrors tells pull failures apart by Docker's text, which is all a stream
// of progress messages gives. The first match counts. Seen on Docker 20.10 (API
// 1.41), 26.1 (1.45), 28.5 (1.51) and 29 (1.52).
//
// What the kubelet tells apart by the reason is Unknown: of any other code it
// sees "rpc error: code = ..." before the reason and does not find it. A refusal
// by the registry is Unknown with containerd too.
var pullErrors = []struct {
	text   string // in lower case
	class  error
	reason string
}{
	{"toomanyrequests", errdefs.ErrResourceExhausted, ""},
	{"too many requests", errdefs.ErrResourceExhausted, ""},
	{"remote trust data", errdefs.ErrUnknown, ReasonSignatureValidationFailed},
	{"content trust", errdefs.ErrUnknown, ReasonSignatureValidationFailed},
	{"signature verification failed", errdefs.ErrUnknown, ReasonSignatureValidationFailed},
	{"pull access denied", errdefs.ErrUnknown, ""},
	{"unauthorized", errdefs.ErrUnknown, ""},
	{"authentication required", errdefs.ErrUnknown, ""},
	{"no basic auth credentials", errdefs.ErrUnknown, ""},
	{"incorrect username or password", errdefs.ErrUnknown, ""},
	{"denied:", errdefs.ErrUnknown, ""},
	{"manifest unknown", errdefs.ErrNotFound, ""},
	{"manifest for ", errdefs.ErrNotFound, ""},
	{"name unknown", errdefs.ErrNotFound, ""},
	{"no matching manifest", errdefs.ErrNotFound, ""},
	{"repository name not known", errdefs.ErrNotFound, ""},
	{": not found", errdefs.ErrNotFound, ""},
	{"connection refused", errdefs.ErrUnknown, ReasonRegistryUnavailable},
	{"connection reset", errdefs.ErrUnknown, ReasonRegistryUnavailable},
	{"i/o timeout", errdefs.ErrUnknown, ReasonRegistryUnavailable},
	{"tls handshake timeout", errdefs.ErrUnknown, ReasonRegistryUnavailable},
	{"client.timeout", errdefs.ErrUnknown, ReasonRegistryUnavailable},
	{"request canceled while waiting for connection", errdefs.ErrUnknown, ReasonRegistryUnavailable},
	{"context deadline exceeded", errdefs.ErrUnknown, ReasonRegistryUnavailable},
	{"no such host", errdefs.ErrUnknown, ReasonRegistryUnavailable},
	{"server misbehaving", errdefs.ErrUnknown, ReasonRegistryUnavailable},
	{"no route to host", errdefs.ErrUnknown, ReasonRegistryUnavailable},
	{"network is unreachable", errdefs.ErrUnknown, ReasonRegistryUnavailable},
	{"unexpected eof", errdefs.ErrUnknown, ReasonRegistryUnavailable},
	{"500 internal server error", errdefs.ErrUnknown, ReasonRegistryUnavailable},
	{"502 bad gateway", errdefs.ErrUnknown, ReasonRegistryUnavailable},
	{"503 service unavailable", errdefs.ErrUnknown, ReasonRegistryUnavailable},
	{"504 gateway time", errdefs.ErrUnknown, ReasonRegistryUnavailable},
}

// PullError classifies the failure of an image pull and keeps its text; nil
// stays nil. The end of the caller's own context is passed through, as are an
// engine that is away, a full disk, and an error that matches nothing.
func PullError(err error) error {
	if err == nil || errdefs.IsCanceled(err) || errdefs.IsDeadlineExceeded(err) || errdefs.IsUnavailable(err) || errdefs.IsResourceExhausted(err) {
		return err
	}
	message := readRegistryAnswer(err.Error())
	text := strings.ToLower(message)
	for _, e := range pullErrors {
		if !strings.Contains(text, e.text) {
			continue
		}
		classified := fmt.Errorf("%s: %w", message, e.class)
		if e.reason != "" {
			return &ReasonError{Reason: e.reason, Err: classified}
		}
		return classified
	}
	return err
}

// readRegistryAnswer makes words of a registry's JSON at the end of a message.
// Docker 26.1 and later pass it on as it is if the registry did not say that it
// is JSON.
func readRegistryAnswer(message string) string {
	i := strings.Index(message, `{"errors":`)
	if i < 0 {
		return message
	}
	var answer struct {
		Errors []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"errors"`
	}
	if json.Unmarshal([]byte(message[i:]), &answer) != nil || len(answer.Errors) == 0 {
		return message
	}
	code := strings.ToLower(strings.ReplaceAll(answer.Errors[0].Code, "_", " "))
	return strings.TrimSuffix(message[:i], "unknown: ") + code + ": " + answer.Errors[0].Message
}

// sortedKeys are a map's keys in order.
func sortedKeys[M ~map[K]V, K cmp.Ordered, V any](m M) []K {
	return slices.Sorted(maps.Keys(m))
}
