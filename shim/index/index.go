package index

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"

	"github.com/cridock/cridock/translate"
)

const (
	// workers bounds the inspects that are under way: Docker answers twelve at a
	// time three times as fast as one by one, and not much faster with more.
	workers = 12
	// drainTimeout bounds what Options.Exited may delay an exit.
	drainTimeout = 10 * time.Second
	// tombstoneAge is how long a removed container's ID is remembered.
	tombstoneAge = time.Minute
	// staleAfter is how long reads are answered without Docker.
	staleAfter = 5 * time.Minute
	// connectTimeout bounds opening the stream of events.
	connectTimeout = 10 * time.Second

	relistInterval    = time.Minute
	heartbeatInterval = 10 * time.Second
)

// Engine is what the index needs of Docker. Calls but Events have deadlines of
// their own.
type Engine interface {
	Ping(ctx context.Context) error
	ContainerList(ctx context.Context, f filters.Args) ([]container.Summary, error)
	ContainerInspect(ctx context.Context, id string) (container.InspectResponse, error)
	ImageList(ctx context.Context) ([]image.Summary, error)
	ImageInspect(ctx context.Context, ref string) (image.InspectResponse, error)
	Events(ctx context.Context, f filters.Args) (<-chan events.Message, <-chan error)
}

// Options of an index. All but Host may be left out.
type Options struct {
	// Host is what reading Docker's answers depends on. It is called after
	// Connected, whenever a container is looked at.
	Host func() translate.Host
	// Connected is called before each sync, the first and those after a lost
	// connection: the daemon may be another one. An error ends the attempt.
	Connected func(ctx context.Context) error
	// Exited is called before an exit becomes visible, also for a container that
	// is found exited. The exit is published when it returns, or after ten
	// seconds, when ctx ends too. Calls for different containers run at once.
	Exited func(ctx context.Context, c *translate.Container)
	// OOMKilled is asked about containers that were killed, and not by the OOM
	// killer for all that Docker knows: it reads of the killer in a race with the
	// removal of the container's cgroup.
	OOMKilled func(containerID string) bool
	// SandboxGone and ContainerGone are called after something has been removed,
	// by whomever, with what it was last. Calls run at once.
	SandboxGone   func(ctx context.Context, s *translate.Sandbox)
	ContainerGone func(ctx context.Context, c *translate.Container)
	// Complete tells whether a running sandbox has its network; nil if all have.
	// Subscribers hear of a sandbox when it is complete, at the latest when it
	// exits: see [Index.Announce]. It is called often and must not block.
	Complete func(s *translate.Sandbox) bool
	// Observer is told what the metrics count.
	Observer Observer

	// Relist is the time between two comparisons with Docker's list (a minute if
	// zero), Heartbeat that between two proofs that Docker answers (ten seconds).
	Relist, Heartbeat time.Duration
	// DrainTimeout replaces the ten seconds of Exited if it is not zero,
	// StaleAfter the five minutes of reads without Docker.
	DrainTimeout, StaleAfter time.Duration
}

// Difference is a kind of disagreement between the index and Docker's list,
// that no event had announced.
type Difference string

// The kinds of differences.
const (
	DifferenceMissing Difference = "missing" // listed, but not known
	DifferenceState   Difference = "state"   // another state
	DifferenceGone    Difference = "gone"    // known, but not listed
)

// Observer is told of things as they happen, in no particular goroutine. Nil
// functions are not called.
type Observer struct {
	// Difference found by comparing, periodically or after a lost connection.
	Difference func(Difference)
	// Disconnected: the connection to Docker was lost.
	Disconnected func()
	// Undrained: an exit was published before Exited was done.
	Undrained func()
	// CutOff: a subscriber was too slow.
	CutOff func()
}

// Index is the read model. Its methods are safe for concurrent use.
type Index struct {
	engine Engine
	opts   Options

	slots   chan struct{} // one per inspect under way
	suspect chan struct{} // a call was not answered: ask whether Docker is there
	synced  chan struct{} // closed after the first sync
	work    sync.WaitGroup

	mu       sync.Mutex
	life     context.Context // of Run; nil while it does not run
	sequence uint64          // numbers inspects and lists as they are sent
	records  map[string]*record
	watchers map[*Subscription]struct{}
	announce bool // the first sync is over: changes are transitions
	link     link

	view   atomic.Pointer[view] // what readers see; nil after a change
	images imageCache
}

// link is the state of the connection.
type link struct {
	up     bool
	since  time.Time
	reason error // why it is not up
}

// New makes an index. It starts nothing: see [Index.Run].
func New(e Engine, o Options) *Index {
	orDefault(&o.Relist, relistInterval)
	orDefault(&o.Heartbeat, heartbeatInterval)
	orDefault(&o.DrainTimeout, drainTimeout)
	orDefault(&o.StaleAfter, staleAfter)
	ix := &Index{
		engine: e, opts: o,
		slots: make(chan struct{}, workers), suspect: make(chan struct{}, 1), synced: make(chan struct{}),
		records: map[string]*record{}, watchers: map[*Subscription]struct{}{}, link: link{since: time.Now()},
	}
	ix.images.known = map[string]translate.Image{}
	return ix
}

func orDefault(d *time.Duration, value time.Duration) {
	if *d == 0 {
		*d = value
	}
}

// Sizes are the numbers of sandboxes, containers and images known.
func (ix *Index) Sizes() (sandboxes, containers, images int) {
	v := ix.current()
	return len(v.sandboxes), len(v.containers), len(ix.images.load())
}
