package logs

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/internal/backoff"
	"github.com/cridock/cridock/internal/beneath"
)

// Options tune a Tailer. The zero value is right for production.
type Options struct {
	// Settle is the pause after a log has been read to its end, so that a container
	// that writes constantly is read in large pieces. It is also the longest delay
	// before a line is in the CRI log. 0 means 20 ms.
	Settle time.Duration
	// RetryMin and RetryMax limit the pause between attempts while a log cannot be
	// read or written; it doubles each time. 0 means 100 ms and 5 s.
	RetryMin, RetryMax time.Duration
}

// Tailer copies the logs of many containers. Its methods are safe for concurrent
// use.
type Tailer struct {
	opts  Options
	count counters

	mu        sync.Mutex
	followers map[string]*follower
	ctx       context.Context // of Run; nil before it
	watch     *watcher
	wg        sync.WaitGroup
}

// New returns a Tailer without containers. It starts nothing.
func New(opts Options) *Tailer {
	setDefault(&opts.Settle, 20*time.Millisecond)
	setDefault(&opts.RetryMin, 100*time.Millisecond)
	setDefault(&opts.RetryMax, 5*time.Second)
	return &Tailer{opts: opts, followers: make(map[string]*follower)}
}

func setDefault(d *time.Duration, v time.Duration) {
	if *d <= 0 {
		*d = v
	}
}

// Run follows all containers, those started before and after, until ctx ends,
// and returns when all its goroutines have finished. Call it once.
func (t *Tailer) Run(ctx context.Context) error {
	w, err := newWatcher()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	t.mu.Lock()
	t.ctx, t.watch = ctx, w
	for _, f := range t.followers {
		t.wake(f)
	}
	t.mu.Unlock()

	stop := context.AfterFunc(ctx, w.close)
	defer stop()
	err = w.run(t.wakeLocked)
	cancel()
	t.shutDown()
	return err
}

// shutDown waits for all goroutines and closes all files.
func (t *Tailer) shutDown() {
	for _, f := range t.all() {
		f.run.stop()
	}
	t.wg.Wait()
	for _, f := range t.all() {
		if f.lock(context.Background()) == nil {
			f.release()
			f.unlock()
		}
	}
}

func (t *Tailer) all() []*follower {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := make([]*follower, 0, len(t.followers))
	for _, f := range t.followers {
		list = append(list, f)
	}
	return list
}

func (t *Tailer) find(id string) (*follower, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f, ok := t.followers[id]; ok {
		return f, nil
	}
	return nil, fmt.Errorf("log of container %s: %w: not followed", id, errdefs.ErrNotFound)
}

// openTimeout limits calls without a context, which only wait if a file system
// hangs.
const openTimeout = 10 * time.Second

// Start starts to follow a container, or continues where an earlier Tailer stopped,
// even if that one was killed. On success the CRI log file exists. A symbolic link
// there, as created by other adapters, is replaced by a file that begins with what
// Docker has kept, see Source.Backlog. Starting a followed container changes
// nothing; a drained one is followed again. Errors: errdefs.ErrInvalidArgument for
// an invalid source; after other errors the container is followed nevertheless, and
// the file is created as soon as possible.
func (t *Tailer) Start(src Source) error {
	if err := src.validate(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
	defer cancel()
	f, err := t.claim(ctx, src)
	if err != nil {
		return fmt.Errorf("log of container %s: %w: timed out opening %s", src.ID, errdefs.ErrUnavailable, src.CRIRoot.Path(src.CRILog))
	}
	f.restart()
	err = f.openOutput()
	f.unlock()
	t.wakeLocked(f)
	if err != nil {
		return fmt.Errorf("log of container %s: %w", src.ID, err)
	}
	return nil
}

// claim returns the locked follower for src, a new one if there is none.
func (t *Tailer) claim(ctx context.Context, src Source) (*follower, error) {
	for {
		t.mu.Lock()
		f, ok := t.followers[src.ID]
		if !ok {
			f = newFollower(src, &t.count)
			t.followers[src.ID] = f
		}
		t.mu.Unlock()
		if err := f.lock(ctx); err != nil {
			return nil, err
		}
		if f.state != removed {
			return f, nil
		}
		f.unlock()
	}
}

func (s *Source) validate() error {
	switch {
	case s.ID == "":
		return fmt.Errorf("log source: %w: no container ID", errdefs.ErrInvalidArgument)
	case !filepath.IsAbs(string(s.CRIRoot)):
		return fmt.Errorf("log of container %s: %w: CRI log directory %q is not absolute", s.ID, errdefs.ErrInvalidArgument, s.CRIRoot)
	case !filepath.IsLocal(s.CRILog):
		return fmt.Errorf("log of container %s: %w: CRI log %q is not a relative path below its directory", s.ID, errdefs.ErrInvalidArgument, s.CRILog)
	case !filepath.IsAbs(s.Position):
		return fmt.Errorf("log of container %s: %w: position path %q is not absolute", s.ID, errdefs.ErrInvalidArgument, s.Position)
	case s.DockerLog == "" && s.Follow == nil, s.DockerLog != "" && !filepath.IsAbs(s.DockerLog):
		return fmt.Errorf("log of container %s: %w: Docker's log path %q is not absolute", s.ID, errdefs.ErrInvalidArgument, s.DockerLog)
	}
	return nil
}

// Reopen switches to a new file at CRILog after the kubelet has renamed the old one;
// nothing is lost or repeated, and each line is whole in one of the two. If nothing
// was renamed, it changes nothing. After an error the old file stays in use,
// wherever it is now. Errors: errdefs.ErrNotFound for a container that is not
// followed, errdefs.ErrFailedPrecondition for a drained one.
func (t *Tailer) Reopen(ctx context.Context, id string) error {
	f, err := t.find(id)
	if err != nil {
		return err
	}
	if err := f.lock(ctx); err != nil {
		return fmt.Errorf("reopen log of container %s: %w", id, err)
	}
	defer t.wakeLocked(f)
	defer f.unlock()
	if f.state.finished() {
		return fmt.Errorf("reopen log of container %s: %w: the container has exited", id, errdefs.ErrFailedPrecondition)
	}
	if err := f.openOutput(); err != nil {
		return fmt.Errorf("reopen log of container %s: %w", id, err)
	}
	b := getBuffers()
	defer putBuffers(b)
	if err := f.moveAside(b); err != nil {
		return fmt.Errorf("reopen log of container %s: %w", id, err)
	}
	t.count.reopens.Add(1)
	return nil
}

// Drain copies an exited container's log to its end: Docker closes the log before
// it reports the exit. When Drain returns nil, every line is in the CRI log and the
// files are closed. It retries until ctx ends, but not if the log's path is refused,
// which time does not change; after an error the container is still followed.
// Drain is idempotent. Errors: errdefs.ErrNotFound for a container that is not
// followed, the context's error, *beneath.RefusedError.
func (t *Tailer) Drain(ctx context.Context, id string) error {
	f, err := t.find(id)
	if err != nil {
		return err
	}
	pause := backoff.Backoff{Min: t.opts.RetryMin / 10, Max: t.opts.RetryMax / 10}
	var reason error
	for ctx.Err() == nil {
		err := f.drain(ctx)
		if errors.Is(err, errUseAPI) {
			f.api.used.Store(true)
			err = t.drainAPI(ctx, f)
		}
		if err == nil {
			f.trouble.end()
			t.unwatch(f)
			return nil
		}
		if ctx.Err() == nil {
			reason = err
			if beneath.IsRefused(err) {
				break
			}
			_ = pause.Wait(ctx, nil)
		}
	}
	t.count.drainFailures.Add(1)
	t.wakeLocked(f)
	return fmt.Errorf("drain log of container %s: %w", id, errors.Join(context.Cause(ctx), reason))
}

func (t *Tailer) unwatch(f *follower) {
	t.mu.Lock()
	w := t.watch
	t.mu.Unlock()
	if w != nil {
		w.disarm(f)
	}
}

// Remove forgets a container and deletes its position, even one left by an earlier
// process; the CRI log file stays, as it is the kubelet's. Lines not copied yet are
// not copied any more: call Drain first. Removing a container that is not followed,
// or has no position, is not an error.
func (t *Tailer) Remove(id, position string) error {
	if f, err := t.find(id); err == nil {
		if err := t.forget(f); err != nil {
			return err
		}
	}
	if err := removePosition(position); err != nil {
		return fmt.Errorf("container %s: %w", id, err)
	}
	return nil
}

func (t *Tailer) forget(f *follower) error {
	f.run.stop()
	ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
	defer cancel()
	if err := f.lock(ctx); err != nil {
		return fmt.Errorf("remove log of container %s: %w: a write to it hangs", f.src.ID, errdefs.ErrUnavailable)
	}
	defer f.unlock()
	f.enter(removed)
	t.unwatch(f)
	t.mu.Lock()
	delete(t.followers, f.src.ID)
	t.mu.Unlock()
	return nil
}

// wakeLocked wakes f; see wake.
func (t *Tailer) wakeLocked(f *follower) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.wake(f)
}

// wake starts a goroutine for f, or makes the running one check once more. Before
// Run it does nothing. The caller holds t.mu.
func (t *Tailer) wake(f *follower) {
	if t.ctx == nil || t.ctx.Err() != nil {
		return
	}
	if ctx, ok := f.run.begin(t.ctx); ok {
		t.wg.Add(1)
		go t.serve(ctx, f)
	}
}

// runState records whether a follower has a goroutine.
type runState struct {
	mu      sync.Mutex
	again   bool // something happened since the goroutine last checked
	stopped bool // no new goroutine may start
	cancel  context.CancelFunc
	ended   chan struct{} // closed when the goroutine ends; nil if there is none
}

// begin reports whether the caller must start a goroutine, and returns its context.
func (r *runState) begin(parent context.Context) (context.Context, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		return nil, false
	}
	if r.ended != nil {
		r.again = true
		return nil, false
	}
	ctx, cancel := context.WithCancel(parent)
	r.cancel, r.ended, r.again = cancel, make(chan struct{}), false
	return ctx, true
}

// end reports whether the goroutine may end; if not, it must check once more.
func (r *runState) end(ctx context.Context) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.again && ctx.Err() == nil {
		r.again = false
		return false
	}
	r.cancel()
	close(r.ended)
	r.cancel, r.ended = nil, nil
	return true
}

// stop tells the goroutine to end and prevents another from starting.
func (r *runState) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
	if r.cancel != nil {
		r.cancel()
	}
}

// wait returns a channel that is closed when there is no goroutine.
func (r *runState) wait() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended != nil {
		return r.ended
	}
	closed := make(chan struct{})
	close(closed)
	return closed
}

// serve follows one container until there is nothing to do.
func (t *Tailer) serve(ctx context.Context, f *follower) {
	defer t.wg.Done()
	for {
		if !f.api.used.Load() {
			t.serveFiles(ctx, f)
		}
		if f.api.used.Load() { // serveFiles may have set it
			t.serveAPI(ctx, f)
		}
		if f.run.end(ctx) {
			return
		}
	}
}

// serveFiles reads Docker's files to their end, and returns once a watch is set
// that will report more.
func (t *Tailer) serveFiles(ctx context.Context, f *follower) {
	pause := backoff.Backoff{Min: t.opts.RetryMin, Max: t.opts.RetryMax}
	armed := false
	for ctx.Err() == nil {
		progressed, done, err := f.pump(ctx)
		switch {
		case done:
			f.trouble.end() // whatever error this goroutine had last
			return
		case errors.Is(err, errUseAPI):
			f.api.used.Store(true)
			return
		case errors.Is(err, errUnsettled):
			f.sleep(ctx, t.opts.Settle)
		case err != nil:
			t.count.errors.Add(1)
			f.trouble.report(klog.FromContext(ctx), f.src.ID, err)
			armed = false
			_ = pause.Wait(ctx, f.api.kick)
		case progressed:
			f.trouble.end()
			pause.Reset()
			armed = false
			f.sleep(ctx, t.opts.Settle)
		case armed:
			return
		default:
			// Armed before a last read, so that no write is missed in between.
			f.trouble.end()
			if armed = t.arm(ctx, f); !armed {
				_ = pause.Wait(ctx, f.api.kick)
			}
		}
	}
}

func (t *Tailer) arm(ctx context.Context, f *follower) bool {
	err := t.watch.arm(filepath.Dir(f.src.DockerLog), f)
	if err != nil {
		f.trouble.report(klog.FromContext(ctx), f.src.ID, err)
	}
	return err == nil
}

// pump copies everything there is now. It releases the turn after each piece, for
// Reopen.
func (f *follower) pump(ctx context.Context) (progressed, done bool, err error) {
	b := getBuffers()
	defer putBuffers(b)
	for {
		if err := f.lock(ctx); err != nil {
			return progressed, false, nil
		}
		more, err := f.step(b)
		done := f.state.finished()
		f.unlock()
		if !more || err != nil || ctx.Err() != nil {
			return progressed, done, err
		}
		progressed = true
	}
}

// drain copies everything and closes all files.
func (f *follower) drain(ctx context.Context) error {
	b := getBuffers()
	defer putBuffers(b)
	for {
		if err := f.lock(ctx); err != nil {
			return err
		}
		more, err := false, error(nil)
		if f.api.used.Load() && !f.state.finished() {
			err = errUseAPI
		} else if more, err = f.step(b); !more && err == nil {
			f.enter(drained)
		}
		f.unlock()
		if !more || err != nil {
			return err
		}
	}
}

func (f *follower) sleep(ctx context.Context, d time.Duration) {
	b := backoff.Backoff{Min: d, Max: d}
	_ = b.Wait(ctx, nil)
}

// trouble limits a follower's log messages to one a minute.
type trouble struct {
	now atomic.Bool

	mu   sync.Mutex
	said time.Time
}

func (tr *trouble) report(logger klog.Logger, id string, err error) {
	tr.now.Store(true)
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if time.Since(tr.said) < time.Minute {
		return
	}
	tr.said = time.Now()
	logger.Error(err, "Cannot copy container log, retrying", "containerID", id)
}

func (tr *trouble) end() { tr.now.Store(false) }
