package images

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/shim/images/mirror"
	"github.com/cridock/cridock/translate"
)

// pulledTimeout bounds what follows the transfer of an image: its inspection, and the
// removal of what is none.
const pulledTimeout = time.Minute

// PullEngine is what a [Puller] needs of the engine; see engine.Images.
type PullEngine interface {
	ImagePull(ctx context.Context, ref string, auth registry.AuthConfig) (io.ReadCloser, error)
	ImageInspect(ctx context.Context, ref string) (image.InspectResponse, error)
	ImageTag(ctx context.Context, image, ref string) error
	ImageRemove(ctx context.Context, ref string, force bool) error
	DistributionInspect(ctx context.Context, ref string, auth registry.AuthConfig) (registry.DistributionInspect, error)
}

// Mirrors offers images from other places than their registries; see
// [mirror.Server].
type Mirrors interface {
	Sources(ctx context.Context, ref translate.ImageReference, auth registry.AuthConfig) (iter.Seq2[context.Context, mirror.Source], *mirror.Attempts, error)
}

// Policy decides which images may be used; see [Verifiers].
type Policy interface {
	// Enabled reports whether there is a policy.
	Enabled() bool
	// Verify returns an error unless the image may be used, before it is pulled. name is
	// its normalised reference.
	Verify(ctx context.Context, name string, image ocispec.Descriptor) error
}

// Artifacts keeps what the engine cannot hold; see package artifact.
type Artifacts interface {
	Pull(ctx context.Context, ref translate.ImageReference, auth registry.AuthConfig, accept func(context.Context, ocispec.Descriptor) error) (id string, err error)
}

// PullerOptions configures a [Puller]. All fields but Keychain, Namespaces, Mirrors,
// Policy, Artifacts, Untag, StallTimeout and Received are required.
type PullerOptions struct {
	Engine PullEngine
	// Ready waits until the engine can be used. A pull begins after it.
	Ready func(context.Context) error
	// Keychain has the credentials for requests without any.
	Keychain Keychain
	// Namespaces has credentials for pods by their namespace; empty for none.
	Namespaces NamespaceKeychains
	// Mirrors are tried before the registries; nil for none.
	Mirrors Mirrors
	// Policy is asked about each image; nil for all images.
	Policy Policy
	// Artifacts pulls what the engine refuses as not an image; nil for nothing.
	Artifacts Artifacts
	// Untag takes a reference from the artifact that had it, as an image has it now; nil
	// for nothing.
	Untag func(ctx context.Context, ref translate.ImageReference) error
	// StallTimeout cancels a pull without progress for this long; zero for never.
	StallTimeout time.Duration
	// Start runs op in the background and then done with its error; a panic in op is
	// an error too. If Start itself fails it calls neither.
	Start func(ctx context.Context, op func() error, done func(error)) error
	// Changed makes a pulled image visible. A pull fails if it does.
	Changed func(context.Context) error
	// Observe records how long a pull took and its error.
	Observe func(took time.Duration, err error)
	// Received records bytes and layers as they arrive, by the image's registry; nil for
	// no records.
	Received func(registry string, bytes int64, layers int)
	// Waiting counts a caller that waits for a pull until it calls done.
	Waiting func() (done func())
}

// Puller pulls images. Its methods are safe for concurrent use.
type Puller struct {
	opts  PullerOptions
	pulls pullGroup
}

// NewPuller returns a Puller. It starts nothing.
func NewPuller(o PullerOptions) *Puller { return &Puller{opts: o} }

// Pull pulls an image and returns its ID. Calls for the same reference with the same
// credentials share one pull, which is cancelled when the last caller's context has
// ended. Without auth the node's credentials are used. A reference that is an image
// ID is errdefs.ErrInvalidArgument.
func (p *Puller) Pull(ctx context.Context, name string, auth *runtimeapi.AuthConfig) (id string, err error) {
	return p.PullFor(ctx, "", name, auth)
}

// PullFor is Pull for a pod in a Kubernetes namespace, whose own credentials then take
// precedence over the node's; "" for none.
func (p *Puller) PullFor(ctx context.Context, namespace, name string, auth *runtimeapi.AuthConfig) (id string, err error) {
	ref, err := translate.NormalizeImage(name)
	if err != nil {
		return "", err
	}
	if ref.Name == "" {
		return "", fmt.Errorf("image %q: %w: an image ID cannot be pulled; name a repository", name, errdefs.ErrInvalidArgument)
	}
	if translate.IsMirrorName(ref.Name) {
		return "", fmt.Errorf("image %q: %w: cridock uses such names itself, for mirrors", name, errdefs.ErrInvalidArgument)
	}
	// First, as credentials of a namespace are for one pull.
	if err := p.opts.Ready(ctx); err != nil {
		return "", err
	}
	keychain, used := p.opts.Namespaces.take(ctx, namespace, ref.Name, p.opts.Keychain, auth)
	credentials, err := keychain.Resolve(ctx, auth, name)
	used()
	if err != nil {
		return "", err
	}
	return p.share(ctx, ref, credentials)
}

// Pull is a pull in progress.
type Pull struct {
	Image string // with its tag or digest
	Since time.Time
}

// Running returns the pulls in progress, in no order.
func (p *Puller) Running() []Pull { return p.pulls.running() }

// share joins the pull of a reference, or starts it, and waits for it.
func (p *Puller) share(ctx context.Context, ref translate.ImageReference, auth registry.AuthConfig) (string, error) {
	key, err := pullKey(ref, auth)
	if err != nil {
		return "", err
	}
	pull, pullCtx, first := p.pulls.join(ctx, key)
	defer p.pulls.leave(pull)
	defer p.opts.Waiting()()
	if first {
		var id string
		if err := p.opts.Start(pullCtx, func() (err error) {
			id, err = p.run(pullCtx, ref, auth)
			return err
		}, func(err error) { p.pulls.finish(key, pull, id, err) }); err != nil {
			p.pulls.finish(key, pull, "", err)
		}
	}
	return pull.wait(ctx, ref)
}

func (p *Puller) run(ctx context.Context, ref translate.ImageReference, auth registry.AuthConfig) (id string, err error) {
	start := time.Now()
	defer func() { p.opts.Observe(time.Since(start), err) }()
	id, err = p.pull(ctx, ref, auth)
	if translate.IsArtifactError(err) && p.opts.Artifacts != nil {
		id, err = p.artifact(ctx, ref, auth, err)
	} else if err == nil && p.opts.Untag != nil {
		err = p.opts.Untag(ctx, ref)
	}
	if err != nil {
		return "", fmt.Errorf("pull %s: %w", ref, err)
	}
	// The kubelet asks for the image at once.
	return id, p.opts.Changed(ctx)
}

// pull pulls an image from its registry's mirrors, else from the registry.
func (p *Puller) pull(ctx context.Context, ref translate.ImageReference, auth registry.AuthConfig) (id string, err error) {
	if p.opts.Mirrors == nil {
		return p.direct(ctx, ref, auth)
	}
	sources, attempts, err := p.opts.Mirrors.Sources(ctx, ref, auth)
	if err != nil {
		return "", err
	}
	for at, source := range sources {
		if err := p.verify(ctx, ref, source.Image); err != nil {
			return "", err
		}
		id, err := p.byDigest(at, ref, source.Name, source.Auth)
		if err == nil {
			return id, nil
		}
		if pullErr := translate.PullError(err); ctx.Err() != nil || errdefs.IsUnavailable(err) || errdefs.IsResourceExhausted(err) || translate.IsArtifactError(pullErr) {
			return "", pullErr // it is not the mirror's fault
		}
		klog.FromContext(ctx).Error(err, "Cannot pull from mirror", "image", ref.String(), "mirror", source.Host)
		attempts.Fail(source.Host, err)
	}
	if attempts.Direct {
		id, err = p.direct(ctx, ref, auth)
	} else {
		return "", translate.OwnPullError(fmt.Errorf("no server has it: %w", attempts.Err()))
	}
	if err != nil && len(attempts.Failed) > 0 {
		err = fmt.Errorf("%w; and its mirrors: %w", err, oneLine(attempts.Failed))
	}
	return id, err
}

// artifact pulls what the engine has refused as not an image. Its error has the
// engine's too.
func (p *Puller) artifact(ctx context.Context, ref translate.ImageReference, auth registry.AuthConfig, refused error) (id string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("as an artifact: %w; as an image: %w", err, oneLine([]error{refused}))
		}
	}()
	id, err = p.opts.Artifacts.Pull(ctx, ref, auth, func(ctx context.Context, found ocispec.Descriptor) error { return p.verify(ctx, ref, found) })
	var reason *translate.ReasonError
	if errdefs.IsFailedPrecondition(err) || errdefs.IsResourceExhausted(err) || errors.As(err, &reason) {
		return "", err
	}
	return id, translate.OwnPullError(err)
}

// oneLine joins the texts of errors, whose classes must not count.
func oneLine(errs []error) error {
	texts := make([]string, len(errs))
	for i, err := range errs {
		texts[i] = err.Error()
	}
	return errors.New(strings.Join(texts, "; "))
}

// direct pulls an image by its own name.
func (p *Puller) direct(ctx context.Context, ref translate.ImageReference, auth registry.AuthConfig) (id string, err error) {
	if p.opts.Policy != nil && p.opts.Policy.Enabled() {
		return p.directVerified(ctx, ref, auth)
	}
	digest, err := p.transfer(ctx, ref, pullName(ref), auth)
	if err != nil {
		return "", translate.PullError(err)
	}
	// By digest if Docker has reported it: the tag may have moved since.
	if digest != "" {
		ref = translate.ImageReference{Name: ref.Name, Digest: digest}
	}
	pulled, err := p.pulled(ctx, pullName(ref))
	return pulled.ID, err
}

// directVerified pulls what the policy accepts: by digest, so that it is what the
// policy was asked about even if the tag moves.
func (p *Puller) directVerified(ctx context.Context, ref translate.ImageReference, auth registry.AuthConfig) (id string, err error) {
	found, err := p.opts.Engine.DistributionInspect(ctx, pullName(ref), auth)
	if err != nil {
		return "", translate.PullError(err)
	}
	if err := p.verify(ctx, ref, found.Descriptor); err != nil {
		return "", err
	}
	id, err = p.byDigest(ctx, ref, ref.Name+"@"+found.Descriptor.Digest.String(), auth)
	return id, translate.PullError(err)
}

// verify asks the policy, if there is one.
func (p *Puller) verify(ctx context.Context, ref translate.ImageReference, image ocispec.Descriptor) error {
	if p.opts.Policy == nil || !p.opts.Policy.Enabled() {
		return nil
	}
	err := p.opts.Policy.Verify(ctx, ref.String(), image)
	if err == nil || ctx.Err() != nil {
		return err
	}
	// Unknown, as the kubelet reads the reason with no other code.
	return &translate.ReasonError{Reason: translate.ReasonSignatureValidationFailed, Err: fmt.Errorf("%w: %w", errdefs.ErrUnknown, err)}
}

// byDigest pulls an image by its digest under the name of one of its sources, and
// gives it the tag that was asked for.
func (p *Puller) byDigest(ctx context.Context, ref translate.ImageReference, name string, auth registry.AuthConfig) (id string, err error) {
	if _, err := p.transfer(ctx, ref, name, auth); err != nil {
		return "", err
	}
	pulled, err := p.pulled(ctx, name)
	if err != nil || ref.Digest != "" {
		return pulled.ID, err
	}
	if err := p.opts.Engine.ImageTag(ctx, pulled.ID, pullName(ref)); err != nil {
		return "", err
	}
	return pulled.ID, p.dropMirrorName(ctx, name, pulled)
}

// dropMirrorName removes the name by which a tagged image came from a mirror from the
// containerd image store, which shows it in "docker images" and knows the digest of the
// tag without it. Docker's own store shows tags only, and knows no digest but this.
func (p *Puller) dropMirrorName(ctx context.Context, name string, pulled image.InspectResponse) error {
	if repository, _, _ := strings.Cut(name, "@"); pulled.Descriptor == nil || !translate.IsMirrorName(repository) {
		return nil
	}
	if err := p.opts.Engine.ImageRemove(ctx, name, false); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove the name %s: %w", name, err)
	}
	return nil
}

// transfer has the engine pull the image of ref by a name, and returns the digest that it reports; "" if
// it reports none.
func (p *Puller) transfer(ctx context.Context, ref translate.ImageReference, name string, auth registry.AuthConfig) (digest string, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream, err := p.opts.Engine.ImagePull(ctx, name, auth)
	if err == nil {
		defer func() { _ = stream.Close() }()
		progress := &pullProgress{limit: p.opts.StallTimeout, cancel: cancel, log: klog.FromContext(ctx).WithValues("image", ref.String(), "from", name)}
		if p.opts.Received != nil {
			progress.received = func(bytes int64, layers int) { p.opts.Received(ref.Registry(), bytes, layers) }
		}
		digest, err = progress.follow(stream)
	}
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	return digest, err
}

// pulled inspects a pulled image. The containerd image store also takes an artifact,
// which Docker can neither run nor mount: it has no platform and no layers, and is
// removed again, even if nobody waits for the pull any more: it would look like an image.
func (p *Puller) pulled(ctx context.Context, name string) (image.InspectResponse, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pulledTimeout)
	defer cancel()
	inspect, err := p.opts.Engine.ImageInspect(ctx, name)
	if err != nil {
		return image.InspectResponse{}, fmt.Errorf("inspect pulled image %s: %w", name, err)
	}
	if inspect.Os == "" && len(inspect.RootFS.Layers) == 0 {
		if err := p.opts.Engine.ImageRemove(ctx, inspect.ID, true); err != nil && !errdefs.IsNotFound(err) {
			return image.InspectResponse{}, fmt.Errorf("remove artifact %s from the engine: %w", name, err)
		}
		return image.InspectResponse{}, fmt.Errorf("%s: %w", name, translate.ErrArtifact)
	}
	return inspect, nil
}

// pullName returns a reference in the form that Docker pulls: by digest if it has
// one, as the tag may now name another image, else by tag.
func pullName(ref translate.ImageReference) string {
	if ref.Digest != "" {
		return ref.Name + "@" + ref.Digest
	}
	return ref.Name + ":" + ref.Tag
}

// pullKey identifies a pull by its reference and credentials.
func pullKey(ref translate.ImageReference, auth registry.AuthConfig) (string, error) {
	b, err := json.Marshal(auth) //nolint:gosec // only its hash is kept
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return pullName(ref) + " " + string(sum[:]), nil
}

// pullGroup holds the pulls in progress. The zero value is ready.
type pullGroup struct {
	mu    sync.Mutex
	pulls map[string]*pulling
}

// pulling is one pull and the number of its callers.
type pulling struct {
	done   chan struct{}
	id     string // id and err are valid once done is closed
	err    error
	users  int
	cancel context.CancelFunc
	since  time.Time
}

// wait returns the result of a pull, or the cause if ctx ends first.
func (p *pulling) wait(ctx context.Context, ref translate.ImageReference) (id string, err error) {
	select {
	case <-p.done:
		return p.id, p.err
	case <-ctx.Done():
		return "", fmt.Errorf("pull %s: %w", ref, context.Cause(ctx))
	}
}

// join returns the pull of a key. The first caller runs the pull, with pullCtx, and
// calls finish.
func (g *pullGroup) join(ctx context.Context, key string) (p *pulling, pullCtx context.Context, first bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	// A pull without users is being cancelled: do not join it.
	if p, ok := g.pulls[key]; ok && p.users > 0 {
		p.users++
		return p, nil, false
	}
	if g.pulls == nil {
		g.pulls = map[string]*pulling{}
	}
	pullCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p = &pulling{done: make(chan struct{}), users: 1, cancel: cancel, since: time.Now()}
	g.pulls[key] = p
	return p, pullCtx, true
}

// running returns the pulls in progress, in no order.
func (g *pullGroup) running() []Pull {
	g.mu.Lock()
	defer g.mu.Unlock()
	pulls := make([]Pull, 0, len(g.pulls))
	for key, p := range g.pulls {
		image, _, _ := strings.Cut(key, " ") // see pullKey
		pulls = append(pulls, Pull{Image: image, Since: p.since})
	}
	return pulls
}

// leave cancels a pull when its last caller leaves.
func (g *pullGroup) leave(p *pulling) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if p.users--; p.users == 0 {
		p.cancel()
	}
}

func (g *pullGroup) finish(key string, p *pulling, id string, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pulls[key] == p {
		delete(g.pulls, key)
	}
	p.id, p.err = id, err
	close(p.done)
}
