package images

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/registry"
	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/translate"
)

// pullEngine is an engine with pull as its pulls. It records what is inspected.
type pullEngine struct {
	pull      func(ctx context.Context, ref string, auth registry.AuthConfig) (string, error)
	inspected []string
	removed   []string
	os        string
	tagged    []string
	// descriptor is what registries answer.
	descriptor ocispec.Descriptor
	containerd bool // the image store
}

func (e *pullEngine) ImagePull(ctx context.Context, ref string, auth registry.AuthConfig) (io.ReadCloser, error) {
	stream, err := e.pull(ctx, ref, auth)
	return io.NopCloser(strings.NewReader(stream)), err
}

func (e *pullEngine) ImageInspect(ctx context.Context, ref string) (image.InspectResponse, error) {
	e.inspected = append(e.inspected, ref)
	inspect := image.InspectResponse{ID: "sha256:1", Os: e.os}
	if e.containerd {
		inspect.Descriptor = &e.descriptor
	}
	return inspect, ctx.Err()
}

func (e *pullEngine) ImageRemove(ctx context.Context, ref string, _ bool) error {
	e.removed = append(e.removed, ref)
	return ctx.Err()
}

func (e *pullEngine) ImageTag(_ context.Context, image, ref string) error {
	e.tagged = append(e.tagged, image+" as "+ref)
	return nil
}

func (e *pullEngine) DistributionInspect(context.Context, string, registry.AuthConfig) (registry.DistributionInspect, error) {
	return registry.DistributionInspect{Descriptor: e.descriptor}, nil
}

// pullFixture is a Puller and what it has reported.
type pullFixture struct {
	*Puller
	engine  *pullEngine
	changed int
	results []error
}

func newPuller(change ...func(*PullerOptions)) *pullFixture {
	f := &pullFixture{engine: &pullEngine{os: "linux", pull: func(context.Context, string, registry.AuthConfig) (string, error) { return "", nil }}}
	o := PullerOptions{
		Engine: f.engine,
		Ready:  func(context.Context) error { return nil },
		Start: func(_ context.Context, op func() error, done func(error)) error {
			go func() { done(op()) }()
			return nil
		},
		Changed: func(context.Context) error { f.changed++; return nil },
		Observe: func(_ time.Duration, err error) { f.results = append(f.results, err) },
		Waiting: func() func() { return func() {} },
	}
	for _, c := range change {
		c(&o)
	}
	f.Puller = NewPuller(o)
	return f
}

func TestPull(t *testing.T) {
	const digest = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	for _, tc := range []struct{ name, ref, stream, pulled, inspected string }{
		{"by tag", "registry.test/app:1", "", "registry.test/app:1", "registry.test/app:1"},
		{"the default tag", "registry.test/app", "", "registry.test/app:latest", "registry.test/app:latest"},
		{"inspected by the digest that Docker reports", "registry.test/app:1", `{"status":"Digest: ` + digest + `"}`, "registry.test/app:1", "registry.test/app@" + digest},
		{"by digest rather than tag", "registry.test/app:1@" + digest, "", "registry.test/app@" + digest, "registry.test/app@" + digest},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newPuller()
			var pulled []string
			var got registry.AuthConfig
			f.engine.pull = func(_ context.Context, ref string, auth registry.AuthConfig) (string, error) {
				pulled, got = append(pulled, ref), auth
				return tc.stream, nil
			}
			id, err := f.Pull(t.Context(), tc.ref, &runtimeapi.AuthConfig{Username: "u", Password: "p"})
			if id != "sha256:1" || err != nil {
				t.Errorf("Pull = %q, %v", id, err)
			}
			if diff := cmp.Diff([][]string{{tc.pulled}, {tc.inspected}}, [][]string{pulled, f.engine.inspected}); diff != "" {
				t.Errorf("pulled, inspected (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(registry.AuthConfig{Username: "u", Password: "p", ServerAddress: "registry.test"}, got); diff != "" {
				t.Errorf("credentials (-want +got):\n%s", diff)
			}
			if f.changed != 1 || len(f.results) != 1 || f.results[0] != nil {
				t.Errorf("made visible %d times, results %v", f.changed, f.results)
			}
		})
	}
}

func TestPullFails(t *testing.T) {
	broken := errors.New("broken")
	fail := func(context.Context) error { return broken }
	for _, tc := range []struct {
		name, ref string
		change    func(*PullerOptions)
		want      func(error) bool
		pulls     int
	}{
		{"an image ID", "sha256:" + strings.Repeat("a", 64), func(*PullerOptions) {}, errdefs.IsInvalidArgument, 0},
		{"no reference", "UPPER", func(*PullerOptions) {}, errdefs.IsInvalidArgument, 0},
		{"the engine is away", "app:1", func(o *PullerOptions) { o.Ready = fail }, func(err error) bool { return errors.Is(err, broken) }, 0},
		{"the image stays invisible", "app:1", func(o *PullerOptions) { o.Changed = fail }, func(err error) bool { return errors.Is(err, broken) }, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newPuller(tc.change)
			if _, err := f.Pull(t.Context(), tc.ref, nil); !tc.want(err) {
				t.Errorf("Pull = %v", err)
			}
			if len(f.results) != tc.pulls {
				t.Errorf("%d pulls, want %d", len(f.results), tc.pulls)
			}
		})
	}
	f := newPuller()
	f.engine.pull = func(context.Context, string, registry.AuthConfig) (string, error) { return `{"error":"denied"}`, nil }
	if _, err := f.Pull(t.Context(), "app:1", nil); err == nil || len(f.results) != 1 || f.results[0] == nil || f.changed != 0 {
		t.Errorf("Pull = %v, results %v, made visible %d times", err, f.results, f.changed)
	}
}

// TestPullThatCannotStart leaves nothing behind that a later pull would wait
// for.
func TestPullThatCannotStart(t *testing.T) {
	refuse := true
	f := newPuller(func(o *PullerOptions) {
		start := o.Start
		o.Start = func(ctx context.Context, op func() error, done func(error)) error {
			if refuse {
				return errdefs.ErrUnavailable
			}
			return start(ctx, op, done)
		}
	})
	if _, err := f.Pull(t.Context(), "app:1", nil); !errdefs.IsUnavailable(err) {
		t.Errorf("Pull = %v, want unavailable", err)
	}
	refuse = false
	if id, err := f.Pull(t.Context(), "app:1", nil); id == "" || err != nil {
		t.Errorf("the next: %q, %v", id, err)
	}
	if n := len(f.pulls.pulls); n != 0 {
		t.Errorf("%d pulls are kept", n)
	}
}

// TestPullEndsWithItsCaller: a cancelled caller does not wait for the engine,
// whose pull is cancelled when nobody waits for it.
func TestPullEndsWithItsCaller(t *testing.T) {
	f := newPuller()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	f.engine.pull = func(pull context.Context, _ string, _ registry.AuthConfig) (string, error) {
		cancel()
		<-pull.Done()
		ended <- pull.Err()
		return "", pull.Err()
	}
	if _, err := f.Pull(ctx, "app:1", nil); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "app:1") {
		t.Errorf("Pull = %v, want canceled", err)
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the engine's context: %v", err)
	}
}

func TestPullGroup(t *testing.T) {
	var g pullGroup
	one, oneCtx, first := g.join(t.Context(), "a")
	if !first {
		t.Fatal("nobody else pulls")
	}
	if p, _, first := g.join(t.Context(), "a"); first || p != one {
		t.Error("a second caller pulls as well")
	}
	if p, _, first := g.join(t.Context(), "b"); !first || p == one {
		t.Error("another key shares the pull")
	}
	g.leave(one)
	if err := oneCtx.Err(); err != nil {
		t.Errorf("the pull of a remaining caller: %v", err)
	}
	g.leave(one)
	if oneCtx.Err() == nil {
		t.Error("a pull without callers goes on")
	}
	two, twoCtx, first := g.join(t.Context(), "a")
	if !first || two == one {
		t.Fatal("a caller joins a pull that is being cancelled")
	}
	g.finish("a", one, "", oneCtx.Err())
	if p, _, first := g.join(t.Context(), "a"); first || p != two {
		t.Error("the end of the cancelled pull hides the new one")
	}
	g.finish("a", two, "id", nil)
	if id, err := two.wait(t.Context(), translate.ImageReference{}); id != "id" || err != nil || twoCtx.Err() != nil {
		t.Errorf("result %q, %v, context %v", id, err, twoCtx.Err())
	}
}
