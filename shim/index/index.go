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
	// workers limits concurrent inspects: Docker answers twelve at a time three
	// times as fast as one by one, and not much faster with more.
	workers = 12
	// drainTimeout limits how long Options.Exited may delay an exit.
	drainTimeout = 10 * time.Second
	// tombstoneAge is how long a removed container's ID is remembered.
	tombstoneAge = time.Minute
	// staleAfter is how long reads are answered without Docker.
	staleAfter = 5 * time.Minute
	// connectTimeout limits the time to open the event stream.
	connectTimeout = 10 * time.Second

	relistInterval    = time.Minute
	heartbeatInterval = 10 * time.Second
)

// Engine is what the index needs from Docker. All calls except Events set their
// own deadlines.
type Engine interface {
	Ping(ctx context.Context) error
	ContainerList(ctx context.Context, f filters.Args) ([]container.Summary, error)
	ContainerInspect(ctx context.Context, id string) (container.InspectResponse, error)
	ImageList(ctx context.Context) ([]image.Summary, error)
	ImageInspect(ctx context.Context, ref string) (image.InspectResponse, error)
	Events(ctx context.Context, f filters.Args) (<-chan events.Message, <-chan error)
}

// Options configure an index. All except Host are optional.
type Options struct {
	// Host returns the host settings needed to read Docker's responses. It is
	// called after Connected, for every inspect.
	Host func() translate.Host
	// Connected is called before each sync, the first and those after a lost
	// connection: the daemon may have been replaced. An error ends the attempt.
	Connected func(ctx context.Context) error
	// Exited is called before an exit becomes visible, including for a container
	// that is first seen exited. The exit is published when Exited returns, or
	// after ten seconds, when ctx ends too. Calls for different containers run
	// concurrently.
	Exited func(ctx context.Context, c *translate.Container)
	// OOMKilled is called for killed containers. Docker's own report can lack an OOM
	// kill: its check races with the removal of the container's cgroup.
	OOMKilled func(c container.InspectResponse) bool
	// SandboxGone and ContainerGone are called with the last known state after
	// anyone has removed a sandbox or container. Calls run concurrently.
	SandboxGone   func(ctx context.Context, s *translate.Sandbox)
	ContainerGone func(ctx context.Context, c *translate.Container)
	// Complete reports whether a running sandbox has its network; nil means all
	// have. Subscribers are told of a sandbox when it is complete, at the latest
	// when it exits: see [Index.Announce]. It is called often and must not block.
	Complete func(s *translate.Sandbox) bool
	// Observer receives what the metrics count.
	Observer Observer

	// Relist is the interval between comparisons with Docker's list (zero: one
	// minute), Heartbeat the interval between pings (zero: ten seconds).
	Relist, Heartbeat time.Duration
	// DrainTimeout, if not zero, replaces the ten seconds of Exited, and
	// StaleAfter the five minutes of reads without Docker. EventDelay replaces the
	// second that an event may take to arrive: a difference that it resolves does not
	// count.
	DrainTimeout, StaleAfter, EventDelay time.Duration
}

// Difference is a kind of difference between the index and Docker's list that no
// event announced.
type Difference string

// The kinds of differences.
const (
	DifferenceMissing Difference = "missing" // listed, but not in the index
	DifferenceState   Difference = "state"   // different states
	DifferenceGone    Difference = "gone"    // in the index, but not listed
)

// Observer is notified of events as they happen, in any goroutine. Nil functions
// are not called.
type Observer struct {
	// Difference: a periodic comparison, or one after a lost connection, found it.
	Difference func(Difference)
	// Disconnected: the connection to Docker was lost.
	Disconnected func()
	// Undrained: an exit was published before Exited returned.
	Undrained func()
	// CutOff: a slow subscriber was cut off.
	CutOff func()
}

// Index is the read model. Its methods are safe for concurrent use.
type Index struct {
	engine Engine
	opts   Options

	slots   chan struct{} // one per running inspect
	suspect chan struct{} // a call was not answered: ping Docker
	synced  chan struct{} // closed after the first sync
	work    sync.WaitGroup

	mu       sync.Mutex
	life     context.Context // of Run; nil while it does not run
	sequence uint64          // numbers inspects and lists as they are sent
	records  map[string]*record
	watchers map[*Subscription]struct{}
	announce bool // the first sync is done: changes are transitions
	// concealed counts calls of Conceal by name.
	concealed map[string]int
	link      link
	failure   failure // the last one; kept when the connection is back

	view   atomic.Pointer[view] // what readers see; nil after a change
	images imageCache
}

// link is the state of the connection.
type link struct {
	up     bool
	since  time.Time
	reason error // why it is not up
}

// failure is a failed attempt to connect, or the loss of a connection.
type failure struct {
	err error // nil: none yet
	at  time.Time
}

// New returns an index. It starts nothing: see [Index.Run].
func New(e Engine, o Options) *Index {
	orDefault(&o.Relist, relistInterval)
	orDefault(&o.Heartbeat, heartbeatInterval)
	orDefault(&o.DrainTimeout, drainTimeout)
	orDefault(&o.StaleAfter, staleAfter)
	orDefault(&o.EventDelay, eventDelay)
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

// Sizes returns the numbers of known sandboxes, containers and images.
func (ix *Index) Sizes() (sandboxes, containers, images int) {
	v := ix.current()
	return len(v.sandboxes), len(v.containers), len(ix.images.load())
}
