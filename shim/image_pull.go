package shim

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/registry"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/shim/engine"
	"github.com/cridock/cridock/translate"
)

// pullLogInterval is how often a running pull logs its progress.
const pullLogInterval = 30 * time.Second

var errStalled = errors.New("the pull makes no progress")

// PullImage pulls an image and returns its ID. Calls for the same reference
// with the same credentials share one pull, which is cancelled when the last
// caller disconnects.
func (s *Service) PullImage(ctx context.Context, r *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	if _, err := translate.RuntimeHandler(r.GetImage().GetRuntimeHandler(), s.Host()); err != nil {
		return nil, err
	}
	ref, err := translate.NormalizeImage(r.GetImage().GetImage())
	if err != nil {
		return nil, err
	}
	if ref.Name == "" {
		return nil, fmt.Errorf("image %q: %w: an image ID cannot be pulled; name a repository", r.GetImage().GetImage(), errdefs.ErrInvalidArgument)
	}
	auth, err := s.pullAuth(ctx, r.GetAuth(), r.GetImage().GetImage())
	if err != nil {
		return nil, err
	}
	id, err := s.pull(ctx, ref, auth)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.PullImageResponse{ImageRef: id}, nil
}

func (s *Service) pull(ctx context.Context, ref translate.ImageReference, auth registry.AuthConfig) (string, error) {
	if err := s.index.Ready(ctx); err != nil {
		return "", err
	}
	key, err := pullKey(ref, auth)
	if err != nil {
		return "", err
	}
	p, pullCtx, first := s.pulls.join(ctx, key)
	defer s.pulls.leave(p)
	defer s.metrics.waiting("pull")()
	if first {
		if err := s.work.start(func() {
			var id string
			err := recovered(pullCtx, func() (err error) {
				id, err = s.runPull(pullCtx, ref, auth)
				return err
			})
			s.pulls.finish(key, p, id, err)
		}); err != nil {
			s.pulls.finish(key, p, "", err)
		}
	}
	select {
	case <-p.done:
		return p.id, p.err
	case <-ctx.Done():
		return "", fmt.Errorf("pull %s: %w", ref, context.Cause(ctx))
	}
}

func (s *Service) runPull(ctx context.Context, ref translate.ImageReference, auth registry.AuthConfig) (id string, err error) {
	start := time.Now()
	defer func() { s.metrics.observePull(start, err) }()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream, err := s.engine.ImagePull(ctx, pullName(ref), auth)
	if err != nil {
		return "", fmt.Errorf("pull %s: %w", ref, translate.PullError(err))
	}
	defer func() { _ = stream.Close() }()
	progress := &pullProgress{limit: s.cfg.PullProgressTimeout, cancel: cancel, log: klog.FromContext(ctx).WithValues("image", ref.String())}
	digest, err := progress.follow(stream)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	if err != nil {
		return "", fmt.Errorf("pull %s: %w", ref, translate.PullError(err))
	}
	// By digest if Docker has reported it: the tag may have moved since.
	if digest != "" {
		ref = translate.ImageReference{Name: ref.Name, Digest: digest}
	}
	inspect, err := s.engine.ImageInspect(ctx, pullName(ref))
	if err != nil {
		return "", fmt.Errorf("inspect pulled image %s: %w", ref, err)
	}
	// The kubelet asks for the image at once.
	return inspect.ID, s.imagesChanged(ctx)
}

// pullName returns a reference in the form that Docker pulls: by digest if it has
// one, as the tag may now name another image, else by tag.
func pullName(ref translate.ImageReference) string {
	if ref.Digest != "" {
		return ref.Name + "@" + ref.Digest
	}
	return ref.Name + ":" + ref.Tag
}

// pullProgress reads the messages of a pull and cancels a stalled one.
type pullProgress struct {
	limit  time.Duration // zero: none
	cancel context.CancelCauseFunc
	log    klog.Logger
}

// pullMessage is the part of Docker's progress messages that matters.
type pullMessage struct {
	ID     string `json:"id"`
	Status string `json:"status"`
	Error  string `json:"error"` // deprecated in favour of errorDetail
	Detail struct {
		Message string `json:"message"`
	} `json:"errorDetail"`
	Progress struct {
		Current int64 `json:"current"`
		Total   int64 `json:"total"`
	} `json:"progressDetail"`
}

// follow reads messages until the pull ends, and returns the digest that Docker
// reports; "" if it reports none.
func (p *pullProgress) follow(r io.Reader) (digest string, err error) {
	var timer *time.Timer // nil without a limit
	if p.limit > 0 {
		timer = time.AfterFunc(p.limit, func() { p.cancel(fmt.Errorf("%w: no layer has changed for %v", errStalled, p.limit)) })
		defer timer.Stop()
	}
	last := map[string]pullMessage{}
	logged, start := time.Now(), time.Now()
	for d := json.NewDecoder(r); ; {
		var m pullMessage
		if err := d.Decode(&m); errors.Is(err, io.EOF) {
			return digest, nil
		} else if err != nil {
			return "", err
		}
		if message := cmp.Or(m.Detail.Message, m.Error); message != "" {
			return "", engine.ClassifyText(errors.New(message))
		}
		if d, ok := strings.CutPrefix(m.Status, "Digest: "); ok {
			digest = d
		}
		if last[m.ID] == m {
			continue // a repeated message is no progress
		}
		last[m.ID] = m
		if timer != nil {
			timer.Reset(p.limit)
		}
		if time.Since(logged) >= pullLogInterval {
			logged = time.Now()
			p.log.Info("Pulling", "layer", m.ID, "phase", m.Status, "current", m.Progress.Current, "total", m.Progress.Total, "since", time.Since(start).Round(time.Second))
		}
	}
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
	p = &pulling{done: make(chan struct{}), users: 1, cancel: cancel}
	g.pulls[key] = p
	return p, pullCtx, true
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
