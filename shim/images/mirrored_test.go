package images

import (
	"context"
	"errors"
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/registry"
	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cridock/cridock/shim/images/mirror"
	"github.com/cridock/cridock/translate"
)

// mirrors offers one source after another.
type mirrors struct {
	sources  []mirror.Source
	attempts mirror.Attempts
	err      error
}

func (m *mirrors) Sources(ctx context.Context, _ translate.ImageReference, _ registry.AuthConfig) (iter.Seq2[context.Context, mirror.Source], *mirror.Attempts, error) {
	return func(yield func(context.Context, mirror.Source) bool) {
		for _, s := range m.sources {
			if !yield(ctx, s) {
				return
			}
		}
	}, &m.attempts, m.err
}

const (
	testDigest = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	mirrorName = "127.0.0.1:5089/cridock-mirror/registry.test/app@" + testDigest
)

func offered(hosts ...string) *mirrors {
	m := &mirrors{attempts: mirror.Attempts{Direct: true}}
	for _, h := range hosts {
		m.sources = append(m.sources, mirror.Source{Host: h, Name: mirrorName, Image: ocispec.Descriptor{Digest: testDigest}, Auth: registry.AuthConfig{Username: h}})
	}
	return m
}

func TestPullFromMirrors(t *testing.T) {
	for name, tc := range map[string]struct {
		ref      string
		m        *mirrors
		bad      map[string]string // errors of pulls, by user or name
		pulled   []string
		tagged   []string
		class    func(error) bool
		contains []string
	}{
		"the first": {"registry.test/app:1", offered("a", "b"), nil, []string{"a " + mirrorName}, []string{"sha256:1 as registry.test/app:1"}, nil, nil},
		"by digest": {"registry.test/app@" + testDigest, offered("a"), nil, []string{"a " + mirrorName}, nil, nil, nil},
		"the second": {"registry.test/app:1", offered("a", "b"), map[string]string{"a": "unexpected EOF"},
			[]string{"a " + mirrorName, "b " + mirrorName}, []string{"sha256:1 as registry.test/app:1"}, nil, nil},
		"the registry": {"registry.test/app:1", offered("a"), map[string]string{"a": "manifest unknown"},
			[]string{"a " + mirrorName, " registry.test/app:1"}, nil, nil, nil},
		"none": {"registry.test/app:1", offered("a"), map[string]string{"a": "toomanyrequests", "": "manifest unknown"},
			[]string{"a " + mirrorName, " registry.test/app:1"}, nil, errdefs.IsNotFound, []string{"manifest unknown", "its mirrors: a: toomanyrequests"}},
		"another server": {"registry.test/app:1", &mirrors{sources: offered("a").sources}, map[string]string{"a": "connection refused"},
			[]string{"a " + mirrorName}, nil, errdefs.IsUnknown, []string{translate.ReasonRegistryUnavailable, "a: connection refused"}},
		"another server with its own CA": {"registry.test/app:1", &mirrors{sources: offered("a").sources}, map[string]string{"a": "x509: certificate signed by unknown authority"},
			[]string{"a " + mirrorName}, nil, errdefs.IsUnknown, []string{translate.ReasonRegistryUnavailable, "hosts.toml"}},
		"a full disk": {"registry.test/app:1", offered("a", "b"), map[string]string{"a": "no space left on device"},
			[]string{"a " + mirrorName}, nil, errdefs.IsResourceExhausted, nil},
		"a broken file": {"registry.test/app:1", &mirrors{err: errdefs.ErrFailedPrecondition}, nil, nil, nil, errdefs.IsFailedPrecondition, nil},
	} {
		t.Run(name, func(t *testing.T) {
			f := newPuller(func(o *PullerOptions) { o.Mirrors = tc.m })
			var pulled []string
			f.engine.pull = func(_ context.Context, ref string, auth registry.AuthConfig) (string, error) {
				pulled = append(pulled, auth.Username+" "+ref)
				if text := tc.bad[auth.Username]; text != "" {
					return `{"error":"` + text + `"}`, nil
				}
				return "", nil
			}
			id, err := f.Pull(t.Context(), tc.ref, nil)
			if tc.class == nil {
				tc.class = func(err error) bool { return err == nil && id == "sha256:1" }
			}
			if !tc.class(err) {
				t.Errorf("Pull = %q, %v", id, err)
			}
			for _, part := range tc.contains {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q lacks %q", err, part)
				}
			}
			if diff := cmp.Diff([][]string{tc.pulled, tc.tagged}, [][]string{pulled, f.engine.tagged}); diff != "" {
				t.Errorf("pulled, tagged (-want +got):\n%s", diff)
			}
		})
	}
	if _, err := newPuller().Pull(t.Context(), mirrorName, nil); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a name of cridock's own: %v", err)
	}
}

// TestMirrorName: the containerd image store has no name of a mirror for a tagged image.
func TestMirrorName(t *testing.T) {
	for ref, want := range map[string][]string{"registry.test/app:1": {mirrorName}, "registry.test/app@" + testDigest: nil} {
		f := newPuller(func(o *PullerOptions) { o.Mirrors = offered("a") })
		f.engine.containerd = true
		if id, err := f.Pull(t.Context(), ref, nil); id != "sha256:1" || err != nil {
			t.Errorf("Pull = %q, %v", id, err)
		}
		if diff := cmp.Diff(want, f.engine.removed); diff != "" {
			t.Errorf("%s: removed (-want +got):\n%s", ref, diff)
		}
	}
	f := newPuller(func(o *PullerOptions) { o.Mirrors = offered("a") })
	if _, err := f.Pull(t.Context(), "registry.test/app:1", nil); err != nil || f.engine.removed != nil {
		t.Errorf("another store: removed %q, %v", f.engine.removed, err)
	}
}

// policy accepts an image unless it has an error.
type policy struct {
	asked []string
	err   error
}

func (*policy) Enabled() bool { return true }

func (p *policy) Verify(_ context.Context, name string, image ocispec.Descriptor) error {
	p.asked = append(p.asked, name+" "+image.Digest.String())
	return p.err
}

// TestPolicy: what is pulled is what the policy was asked about, and nothing is pulled
// that it refuses.
func TestPolicy(t *testing.T) {
	for name, tc := range map[string]struct {
		mirrors *mirrors
		pulled  string
	}{
		"from the registry": {offered(), "registry.test/app@" + testDigest},
		"from a mirror":     {offered("a"), mirrorName},
	} {
		for verdict, refusal := range map[string]error{"accepted": nil, "refused": errors.New("no signature")} {
			t.Run(name+", "+verdict, func(t *testing.T) {
				p := &policy{err: refusal}
				f := newPuller(func(o *PullerOptions) { o.Mirrors, o.Policy = tc.mirrors, p })
				f.engine.descriptor.Digest = testDigest
				var pulled []string
				f.engine.pull = func(_ context.Context, ref string, _ registry.AuthConfig) (string, error) {
					pulled = append(pulled, ref)
					return "", nil
				}
				_, err := f.Pull(t.Context(), "registry.test/app:1", nil)
				if diff := cmp.Diff([]string{"registry.test/app:1 " + testDigest}, p.asked); diff != "" {
					t.Errorf("asked (-want +got):\n%s", diff)
				}
				if refusal != nil {
					if message := translate.KubeletMessage(err); len(pulled) != 0 || !strings.HasPrefix(message, "SignatureValidationFailed: ") || !errdefs.IsUnknown(err) {
						t.Errorf("pulled %q, error %q", pulled, message)
					}
					return
				}
				if err != nil || !cmp.Equal(pulled, []string{tc.pulled}) || !cmp.Equal(f.engine.tagged, []string{"sha256:1 as registry.test/app:1"}) {
					t.Errorf("pulled %q, tagged %q, error %v", pulled, f.engine.tagged, err)
				}
			})
		}
	}
}

// artifacts keeps everything, or nothing.
type artifacts struct {
	asked []string
	err   error
}

func (a *artifacts) Pull(ctx context.Context, ref translate.ImageReference, _ registry.AuthConfig, accept func(context.Context, ocispec.Descriptor) error) (string, error) {
	a.asked = append(a.asked, ref.String())
	if err := accept(ctx, ocispec.Descriptor{Digest: testDigest}); err != nil {
		return "", err
	}
	return testDigest, a.err
}

// TestPullArtifact: what the engine refuses as not an image is pulled as an artifact,
// also from a mirror, and under the same policy.
func TestPullArtifact(t *testing.T) {
	const notAnImage = "unsupported media type application/vnd.oci.empty.v1+json"
	for name, tc := range map[string]struct {
		engine  string // its error
		m       *mirrors
		refusal error // the policy's
		err     error // of the artifact's pull
		asked   bool
		want    func(error) bool
	}{
		"from the registry":     {notAnImage, offered(), nil, nil, true, nil},
		"from a mirror":         {notAnImage, offered("a", "b"), nil, nil, true, nil},
		"no such tag":           {"manifest unknown", offered(), nil, nil, false, errdefs.IsNotFound},
		"refused by the policy": {notAnImage, offered("a"), errors.New("no signature"), nil, false, errdefs.IsUnknown},
		"a hostile one":         {notAnImage, offered(), nil, errdefs.ErrFailedPrecondition, true, errdefs.IsFailedPrecondition},
		"too large":             {notAnImage, offered(), nil, errdefs.ErrResourceExhausted, true, errdefs.IsResourceExhausted},
		"the registry is down":  {notAnImage, offered(), nil, errors.New("connection refused"), true, errdefs.IsUnknown},
		"a certificate that only Docker trusts": {notAnImage, offered(), nil, errors.New("x509: certificate signed by unknown authority"), true, func(err error) bool {
			return errdefs.IsUnknown(err) && !errdefs.IsFailedPrecondition(err) && strings.HasPrefix(translate.KubeletMessage(err), translate.ReasonRegistryUnavailable) &&
				strings.Contains(err.Error(), "hosts.toml") && !strings.Contains(err.Error(), "/etc/docker") && strings.Contains(err.Error(), notAnImage)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			a := &artifacts{err: tc.err}
			f := newPuller(func(o *PullerOptions) {
				o.Mirrors, o.Artifacts, o.Policy = tc.m, a, &policy{err: tc.refusal}
			})
			f.engine.descriptor.Digest = testDigest
			pulls := 0
			f.engine.pull = func(context.Context, string, registry.AuthConfig) (string, error) {
				pulls++
				return `{"error":"` + tc.engine + `"}`, nil
			}
			id, err := f.Pull(t.Context(), "registry.test/app:1", nil)
			if tc.want == nil {
				tc.want = func(err error) bool { return err == nil && id == testDigest }
			}
			if !tc.want(err) || (len(a.asked) == 1) != tc.asked || pulls > 1 {
				t.Errorf("Pull = %q, %v, after %d pulls; the store was asked for %q", id, err, pulls, a.asked)
			}
		})
	}
}

// TestPullArtifactThatTheEngineTakes: it is removed from the engine again, and gets no
// tag there.
func TestPullArtifactThatTheEngineTakes(t *testing.T) {
	for name, m := range map[string]*mirrors{"from the registry": offered(), "from a mirror": offered("a", "b")} {
		t.Run(name, func(t *testing.T) {
			a := &artifacts{}
			f := newPuller(func(o *PullerOptions) { o.Mirrors, o.Artifacts = m, a })
			f.engine.os = ""
			id, err := f.Pull(t.Context(), "registry.test/app:1", nil)
			if id != testDigest || err != nil || len(a.asked) != 1 {
				t.Errorf("Pull = %q, %v; the store was asked for %q", id, err, a.asked)
			}
			if !cmp.Equal(f.engine.removed, []string{"sha256:1"}) || len(f.engine.tagged) != 0 {
				t.Errorf("removed %q, tagged %q", f.engine.removed, f.engine.tagged)
			}
		})
	}
}

// TestArtifactWithoutCaller: what the engine has taken is removed from it even if the
// caller has left.
func TestArtifactWithoutCaller(t *testing.T) {
	ended := make(chan error, 1)
	f := newPuller(func(o *PullerOptions) {
		o.Artifacts, o.Observe = &artifacts{}, func(_ time.Duration, err error) { ended <- err }
	})
	f.engine.os = ""
	ctx, cancel := context.WithCancel(t.Context())
	f.engine.pull = func(pull context.Context, _ string, _ registry.AuthConfig) (string, error) {
		cancel()
		<-pull.Done()
		return "", nil
	}
	if _, err := f.Pull(ctx, "registry.test/app:1", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("Pull = %v", err)
	}
	if err := <-ended; !cmp.Equal(f.engine.removed, []string{"sha256:1"}) {
		t.Errorf("removed %q, %v", f.engine.removed, err)
	}
}

// TestUntag: an image takes its tag from an artifact; an artifact or a failed pull
// takes nothing.
func TestUntag(t *testing.T) {
	for stream, want := range map[string][]string{
		"": {"registry.test/app:1"}, `{"error":"unsupported media type x"}`: nil, `{"error":"manifest unknown"}`: nil,
	} {
		var untagged []string
		f := newPuller(func(o *PullerOptions) {
			o.Artifacts = &artifacts{}
			o.Untag = func(_ context.Context, ref translate.ImageReference) error {
				untagged = append(untagged, ref.String())
				return nil
			}
		})
		f.engine.pull = func(context.Context, string, registry.AuthConfig) (string, error) { return stream, nil }
		_, err := f.Pull(t.Context(), "registry.test/app:1", nil)
		if !cmp.Equal(want, untagged) {
			t.Errorf("%s: untagged %q, %v", stream, untagged, err)
		}
	}
}
