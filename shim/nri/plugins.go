package nri

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/adaptation/builtin"
	"github.com/containerd/nri/pkg/api"
	nrilog "github.com/containerd/nri/pkg/log"
	validator "github.com/containerd/nri/plugins/default-validator/builtin"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/internal/keylock"
	"github.com/cridock/cridock/internal/trust"
	"github.com/cridock/cridock/internal/unixsocket"
)

// Defaults of [Config], as in other runtimes.
const (
	DefaultSocketPath          = adaptation.DefaultSocketPath
	DefaultPluginPath          = adaptation.DefaultPluginPath
	DefaultPluginConfigPath    = adaptation.DefaultPluginConfigPath
	DefaultRegistrationTimeout = adaptation.DefaultPluginRegistrationTimeout
	DefaultRequestTimeout      = adaptation.DefaultPluginRequestTimeout
)

// Config holds the settings.
type Config struct {
	// SocketPath is where plugins connect; "" for no connections.
	SocketPath string
	// PluginPath has the plugins to start, PluginConfigPath their configurations.
	PluginPath, PluginConfigPath string
	// RegistrationTimeout and RequestTimeout bound the waits for a plugin: until it has
	// registered, and for each answer. They hold for the whole process.
	RegistrationTimeout, RequestTimeout time.Duration
	// Validator refuses adjustments by kind, and containers without required plugins.
	Validator validator.DefaultValidatorConfig
	// Version is cridock's.
	Version string
}

// Runtime is what plugins act on. Its methods may be called concurrently.
type Runtime interface {
	// List returns all pods and all containers that have not exited.
	List(ctx context.Context) ([]*api.PodSandbox, []*api.Container, error)
	// UpdateContainer changes the resources of a container, zero values excepted.
	UpdateContainer(ctx context.Context, id string, r *api.LinuxResources) error
	// EvictContainer kills a container.
	EvictContainer(ctx context.Context, id string) error
}

// Plugins are the connected plugins. Its methods are safe for concurrent use, except
// that calls about one container must not overlap.
type Plugins struct {
	cfg     Config
	runtime Runtime

	// connected counts plugins, without those of this package.
	connected atomic.Int32
	adapter   atomic.Pointer[adaptation.Adaptation]
	life      context.Context // of Run, set before adapter
	started   chan struct{}   // closed when the plugins to start have been started
	begin     sync.Once       // closes it
	order     keylock.Lock    // of the last events of one object

	mu     sync.Mutex
	work   sync.WaitGroup // updates and evictions in progress
	ended  bool           // none begins
	states map[string]state
	owners map[string]*api.FieldOwners // by container, while it is created
	stops  map[string]*sync.WaitGroup  // the updates wanted at its stop, by known container
}

// state is what plugins know of a pod or container; they know nothing of the others.
type state int

const (
	created state = iota + 1 // or running
	stopped
)

// New returns the plugins for a runtime. It starts nothing.
func New(cfg Config, r Runtime) *Plugins {
	libraryLogger.use()
	return &Plugins{
		cfg: cfg, runtime: r, started: make(chan struct{}),
		states: map[string]state{}, owners: map[string]*api.FieldOwners{}, stops: map[string]*sync.WaitGroup{},
	}
}

// Run starts plugins and accepts connections until ctx ends. Call it once, when
// Runtime can list. It fails if other users could put a plugin of theirs in place, or
// if another process serves the socket.
func (p *Plugins) Run(ctx context.Context) error {
	if p == nil {
		return nil
	}
	defer p.Close()
	if err := p.check(ctx); err != nil {
		return err
	}
	log := klog.FromContext(ctx)
	libraryLogger.log.Store(&log)
	adaptation.SetPluginRegistrationTimeout(p.cfg.RegistrationTimeout)
	adaptation.SetPluginRequestTimeout(p.cfg.RequestTimeout)
	p.life = ctx
	a, err := adaptation.New("cridock", p.cfg.Version, p.synchronize, p.updateUnasked, p.options()...)
	if err != nil {
		return fmt.Errorf("NRI: %w", err)
	}
	p.adapter.Store(a)
	if err := a.Start(); err != nil {
		return fmt.Errorf("NRI: %w", err)
	}
	defer p.end(a)
	p.Close()
	if p.cfg.SocketPath == "" {
		<-ctx.Done()
		return nil
	}
	defer func() { _ = os.Remove(p.ownSocket()) }()
	if err := os.Chmod(p.ownSocket(), 0o600); err != nil {
		return fmt.Errorf("NRI: %w", err)
	}
	l, err := listen(p.cfg.SocketPath)
	if err != nil {
		return fmt.Errorf("NRI: %w", err)
	}
	return forward(ctx, l, p.ownSocket())
}

// end stops plugins, and waits for what they have caused.
func (p *Plugins) end(a *adaptation.Adaptation) {
	a.Stop()
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
	p.work.Wait()
}

func (p *Plugins) options() []adaptation.Option {
	own := []*builtin.BuiltinPlugin{{Base: ownPlugin, Index: "99", Handlers: builtin.BuiltinHandlers{ValidateContainerAdjustment: p.noteOwners}}}
	o := []adaptation.Option{
		adaptation.WithPluginPath(p.cfg.PluginPath), adaptation.WithPluginConfigPath(p.cfg.PluginConfigPath),
		adaptation.WithBuiltinPlugins(own...), adaptation.WithDefaultValidator(&p.cfg.Validator),
		adaptation.WithMetrics(counter{p}), adaptation.WithTTRPCOptions(p.interceptors()),
	}
	if p.cfg.SocketPath == "" {
		return append(o, adaptation.WithDisabledExternalConnections())
	}
	return append(o, adaptation.WithSocketPath(p.ownSocket()))
}

// ownPlugin is the name of the built-in plugin that learns which plugin asked for
// what.
const ownPlugin = "cridock"

// check makes sure that only root decides which plugins there are. The library would
// replace another runtime's socket.
func (p *Plugins) check(ctx context.Context) error {
	for _, dir := range []string{p.cfg.PluginPath, p.cfg.PluginConfigPath} {
		if err := trust.Check(dir, os.Geteuid()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("NRI: whoever can change plugins is as good as root: %w", err)
		}
	}
	for _, entry := range files(p.cfg.PluginPath) {
		if err := trust.Check(filepath.Join(p.cfg.PluginPath, entry), os.Geteuid()); err != nil {
			return fmt.Errorf("NRI: whoever can change plugins is as good as root: %w", err)
		}
	}
	if p.cfg.SocketPath == "" {
		return nil
	}
	dir := filepath.Dir(p.cfg.SocketPath)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("NRI: %w", err)
	}
	if err := trust.Check(dir, os.Geteuid()); err != nil {
		return fmt.Errorf("NRI: whoever can replace the plugins' socket is as good as root: %w", err)
	}
	served, err := unixsocket.Served(ctx, p.cfg.SocketPath)
	if err == nil && served {
		err = fmt.Errorf("another process serves %s: turn off NRI there, or set nri-socket-path", p.cfg.SocketPath)
	}
	if err != nil {
		return fmt.Errorf("NRI: %w", err)
	}
	return nil
}

// files returns the names of the files in a directory, none if it cannot be read.
func files(dir string) []string {
	entries, _ := os.ReadDir(dir)
	var names []string
	for _, e := range entries {
		if !e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

// Active reports whether there is any plugin. Within [Plugins.Block] none is added.
func (p *Plugins) Active() bool { return p != nil && p.connected.Load() > 0 }

// Enabled reports whether there can be plugins.
func (p *Plugins) Enabled() bool { return p != nil }

// Close ends the wait of [Plugins.WaitStarted] for Run, if that is not going to be called.
func (p *Plugins) Close() {
	if p != nil {
		p.begin.Do(func() { close(p.started) })
	}
}

// WaitStarted waits until Run has started plugins, and they have got the list of pods.
// The error is errdefs.ErrUnavailable if ctx ends first.
func (p *Plugins) WaitStarted(ctx context.Context) error {
	select {
	case <-p.started:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("NRI plugins are still being started: %w: %w", errdefs.ErrUnavailable, context.Cause(ctx))
	}
}

// Block keeps new plugins waiting until the returned function is called, so that a
// plugin learns of a change either from its event or from the list at its connect. It
// waits like WaitStarted, and for a plugin that is getting that list. Do not nest it.
func (p *Plugins) Block(ctx context.Context) (unblock func(), err error) {
	if err := p.WaitStarted(ctx); err != nil {
		return nil, err
	}
	a := p.adapter.Load()
	if a == nil {
		return func() {}, nil
	}
	return a.BlockPluginSync().Unblock, nil
}

// counter is the library's report of how many plugins there are.
type counter struct{ p *Plugins }

func (c counter) UpdatePluginCount(n int) {
	n-- // ownPlugin
	if c.p.cfg.Validator.Enable {
		// It has to be asked even if there are no others.
		n = max(n, 1)
	}
	c.p.connected.Store(int32(max(n, 0))) //nolint:gosec // small
}
func (counter) RecordPluginInvocation(string, string, error)      {}
func (counter) RecordPluginLatency(string, string, time.Duration) {}
func (counter) RecordPluginAdjustments(string, string, *api.ContainerAdjustment, int, int) {
}

// logger passes the library's messages on to klog. The library has one for the process,
// which must not be replaced while plugins use it: so there is one, with the logger of
// the last Run.
type logger struct {
	set sync.Once
	log atomic.Pointer[klog.Logger]
}

var libraryLogger logger

// use has the library use l.
func (l *logger) use() { l.set.Do(func() { nrilog.Set(l) }) }

func (l *logger) klog() klog.Logger {
	if log := l.log.Load(); log != nil {
		return *log
	}
	return klog.Background()
}

func (l *logger) Debugf(_ context.Context, format string, args ...any) {
	l.klog().V(4).Info(message(format, args))
}
func (l *logger) Infof(_ context.Context, format string, args ...any) {
	l.klog().V(2).Info(message(format, args))
}
func (l *logger) Warnf(_ context.Context, format string, args ...any) {
	l.klog().Info(message(format, args))
}
func (l *logger) Errorf(_ context.Context, format string, args ...any) {
	l.klog().Error(nil, message(format, args))
}

// message bounds a message: plugins write parts of it.
func message(format string, args []any) string {
	return "NRI: " + short(fmt.Sprintf(format, args...))
}

// maxText bounds text of a plugin in messages, in bytes.
const maxText = 1024

func short(text string) string {
	if len(text) > maxText {
		return text[:maxText] + "…"
	}
	return text
}

// noteOwners is called when all plugins have answered.
func (p *Plugins) noteOwners(_ context.Context, r *api.ValidateContainerAdjustmentRequest) error {
	id := r.GetContainer().GetId()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.owners[id] = r.GetOwners().GetOwners()[id]
	return nil
}

func (p *Plugins) takeOwners(id string) *api.FieldOwners {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer delete(p.owners, id)
	return p.owners[id]
}

// background runs f, and reports false if it does not because Run is ending.
func (p *Plugins) background(f func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ended {
		p.work.Go(f)
	}
	return !p.ended
}

// pending is the context key of the updates that a request has caused.
type pending struct{}

// Collect returns a context for the events of one request, and a function that waits
// for the updates of other containers that plugins want because of them. Those need
// the locks of pods: call it after the request's own has been released.
func Collect(ctx context.Context) (_ context.Context, settle func()) {
	group := &sync.WaitGroup{}
	return context.WithValue(ctx, pending{}, group), group.Wait
}
