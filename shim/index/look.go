package index

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/translate"
)

const (
	firstLookRetry = time.Second
	lastLookRetry  = 30 * time.Second
	// slotTime is how long an inspect occupies a slot. A longer one is waiting in
	// dockerd for the container's lock, which a start holds.
	slotTime = time.Second
)

// record is what the index knows about one Docker container. Index.mu guards it.
type record struct {
	id string
	// object is what readers see; nil before the first inspect, for containers that
	// are not pod members, and after removal. last is its value before removal.
	object, last object
	// concealed: only [All] reads object.
	concealed bool
	// told is what subscribers know; nil if they have not been told of it.
	told object
	// status is Docker's status in the last applied inspect; "" before the first.
	status string
	// applied is the number of that inspect.
	applied uint64
	// exit is an exit that is not visible yet.
	exit *exit
	// gone is when the container was removed, else zero.
	gone time.Time
	// changed is closed at the next visible change; nil if nobody waits.
	changed chan struct{}

	busy     bool  // an inspect is running
	next     *turn // the inspect after it
	failures int
}

// turn is one inspect, shared by all callers that asked before it was sent.
type turn struct {
	done chan struct{}
	// err is set before done is closed: errdefs.ErrNotFound if the container is
	// gone, another error if the inspect failed.
	err error
}

func (t *turn) wait(ctx context.Context) error {
	select {
	case <-t.done:
		return t.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func finished(err error) *turn {
	t := &turn{done: make(chan struct{}), err: err}
	close(t.done)
	return t
}

// isID reports whether a string is a full container ID. Docker takes anything else
// for a name or a prefix, which may match somebody else's container.
func isID(s string) bool {
	if len(s) != 64 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func notFound(id string) error {
	return fmt.Errorf("container %q: %w", id, errdefs.ErrNotFound)
}

// look schedules an inspect of a container: at once, or after the running one.
func (ix *Index) look(id string) *turn {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	return ix.lookLocked(id)
}

func (ix *Index) lookLocked(id string) *turn {
	if ix.life == nil || ix.life.Err() != nil {
		return finished(fmt.Errorf("index: %w: not running", errdefs.ErrUnavailable))
	}
	r := ix.records[id]
	if r == nil {
		r = &record{id: id}
		ix.records[id] = r
	}
	if !r.gone.IsZero() {
		return finished(notFound(id))
	}
	if r.next == nil {
		r.next = &turn{done: make(chan struct{})}
		if !r.busy {
			r.busy = true
			life := ix.life
			ix.work.Go(func() { ix.inspect(life, r) })
		}
	}
	return r.next
}

// inspect serves a record's turns one by one until there are none.
func (ix *Index) inspect(ctx context.Context, r *record) {
	for {
		select {
		case ix.slots <- struct{}{}:
		case <-ctx.Done():
		}
		t, number := ix.take(r)
		if t == nil {
			ix.release(ctx)
			return
		}
		if t.err = ctx.Err(); t.err != nil {
			close(t.done)
			continue // another turn may be waiting
		}
		release := sync.OnceFunc(func() { ix.release(ctx) })
		late := time.AfterFunc(slotTime, release)
		a, err := ix.ask(ctx, r.id)
		late.Stop()
		release()
		t.err = ix.apply(ctx, r, number, a, err)
		close(t.done)
	}
}

// answer is what Docker reports about a container, and about the image it was
// created from where that matters (see [Index.CreatedFrom]).
type answer struct {
	container.InspectResponse
	image *translate.Image
}

func (ix *Index) ask(ctx context.Context, id string) (a answer, err error) {
	if a.InspectResponse, err = ix.engine.ContainerInspect(ctx, id); err != nil {
		return a, err
	}
	a.image, err = ix.CreatedFrom(ctx, a.InspectResponse)
	return a, err
}

// release frees a slot. After ctx has ended, slots are not counted.
func (ix *Index) release(ctx context.Context) {
	select {
	case <-ix.slots:
	case <-ctx.Done():
	}
}

// take starts a record's next turn and numbers it; nil if there is none.
func (ix *Index) take(r *record) (*turn, uint64) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	t := r.next
	r.next, r.busy = nil, t != nil
	ix.sequence++
	return t, ix.sequence
}

// apply stores the result of an inspect.
func (ix *Index) apply(ctx context.Context, r *record, number uint64, a answer, err error) error {
	switch {
	case errdefs.IsNotFound(err):
		ix.absent(r)
		return notFound(r.id)
	case err != nil:
		ix.failed(ctx, r, err)
		return err
	}
	host := ix.opts.Host()
	ix.completeOOM(a.InspectResponse)
	now, err := read(a, host)
	if err != nil {
		// A retry would fail the same way until the container changes.
		klog.FromContext(ctx).Error(err, "Cannot read container, skipping it", "containerID", r.id)
	}
	ix.mu.Lock()
	defer ix.mu.Unlock()
	if !r.gone.IsZero() {
		return notFound(r.id)
	}
	r.applied, r.failures = number, 0
	if a.ContainerJSONBase != nil && a.State != nil {
		r.status = a.State.Status
	}
	if now != nil {
		ix.advanceLocked(r, now)
	}
	return nil
}

// completeOOM sets the OOM flag where Docker missed it.
func (ix *Index) completeOOM(answer container.InspectResponse) {
	if ix.opts.OOMKilled == nil || answer.ContainerJSONBase == nil || answer.State == nil {
		return
	}
	state := answer.State
	if !state.Running && state.ExitCode == exitKilled {
		state.OOMKilled = ix.opts.OOMKilled(answer)
	}
}

// absent removes a container that Docker does not know. One that was never seen
// may still appear: Docker lists a container while creating it, but an inspect
// finds it only afterwards.
func (ix *Index) absent(r *record) {
	ix.mu.Lock()
	seen := r.applied > 0
	if !seen && r.next == nil && r.gone.IsZero() {
		delete(ix.records, r.id)
	}
	ix.mu.Unlock()
	if seen {
		ix.Removed(r.id)
	}
}

// failed retries the inspect later and keeps the last state. A timeout is not an
// error of the container: a slow start or exit holds its lock, or Docker is away,
// which the ping detects.
func (ix *Index) failed(ctx context.Context, r *record, err error) {
	if ctx.Err() != nil {
		return
	}
	ix.mu.Lock()
	first := r.failures == 0
	pause := min(firstLookRetry<<min(r.failures, 8), lastLookRetry)
	r.failures++
	ix.mu.Unlock()
	if !errors.Is(err, context.DeadlineExceeded) {
		klog.FromContext(ctx).Error(err, "Cannot inspect container, keeping its last state", "containerID", r.id)
	} else if first {
		klog.FromContext(ctx).V(2).Info("Docker is slow to inspect a container, keeping its last state", "containerID", r.id)
	}
	time.AfterFunc(pause, func() { ix.look(r.id) })
	if errdefs.IsUnavailable(err) {
		select {
		case ix.suspect <- struct{}{}:
		default:
		}
	}
}

// CreatedFrom returns the image that a container was created from if reading the
// container depends on it (see [translate.NeedsImage]), and nil if it does not or
// the image is gone. It asks Docker only about unknown images.
func (ix *Index) CreatedFrom(ctx context.Context, in container.InspectResponse) (*translate.Image, error) {
	if !translate.NeedsImage(in, ix.opts.Host()) {
		return nil, nil
	}
	for _, known := range ix.images.load() {
		if known.ID == in.Image {
			return &known, nil
		}
	}
	answer, err := ix.engine.ImageInspect(ctx, in.Image)
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("image %s of container %s: %w", in.Image, in.ID, err)
	}
	image := translate.ReadImage(answer)
	return &image, nil
}

// read returns the object that an answer describes; nil if it is not a pod member.
func read(a answer, host translate.Host) (object, error) {
	if a.ContainerJSONBase == nil || a.Config == nil {
		return nil, fmt.Errorf("docker's answer: %w: no configuration", errdefs.ErrDataLoss)
	}
	kind, ok := translate.IsKubernetes(a.Config.Labels, a.Name)
	if !ok {
		return nil, nil
	}
	o, err := readKind(kind, a, host)
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	return o, err
}

func readKind(kind translate.Kind, a answer, host translate.Host) (object, error) {
	if kind == translate.KindSandbox {
		s, err := translate.ReadSandbox(a.InspectResponse, a.image, host)
		if err != nil {
			return nil, err
		}
		return sandbox{s}, nil
	}
	c, err := translate.ReadContainer(a.InspectResponse, a.image, host)
	if err != nil {
		return nil, err
	}
	return member{c}, nil
}

// Sync inspects a container and returns when the result, or something newer, is
// visible: cridock's own operations thus read what they wrote. An exit becomes
// visible when its log is drained. A missing container is removed from the index
// and is not an error. Sync returns errdefs.ErrUnavailable if Docker does not
// answer.
func (ix *Index) Sync(ctx context.Context, id string) error {
	if !isID(id) {
		return notFound(id)
	}
	if err := ix.look(id).wait(ctx); err != nil {
		if errdefs.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("container %s: %w", id, err)
	}
	ix.mu.Lock()
	var visible chan struct{}
	if r := ix.records[id]; r != nil && r.exit != nil {
		visible = r.exit.done
	}
	ix.mu.Unlock()
	if visible == nil {
		return nil
	}
	select {
	case <-visible:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sweep forgets containers that were removed long ago.
func (ix *Index) sweep() {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	for id, r := range ix.records {
		if !r.gone.IsZero() && time.Since(r.gone) > tombstoneAge && !r.busy {
			delete(ix.records, id)
		}
	}
}
