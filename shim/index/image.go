package index

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/image"
	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/translate"
)

// imageDelay batches the events of one image operation.
const imageDelay = 100 * time.Millisecond

// imageCache is what the index knows of images.
type imageCache struct {
	list atomic.Pointer[[]translate.Image] // sorted by ID; never changes

	mu    sync.Mutex
	busy  bool
	next  *turn
	timer *time.Timer // a read scheduled by an event; nil if there is none

	// known holds inspect results by ID: only names, and with them the size, can
	// change. Only the running readImages uses it.
	known map[string]translate.Image
}

func (c *imageCache) load() []translate.Image {
	if l := c.list.Load(); l != nil {
		return *l
	}
	return nil
}

// Images returns all images except intermediate layers, sorted by ID. It follows
// the rules of [Index.Sandboxes].
func (ix *Index) Images(ctx context.Context) ([]translate.Image, error) {
	list, err := ix.readableImages(ctx)
	return slices.Clone(list), err
}

// readableImages fails until images have been listed: no images and no answer are
// not the same.
func (ix *Index) readableImages(ctx context.Context) ([]translate.Image, error) {
	if err := ix.readable(ctx); err != nil {
		return nil, err
	}
	if ix.images.list.Load() == nil {
		return nil, fmt.Errorf("images: %w: Docker has not listed them yet; see the log", errdefs.ErrUnavailable)
	}
	return ix.images.load(), nil
}

// Image returns the image that ref refers to: an ID, at least three digits of
// one, a name with tag or digest, or both. It returns the same value for every
// reference to one image, and false without an error if there is none. A
// malformed or ambiguous ref is errdefs.ErrInvalidArgument.
func (ix *Index) Image(ctx context.Context, ref string) (translate.Image, bool, error) {
	list, err := ix.readableImages(ctx)
	if err != nil {
		return translate.Image{}, false, err
	}
	found, err := translate.FindImage(ref, list)
	switch {
	case errdefs.IsNotFound(err):
		return translate.Image{}, false, nil
	case err != nil:
		return translate.Image{}, false, err
	}
	return found, true, nil
}

// SyncImages returns when the images, as of now or later, are visible: for
// cridock's own pulls, loads and removals.
func (ix *Index) SyncImages(ctx context.Context) error {
	return ix.lookAtImages().wait(ctx)
}

// imagesChanged schedules a read of the images.
func (ix *Index) imagesChanged() {
	c := &ix.images
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer == nil {
		c.timer = time.AfterFunc(imageDelay, func() {
			c.mu.Lock()
			c.timer = nil
			c.mu.Unlock()
			ix.lookAtImages()
		})
	}
}

// lookAtImages is look for images: one list covers all of them.
func (ix *Index) lookAtImages() *turn {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	if ix.life == nil || ix.life.Err() != nil {
		return finished(fmt.Errorf("index: %w: not running", errdefs.ErrUnavailable))
	}
	c := &ix.images
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.next == nil {
		c.next = &turn{done: make(chan struct{})}
		if !c.busy {
			c.busy = true
			life := ix.life
			ix.work.Go(func() { ix.readImages(life) })
		}
	}
	return c.next
}

// readImages serves turns one by one until there are none.
func (ix *Index) readImages(ctx context.Context) {
	c := &ix.images
	for {
		c.mu.Lock()
		t := c.next
		c.next, c.busy = nil, t != nil
		c.mu.Unlock()
		if t == nil {
			return
		}
		if t.err = ix.readImageList(ctx); t.err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(t.err, "Cannot list images, keeping the last list")
		}
		close(t.done)
	}
}

func (ix *Index) readImageList(ctx context.Context) error {
	summaries, err := ix.engine.ImageList(ctx)
	if err != nil {
		return err
	}
	known, err := ix.inspectImages(ctx, summaries)
	if err != nil {
		return err
	}
	list := make([]translate.Image, 0, len(summaries))
	for _, s := range summaries {
		i, ok := known[s.ID]
		if !ok {
			continue // removed since
		}
		now := translate.ReadImageSummary(s)
		i.Ref, i.RepoTags, i.RepoDigests, i.Size = now.Ref, now.RepoTags, now.RepoDigests, now.Size
		list = append(list, i)
	}
	slices.SortFunc(list, func(a, b translate.Image) int { return strings.Compare(a.ID, b.ID) })
	ix.images.known = known
	ix.images.list.Store(&list)
	return nil
}

// inspectImages returns what is known of the listed images. It asks Docker only
// about new ones.
func (ix *Index) inspectImages(ctx context.Context, summaries []image.Summary) (map[string]translate.Image, error) {
	known := make(map[string]translate.Image, len(summaries))
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(workers)
	for _, s := range summaries {
		if i, ok := ix.images.known[s.ID]; ok {
			mu.Lock()
			known[s.ID] = i
			mu.Unlock()
			continue
		}
		group.Go(func() error {
			answer, err := ix.engine.ImageInspect(ctx, s.ID)
			switch {
			case errdefs.IsNotFound(err):
				return nil
			case errdefs.IsUnavailable(err) || ctx.Err() != nil:
				return err
			case err != nil:
				// A broken image must not hide the others.
				klog.FromContext(ctx).Error(err, "Cannot inspect image, skipping it", "image", s.ID)
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			known[s.ID] = translate.ReadImage(answer)
			return nil
		})
	}
	return known, group.Wait()
}
