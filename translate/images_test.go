package translate

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/registry"
	"github.com/google/go-cmp/cmp"
	godigest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var digest = "sha256:" + strings.Repeat("ab", 32)

func TestReadImage(t *testing.T) {
	got := ReadImage(image.InspectResponse{
		ID:          imageID,
		RepoTags:    []string{"web:2", "<none>:<none>", "web:1", "localhost:5000/a/b:x", "web@" + digest, "web:1"},
		RepoDigests: []string{"web@" + digest, "<none>@<none>"},
		Size:        7,
	})
	want := Image{
		ID:          imageID,
		Ref:         "docker.io/library/web@" + digest,
		RepoTags:    []string{"docker.io/library/web:1", "docker.io/library/web:2", "localhost:5000/a/b:x"},
		RepoDigests: []string{"docker.io/library/web@" + digest},
		Size:        7,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("normalised, sorted, unique (-want +got):\n%s", diff)
	}
	bare := ReadImageSummary(image.Summary{ID: imageID})
	if bare.Ref != imageID || bare.Size != 1 || len(bare.RepoTags) != 0 {
		t.Errorf("an image without names: %+v", bare)
	}
}

// TestReadImageSummaryOfContainerd: the containerd image store lists names with a digest
// as tags, and the digest of one name only.
func TestReadImageSummaryOfContainerd(t *testing.T) {
	const mirrored = "127.0.0.1:5089/cridock-mirror/registry.test/app@"
	in := image.Summary{
		ID:          digest,
		RepoTags:    []string{"web:1", "other.test/web:2", mirrored + digest},
		RepoDigests: []string{"web@" + digest},
		Size:        7,
		Descriptor:  &ocispec.Descriptor{Digest: godigest.Digest(digest)},
	}
	want := Image{
		ID:          digest,
		Ref:         "docker.io/library/web@" + digest,
		RepoTags:    []string{"docker.io/library/web:1", "other.test/web:2"},
		RepoDigests: []string{"docker.io/library/web@" + digest, "other.test/web@" + digest, "registry.test/app@" + digest},
		Size:        7,
	}
	if diff := cmp.Diff(want, ReadImageSummary(in)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	in.Descriptor, want.RepoDigests = nil, want.RepoDigests[:1]
	if diff := cmp.Diff(want, ReadImageSummary(in)); diff != "" {
		t.Errorf("of another store (-want +got):\n%s", diff)
	}
}

func TestCRIImageUser(t *testing.T) {
	for user, want := range map[string]*runtimeapi.Image{
		"":        {},
		"0":       {Uid: &runtimeapi.Int64Value{}},
		"1000:50": {Uid: &runtimeapi.Int64Value{Value: 1000}},
		"app:app": {Username: "app"},
	} {
		got := CRIImage(Image{ID: imageID, User: user}, true)
		if got.GetUid().String() != want.GetUid().String() || got.GetUsername() != want.GetUsername() || !got.GetPinned() {
			t.Errorf("%q: uid %v, username %q", user, got.GetUid(), got.GetUsername())
		}
	}
}

func TestNormalizeImage(t *testing.T) {
	hex := strings.Repeat("ab", 32)
	for in, want := range map[string]ImageReference{
		"busybox":                         {Name: "docker.io/library/busybox", Tag: "latest"},
		"busybox:1":                       {Name: "docker.io/library/busybox", Tag: "1"},
		"docker.io/busybox":               {Name: "docker.io/library/busybox", Tag: "latest"},
		"localhost:5000/a/b:1":            {Name: "localhost:5000/a/b", Tag: "1"},
		"a/b@" + digest:                   {Name: "docker.io/a/b", Digest: digest},
		"a/b:1@" + digest:                 {Name: "docker.io/a/b", Tag: "1", Digest: digest},
		digest:                            {ID: digest},
		hex:                               {ID: digest},
		hex[:12]:                          {Name: "docker.io/library/" + hex[:12], Tag: "latest", IDPrefix: hex[:12]},
		"abc":                             {Name: "docker.io/library/abc", Tag: "latest", IDPrefix: "abc"},
		"sha256:abc":                      {Name: "docker.io/library/sha256", Tag: "abc", IDPrefix: "abc"},
		"ab":                              {Name: "docker.io/library/ab", Tag: "latest"},
		"docker-pullable://web@" + digest: {Name: "docker.io/library/web", Digest: digest},
		"docker://" + digest:              {ID: digest},
	} {
		got, err := NormalizeImage(in)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%q: %v\n%s", in, err, diff)
		}
		if got.ID == "" && got.PullTag() == "" {
			t.Errorf("%q would pull all tags", in)
		}
	}
	for _, in := range []string{"", "UPPER", "a b", "a@sha256:short", "-", "a:", strings.Repeat("x", 300)} {
		if got, err := NormalizeImage(in); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %+v, %v", in, got, err)
		}
	}
}

func TestFindImage(t *testing.T) {
	a := Image{ID: "sha256:" + strings.Repeat("aa", 32), RepoTags: []string{"docker.io/library/web:1"}, RepoDigests: []string{"docker.io/library/web@" + digest}}
	b := Image{ID: "sha256:" + strings.Repeat("aa", 31) + "bb"}
	c := Image{ID: "sha256:" + strings.Repeat("cc", 32), RepoTags: []string{"docker.io/library/" + strings.Repeat("a", 12) + ":latest"}}
	for ref, want := range map[string]string{
		"web:1":                             a.ID,
		"docker.io/library/web:1":           a.ID,
		"web@" + digest:                     a.ID,
		"web:other@" + digest:               a.ID,
		a.ID:                                a.ID,
		strings.TrimPrefix(a.ID, "sha256:"): a.ID,
		strings.Repeat("c", 12):             c.ID,
		"ccc":                               c.ID,
		"sha256:ccc":                        c.ID,
		strings.Repeat("a", 12):             c.ID, // a name takes precedence over an ID prefix
	} {
		if got, err := FindImage(ref, []Image{a, b, c}); err != nil || got.ID != want {
			t.Errorf("%q: %s, %v; want %s", ref, got.ID, err, want)
		}
	}
	if _, err := FindImage("web:2", []Image{a}); !errdefs.IsNotFound(err) {
		t.Errorf("another tag: %v", err)
	}
	for _, ref := range []string{strings.Repeat("a", 12), "aaa"} {
		if _, err := FindImage(ref, []Image{a, b}); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "ambiguous") {
			t.Errorf("an ambiguous beginning: %v", err)
		}
	}
	if _, err := FindImage("cc", []Image{c}); !errdefs.IsNotFound(err) {
		t.Errorf("a beginning that is too short: %v", err)
	}
}

func TestFilterImages(t *testing.T) {
	a := Image{ID: "sha256:" + strings.Repeat("aa", 32), RepoTags: []string{"docker.io/library/web:1", "r.io/other:1"}}
	b := Image{ID: "sha256:" + strings.Repeat("bb", 32), RepoTags: []string{"docker.io/library/web:2"}}
	c := Image{ID: "sha256:" + strings.Repeat("cc", 32), RepoDigests: []string{"docker.io/library/web@" + digest}}
	d := Image{ID: "sha256:" + strings.Repeat("dd", 32), RepoTags: []string{"docker.io/web/part:1", "docker.io/library/bbb:1"}}
	for ref, want := range map[string][]Image{
		"web":                   {a, b, c},
		"docker.io/library/web": {a, b, c},
		"web:2":                 {b},
		"web@" + digest:         {c},
		"r.io/other":            {a},
		"web/part":              {d},
		"web:3":                 nil,
		"nothing":               nil,
		"bbb":                   {d}, // a repository takes precedence over an ID prefix
		"ccc":                   {c},
		a.ID:                    {a},
	} {
		got, err := FilterImages(ref, []Image{a, b, c, d})
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%q: %v (-want +got):\n%s", ref, err, diff)
		}
	}
	if _, err := FilterImages("a b", []Image{a}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("what is no reference: %v", err)
	}
}

func TestImageName(t *testing.T) {
	tagged := Image{ID: digest, RepoTags: []string{"docker.io/library/app:1", "docker.io/library/web:1", "docker.io/library/web:2"}}
	for _, c := range []struct {
		requested string
		in        Image
		want      string
	}{
		{"web:2", tagged, "web:2"},
		{"web@" + digest, tagged, "docker.io/library/web:1"},
		{"web:2@" + digest, tagged, "docker.io/library/web:1"},
		{"r.io/none@" + digest, tagged, "docker.io/library/app:1"},
		{digest, tagged, "docker.io/library/app:1"},
		{"aba", tagged, "docker.io/library/app:1"},
		{"web@" + digest, Image{ID: digest}, "web@" + digest},
		{digest, Image{ID: digest}, digest},
	} {
		if got := imageName(c.requested, c.in); got != c.want {
			t.Errorf("%q is shown as %q, want %q", c.requested, got, c.want)
		}
	}
}

func TestDockerAuth(t *testing.T) {
	const hub = "https://index.docker.io/v1/"
	for name, tc := range map[string]struct {
		in   *runtimeapi.AuthConfig
		ref  string
		want registry.AuthConfig
		err  bool
	}{
		"none": {ref: "web"},
		"user and password": {in: &runtimeapi.AuthConfig{Username: "u", Password: "p"}, ref: "web",
			want: registry.AuthConfig{Username: "u", Password: "p", ServerAddress: hub}},
		"auth is decoded, with its trailing NULs cut": {in: &runtimeapi.AuthConfig{Auth: "dTpwOnEAAA=="}, ref: "r.io:5000/web",
			want: registry.AuthConfig{Username: "u", Password: "p:q", ServerAddress: "r.io:5000"}},
		"user and password go before auth": {in: &runtimeapi.AuthConfig{Username: "v", Password: "w", Auth: "dTpw"}, ref: "r.io/web",
			want: registry.AuthConfig{Username: "v", Password: "w", ServerAddress: "r.io"}},
		"tokens pass through": {in: &runtimeapi.AuthConfig{IdentityToken: "i", RegistryToken: "r"}, ref: "r.io/web",
			want: registry.AuthConfig{IdentityToken: "i", RegistryToken: "r", ServerAddress: "r.io"}},
		"credentials of another registry are not sent": {in: &runtimeapi.AuthConfig{Username: "u", Password: "p", ServerAddress: "https://evil.io"}, ref: "r.io/web"},
		"Docker Hub's addresses are one": {in: &runtimeapi.AuthConfig{Username: "u", Password: "p", ServerAddress: hub}, ref: "docker.io/a/b",
			want: registry.AuthConfig{Username: "u", Password: "p", ServerAddress: hub}},
		"a host without a scheme": {in: &runtimeapi.AuthConfig{Username: "u", Password: "p", ServerAddress: "r.io:5000"}, ref: "r.io:5000/web",
			want: registry.AuthConfig{Username: "u", Password: "p", ServerAddress: "r.io:5000"}},
		"auth that is not base64":    {in: &runtimeapi.AuthConfig{Auth: "secret!"}, ref: "web", err: true},
		"auth without a colon":       {in: &runtimeapi.AuthConfig{Auth: "c2VjcmV0"}, ref: "web", err: true},
		"a reference that is no one": {in: &runtimeapi.AuthConfig{Username: "u"}, ref: "A B", err: true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := DockerAuth(tc.in, tc.ref)
			if tc.err {
				if !errdefs.IsInvalidArgument(err) || strings.Contains(err.Error(), "secret") {
					t.Fatalf("got %v", err)
				}
				return
			}
			if diff := cmp.Diff(tc.want, got); err != nil || diff != "" {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
}

func TestPullError(t *testing.T) {
	for text, tc := range map[string]struct {
		class        func(error) bool
		reason, cure string
	}{
		"manifest for web:2 not found: manifest unknown: manifest unknown":                                {errdefs.IsNotFound, "", "name and tag"},
		"manifest for web not found: name unknown: repository name not known to registry":                 {errdefs.IsNotFound, "", "name and tag"},
		`failed to resolve reference "r.io/web:2": r.io/web:2: not found`:                                 {errdefs.IsNotFound, "", "name and tag"},
		"pull access denied for web, repository does not exist or may require 'docker login'":             {errdefs.IsUnknown, "", "imagePullSecrets"},
		"Get \"https://r.io/v2/web/manifests/1\": unauthorized: authentication required":                  {errdefs.IsUnknown, "", "imagePullSecrets"},
		"Head \"https://r.io/v2/web/manifests/1\": no basic auth credentials":                             {errdefs.IsUnknown, "", "imagePullSecrets"},
		"toomanyrequests: You have reached your pull rate limit":                                          {errdefs.IsResourceExhausted, "", "mirror"},
		"unexpected status from HEAD request to https://r.io/v2/web/manifests/1: 429 Too Many Requests":   {errdefs.IsResourceExhausted, "", "mirror"},
		"no matching manifest for linux/amd64 in the manifest list entries":                               {errdefs.IsNotFound, "", "platform"},
		"no match for platform in manifest: not found":                                                    {errdefs.IsNotFound, "", "platform"},
		`image operating system "windows" cannot be used on this platform`:                                {errdefs.IsNotFound, "", "platform"},
		"Docker Image manifest version 2, schema 1 support is disabled by default":                        {errdefs.IsFailedPrecondition, "", "schema 1"},
		"invalid rootfs in image configuration":                                                           {errdefs.IsFailedPrecondition, "", "artifact"},
		"unsupported media type application/vnd.oci.empty.v1+json":                                        {errdefs.IsFailedPrecondition, "", "artifact"},
		"Get \"https://r.io/v2/\": x509: certificate signed by unknown authority":                         {errdefs.IsUnknown, ReasonRegistryUnavailable, "certs.d"},
		"tls: failed to verify certificate: x509: certificate has expired or is not yet valid":            {errdefs.IsUnknown, ReasonRegistryUnavailable, "renew"},
		"Get \"https://r.io/v2/\": http: server gave HTTP response to HTTPS client":                       {errdefs.IsUnknown, ReasonRegistryUnavailable, "insecure-registries"},
		"Get \"https://r.io/v2/\": dial tcp 127.0.0.1:1: connect: connection refused":                     {errdefs.IsUnknown, ReasonRegistryUnavailable, "firewall"},
		"Get \"https://r.io/v2/\": net/http: TLS handshake timeout":                                       {errdefs.IsUnknown, ReasonRegistryUnavailable, "firewall"},
		"Get \"https://r.io/v2/\": dial tcp: lookup r.io: no such host":                                   {errdefs.IsUnknown, ReasonRegistryUnavailable, "DNS"},
		"Get \"https://r.io/v2/\": dial tcp: lookup r.io on 10.0.0.1:53: read: connection refused":        {errdefs.IsUnknown, ReasonRegistryUnavailable, "DNS"},
		"failed to register layer: max depth exceeded":                                                    {errdefs.IsFailedPrecondition, "", "squash"},
		"received unexpected HTTP status: 503 Service Unavailable":                                        {errdefs.IsUnknown, ReasonRegistryUnavailable, "later"},
		"Error: remote trust data does not exist for docker.io/library/web: notary.docker.io has no data": {errdefs.IsUnknown, ReasonSignatureValidationFailed, "sign"},
	} {
		got := PullError(fmt.Errorf("pull: %w", errors.New(text)))
		if !tc.class(got) || !strings.Contains(got.Error(), text) || !strings.HasPrefix(got.Error(), tc.reason) || !strings.Contains(got.Error(), tc.cure) {
			t.Errorf("%q became %q, want %q with the cure %q", text, got, tc.reason, tc.cure)
		}
		var reason *ReasonError
		if errors.As(got, &reason) != (tc.reason != "") {
			t.Errorf("%q: reason %v", text, reason)
		}
	}
	raw := errors.New(`Error response from daemon: unknown: {"errors":[{"code":"NAME_UNKNOWN","message":"Unknown name"}]}`)
	if err := PullError(raw); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "daemon: name unknown: Unknown name") {
		t.Errorf("a registry's JSON became %v", err)
	}
	for _, err := range []error{
		fmt.Errorf("docker broke the connection: %w: connection reset by peer", errdefs.ErrUnavailable),
	} {
		if got := PullError(err); !errors.Is(got, err) || got.Error() != err.Error() {
			t.Errorf("%v became %v", err, got)
		}
	}
	full := fmt.Errorf("%w: unexpected EOF: no space left on device", errdefs.ErrResourceExhausted)
	if got := PullError(full); !errors.Is(got, full) || !strings.Contains(got.Error(), "free disk space") {
		t.Errorf("a full disk became %v", got)
	}
	limited := fmt.Errorf("%w: Error response from daemon: toomanyrequests: slow down", errdefs.ErrResourceExhausted)
	if got := PullError(limited); !errdefs.IsResourceExhausted(got) || !strings.Contains(got.Error(), "mirror") || strings.Contains(got.Error(), "disk space") {
		t.Errorf("a rate limit became %v", got)
	}
	for text, cure := range map[string]string{
		"Get \"https://r.io/v2/\": x509: certificate signed by unknown authority":      "hosts.toml",
		"http: server gave HTTP response to HTTPS client":                              "hosts.toml",
		"dial tcp 127.0.0.1:1: connect: connection refused":                            "cridock's proxy",
		"Get \"https://r.io/v2/\": dial tcp: lookup r.io on 10.0.0.1:53: no such host": "DNS",
	} {
		got := OwnPullError(errors.New(text))
		if !errdefs.IsUnknown(got) || !strings.HasPrefix(got.Error(), ReasonRegistryUnavailable) || !strings.Contains(got.Error(), cure) {
			t.Errorf("%q became %q, want the cure %q", text, got, cure)
		}
	}
	if PullError(nil) != nil {
		t.Error("nil is an error")
	}
	if err := PullError(fmt.Errorf("x: %w", context.DeadlineExceeded)); !errors.Is(err, context.DeadlineExceeded) || strings.HasPrefix(err.Error(), ReasonRegistryUnavailable) {
		t.Errorf("the caller's deadline became %v", err)
	}
	if other := errors.New("disk full"); !errors.Is(PullError(other), other) {
		t.Error("an error nobody knows was changed")
	}
}

func TestKubeletMessage(t *testing.T) {
	err := fmt.Errorf("create container x: %w", &ReasonError{Reason: ReasonRROUnsupported, Err: errors.New("mounts[0]")})
	if got, want := KubeletMessage(err), "RROUnsupported: create container x: mounts[0]"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := KubeletMessage(errors.New("plain")); got != "plain" {
		t.Errorf("%q", got)
	}
	if got := KubeletMessage(nil); got != "" {
		t.Errorf("%q", got)
	}
}
