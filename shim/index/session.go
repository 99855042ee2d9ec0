package index

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/internal/backoff"
	"github.com/cridock/cridock/translate"
)

const (
	firstRetry = 100 * time.Millisecond
	// lastRetry limits how long a node stays not ready after Docker is back.
	lastRetry = time.Second
)

// Run connects to Docker and keeps the index up to date until ctx ends. It
// returns ctx's error after all its goroutines have finished. Call it once.
func (ix *Index) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	ix.mu.Lock()
	ix.life = ctx
	ix.mu.Unlock()
	defer func() {
		cancel()
		ix.mu.Lock()
		ix.life = nil
		ix.mu.Unlock()
		ix.work.Wait()
		ix.endSubscriptions(fmt.Errorf("index: %w: stopped", errdefs.ErrUnavailable))
	}()
	retry := backoff.Backoff{Min: firstRetry, Max: lastRetry}
	for {
		wasUp, err := ix.session(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		ix.lost(ctx, err)
		if wasUp {
			retry.Reset()
			continue
		}
		if retry.Wait(ctx, nil) != nil {
			return ctx.Err()
		}
	}
}

// session serves one connection until the event stream breaks, Docker stops
// answering or ctx ends. wasUp reports whether the sync succeeded.
func (ix *Index) session(ctx context.Context) (wasUp bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if ix.opts.Connected != nil {
		if err := ix.opts.Connected(ctx); err != nil {
			return false, err
		}
	}
	messages, broken, err := ix.subscribe(ctx, cancel)
	if err != nil {
		return false, err
	}
	checks := checks{index: ix, ctx: ctx, done: make(chan error, 1)}
	checks.start(ix.sync)
	relist, beat := time.NewTicker(ix.opts.Relist), time.NewTicker(ix.opts.Heartbeat)
	defer relist.Stop()
	defer beat.Stop()
	for {
		select {
		case m := <-messages:
			ix.handle(m)
		case err := <-broken:
			if err == nil {
				err = io.EOF
			}
			return wasUp, fmt.Errorf("docker event stream: %w", err)
		case err := <-checks.done:
			if err != nil {
				return wasUp, err
			}
			if !wasUp {
				wasUp = true
				ix.connected(ctx)
			}
			checks.next()
		case <-relist.C:
			checks.ask(ix.relist)
		case <-beat.C:
			ix.sweep()
			checks.ask(ix.engine.Ping)
		case <-ix.suspect:
			checks.ask(ix.engine.Ping)
		case <-ctx.Done():
			return wasUp, ctx.Err()
		}
	}
}

// checks runs one Docker call at a time in the background: the reader of the event
// stream must not wait, as Docker drops events for a slow reader.
type checks struct {
	index   *Index
	ctx     context.Context
	done    chan error
	running bool
	waiting func(context.Context) error
}

func (c *checks) start(check func(context.Context) error) {
	c.running = true
	c.index.work.Go(func() { c.done <- check(c.ctx) })
}

// ask runs a check now or after the running one. Of several waiting checks only
// the last is run: each proves that Docker answers, and a skipped relist comes a
// minute later.
func (c *checks) ask(check func(context.Context) error) {
	if c.running {
		c.waiting = check
		return
	}
	c.start(check)
}

func (c *checks) next() {
	c.running = false
	if check := c.waiting; check != nil {
		c.waiting = nil
		c.start(check)
	}
}

// subscribe opens the event stream: container events that change the result of an
// inspect, and image events. It sets no label filter, which would drop image
// events.
func (ix *Index) subscribe(ctx context.Context, cancel context.CancelFunc) (<-chan events.Message, <-chan error, error) {
	f := filters.NewArgs(filters.Arg("type", string(events.ContainerEventType)), filters.Arg("type", string(events.ImageEventType)))
	for _, action := range []events.Action{
		events.ActionCreate, events.ActionStart, events.ActionDie, events.ActionOOM, events.ActionDestroy,
		events.ActionPause, events.ActionUnPause, events.ActionRename, events.ActionUpdate,
		events.ActionPull, events.ActionTag, events.ActionUnTag, events.ActionDelete, events.ActionLoad, events.ActionImport, events.ActionPrune,
	} {
		f.Add("event", string(action))
	}
	// The client waits for the response header without a timeout.
	late := time.AfterFunc(connectTimeout, cancel)
	messages, broken := ix.engine.Events(ctx, f)
	if !late.Stop() {
		return nil, nil, fmt.Errorf("docker did not open the event stream within %v: %w", connectTimeout, errdefs.ErrUnavailable)
	}
	return messages, broken, nil
}

// handle treats one event as a hint what to inspect. It ignores the event's names
// and exit codes: labels can overwrite them.
func (ix *Index) handle(m events.Message) {
	if m.Type == events.ImageEventType {
		ix.imagesChanged()
		return
	}
	if _, ours := m.Actor.Attributes[translate.LabelType]; !ours || !isID(m.Actor.ID) {
		return
	}
	if m.Action == events.ActionDestroy {
		ix.Removed(m.Actor.ID)
		return
	}
	ix.look(m.Actor.ID)
}

// connected marks the sync as done.
func (ix *Index) connected(ctx context.Context) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	klog.FromContext(ctx).Info("Synced with Docker", "containers", len(ix.records), "after", time.Since(ix.link.since).Round(time.Millisecond))
	ix.link = link{up: true, since: time.Now()}
	if !ix.announce {
		ix.announce = true
		close(ix.synced)
	}
}

// lost marks the connection as lost, or records another failed attempt.
func (ix *Index) lost(ctx context.Context, err error) {
	ix.mu.Lock()
	wasUp, news := ix.link.up, ix.link.up || ix.link.reason == nil
	if wasUp {
		ix.link = link{since: time.Now()}
	}
	// The error of a later failed attempt says more than a broken stream.
	ix.link.reason = err
	ix.failure = failure{err: err, at: time.Now()}
	ix.mu.Unlock()
	if news {
		klog.FromContext(ctx).Error(err, "Not connected to Docker")
	}
	if wasUp && ix.opts.Observer.Disconnected != nil {
		ix.opts.Observer.Disconnected()
	}
}
