package shim

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/network"
	"github.com/cridock/cridock/shim/engine"
	"github.com/cridock/cridock/shim/imagevolume"
	"github.com/cridock/cridock/shim/index"
	"github.com/cridock/cridock/shim/logs"
	"github.com/cridock/cridock/shim/process"
	"github.com/cridock/cridock/shim/stats"
	"github.com/cridock/cridock/streaming"
	"github.com/cridock/cridock/translate"
)

// operationTimeout bounds an operation that has been detached from its caller.
// It is longer than the kubelet's own request timeout (two minutes), so that a
// retry meets a result and not a half-done one.
const operationTimeout = 4 * time.Minute

// Engine is what the service needs of Docker.
type Engine interface {
	engine.Containers
	engine.Execs
	engine.Images
	engine.Events
	engine.System
}

// Config is the service's part of the settings.
type Config struct {
	// Version of cridock itself, for the verbose status.
	Version string
	// RootDir holds what must survive a reboot: resolv.conf files, log positions.
	RootDir string
	// PodLogsDir is the kubelet's directory of all pods' logs; empty for
	// /var/log/pods. Below it no link is followed. The log of a container that
	// another adapter made is written only there; a sandbox made here may have its
	// log_directory elsewhere, and then no link is followed below that.
	PodLogsDir string
	// Seal tells the containers that cridock made from all others.
	Seal *translate.Seal
	// NetNSDir holds the pins of the pods' network namespaces.
	NetNSDir string
	// ImageVolumeDir is where images are mounted that containers have for
	// volumes, for engines before Docker 28.0. The engine must see these mounts.
	ImageVolumeDir string
	// CDISpecDirs are searched for CDI devices where Docker does not know CDI;
	// a later one goes before an earlier one.
	CDISpecDirs []string
	// PauseImage is the sandbox image; empty for the one cridock ships.
	PauseImage string
	// DockerConfig is Docker's config.json, with credentials for pulls that come
	// without; empty for none. It need not exist.
	DockerConfig string
	// DockerNetwork connects pods to that network of Docker's instead of CNI.
	DockerNetwork string
	// MinOOMScoreAdj is the lowest oom_score_adj that the node allows.
	MinOOMScoreAdj int
	// LogMaxSize and LogMaxFile bound Docker's own log of each container, in
	// the forms of its json-file driver ("100m", 3).
	LogMaxSize string
	LogMaxFile int
	// SymlinkLogs links the CRI log path to Docker's file instead of writing
	// the CRI format.
	SymlinkLogs bool
	// ShimGrouping runs the containers of a pod in one containerd shim, where
	// engine and runtime can.
	ShimGrouping bool
	// CgroupRoot is where control groups are mounted; empty for /sys/fs/cgroup.
	CgroupRoot string
	// LimitsInterval replaces the ten seconds between looks at limits that systemd
	// may have overwritten, if it is not zero.
	LimitsInterval time.Duration
	// PullProgressTimeout ends a pull that makes no progress in any phase.
	PullProgressTimeout time.Duration
	// ClaimEngine, if not nil, is asked at every connect, before anything is read
	// or changed, for the engine whose data is in the given directory. An error
	// ends the attempt.
	ClaimEngine func(ctx context.Context, dataDir string) error
	// Tracing makes spans of CRI calls. Without it they are a sixth cheaper.
	Tracing   bool
	Streaming streaming.Config
}

// Service implements the CRI's RuntimeService and ImageService.
type Service struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	runtimeapi.UnimplementedImageServiceServer

	cfg     Config
	engine  Engine
	cni     *network.CNI // nil with a Docker network
	index   *index.Index
	logs    *logs.Tailer
	stats   *stats.Collector
	disk    *stats.Disk
	metrics *Metrics
	process *process.Runner
	streams *streaming.Server
	volumes *imagevolume.Store
	specs   sync.Map // owners of CDI specifications that this process has written

	host      atomic.Pointer[translate.Host]
	locks     keyLock
	stops     stopper
	pulls     pullGroup
	accounts  accountCache
	updates   updates
	processID string        // a name of this process, unlike those of the ones before
	ready     chan struct{} // closed after the first sync
	ending    chan struct{} // closed when Run is to end
	work      operations
	layers    layers
}

// New makes a service. cni may be nil if cfg.DockerNetwork is set. It starts
// nothing: see Run and Serve.
func New(cfg Config, e Engine, cni *network.CNI, m *Metrics) (*Service, error) {
	if (cni == nil) == (cfg.DockerNetwork == "") {
		return nil, fmt.Errorf("pod network: %w: need either CNI or a Docker network", errdefs.ErrInvalidArgument)
	}
	if cfg.Seal == nil {
		return nil, fmt.Errorf("seal: %w: none given", errdefs.ErrInvalidArgument)
	}
	cfg.CgroupRoot = cmp.Or(cfg.CgroupRoot, cgroupRoot)
	cfg.PodLogsDir = cmp.Or(cfg.PodLogsDir, podLogsDir)
	s := &Service{cfg: cfg, engine: e, cni: cni, metrics: m, processID: rand.Text(), ready: make(chan struct{}), ending: make(chan struct{})}
	s.host.Store(&translate.Host{MinOOMScoreAdj: cfg.MinOOMScoreAdj, PodLogsDir: cfg.PodLogsDir, Seal: cfg.Seal})
	s.volumes = imagevolume.New(cfg.ImageVolumeDir)
	s.updates.state = s.state()
	s.logs = logs.New(logs.Options{})
	s.disk = stats.NewDisk(stats.DiskOptions{})
	s.stats = stats.New(stats.Options{Disk: s.disk, Fallback: s.dockerStats})
	s.process = process.New(e)
	s.index = index.New(e, index.Options{
		Host: s.Host, Connected: s.connected, Exited: s.exited, OOMKilled: oomKilled,
		SandboxGone: s.sandboxGone, ContainerGone: s.containerGone, Observer: m.indexObserver(),
	})
	var err error
	cfg.Streaming.Opened = m.session
	if s.streams, err = streaming.New(cfg.Streaming, streamRuntime{s}); err != nil {
		return nil, err
	}
	m.registry.MustRegister(s.gauges()...)
	return s, nil
}

// Health is nil while cridock is connected to Docker and in sync with it;
// otherwise it says why not.
func (s *Service) Health() error { return s.index.Health() }

// Host is what translations depend on, as of the last connect to Docker.
func (s *Service) Host() translate.Host { return *s.host.Load() }

// Ready is closed after the first sync with Docker.
func (s *Service) Ready() <-chan struct{} { return s.ready }

// Run does the service's background work until ctx ends, and then until the
// operations that are under way have ended; grace periods of stops are not
// waited for. It is called once.
func (s *Service) Run(ctx context.Context) error {
	// Operations that are under way at the end need what runs here, so it ends
	// after them.
	background, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	g, gctx := errgroup.WithContext(background)
	g.Go(func() error {
		select {
		case <-ctx.Done():
		case <-gctx.Done(): // a part has failed
		}
		close(s.ending)
		s.work.wait()
		end()
		return nil
	})
	g.Go(func() error { return s.index.Run(gctx) })
	g.Go(func() error { return s.logs.Run(gctx) })
	g.Go(func() error { return s.stats.Run(gctx) })
	g.Go(func() error { return s.process.Run(gctx) })
	g.Go(func() error { return s.streams.Run(gctx) })
	if s.cni != nil {
		g.Go(func() error { return s.cni.Run(gctx) })
	}
	g.Go(func() error { return s.keepLimits(gctx) })
	g.Go(func() error { return s.start(gctx) })
	err := g.Wait()
	if ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
		return nil
	}
	return err
}

// start is what follows the first sync: what an earlier process left half done
// is picked up.
func (s *Service) start(ctx context.Context) error {
	if err := s.index.Ready(ctx); err != nil {
		return ignoreEnded(ctx, err)
	}
	log := klog.FromContext(ctx)
	for _, step := range []struct {
		do     func(context.Context) error
		failed string
	}{
		{s.resumeLogs, "Some container logs are not followed"},
		{s.resumeCheckpointed, "Containers that were being checkpointed may be paused; it is tried again at the next start"},
		{s.adoptNetworks, "Some network namespaces are not pinned; it is tried again before they are released"},
		{s.collectRemains, "What pods that are gone have left is not all released; it is tried again at the next start"},
		{s.collectImageVolumes, "Image volumes of containers that are gone are not all released; they are tried again at the next start"},
		{s.collectUpdates, "Updated resources of containers that are gone are left behind"},
		{s.collectPositions, "Log positions of containers that are gone are left behind"},
		{s.collectMountSpecs, "CDI specifications of containers that are gone are left behind"},
		{s.removeProbes, "Containers that looked into images are left behind"},
		{func(ctx context.Context) error { _, err := s.pauseImage(ctx); return err }, "No sandbox image yet; it is tried again with the first pod"},
	} {
		if err := step.do(ctx); err != nil {
			log.Error(err, step.failed)
		}
	}
	close(s.ready)
	log.Info("Ready", "engine", s.Host().EngineVersion, "api", s.Host().APIVersion)
	return nil
}

// ignoreEnded makes the end of ctx a success.
func ignoreEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// connected runs at every (re)connect, before anything is read from Docker.
func (s *Service) connected(ctx context.Context) error {
	caps, err := s.engine.Refresh(ctx)
	if err != nil {
		return err
	}
	if s.cfg.ClaimEngine != nil {
		if err := s.cfg.ClaimEngine(ctx, caps.RootDir); err != nil {
			return err
		}
	}
	s.host.Store(s.describeHost(caps))
	klog.FromContext(ctx).Info("Connected to Docker", "engine", caps.EngineVersion, "api", caps.APIVersion,
		"cgroupDriver", caps.CgroupDriver, "cgroupV2", caps.CgroupV2, "storage", caps.StorageDriver, "liveRestore", caps.LiveRestore)
	for _, w := range caps.Warnings {
		klog.FromContext(ctx).Info("Docker warns", "warning", w)
	}
	return nil
}

func (s *Service) describeHost(c *engine.Capabilities) *translate.Host {
	h := &translate.Host{
		EngineVersion: c.EngineVersion, APIVersion: c.APIVersion,
		CgroupDriver: c.CgroupDriver, CgroupV2: c.CgroupV2,
		Seccomp: c.Seccomp, AppArmor: c.AppArmor, SELinux: c.SELinux, UsernsRemap: c.UsernsRemap,
		SeccompBuiltin:       c.AtLeast("1.42"),
		Annotations:          c.AtLeast("1.43"),
		ReadOnlyNonRecursive: c.AtLeast("1.44"),
		ImageMounts:          c.AtLeast("1.48"),
		CDI:                  len(c.CDISpecDirs) > 0,
		MountOptions:         mountSpecDir(c) != "",
		DefaultRuntime:       c.DefaultRuntime,
		DockerRootDir:        c.RootDir,
		Runtimes:             map[string]translate.RuntimeFeatures{},
		MinOOMScoreAdj:       s.cfg.MinOOMScoreAdj,
		LogMaxSize:           s.cfg.LogMaxSize,
		LogMaxFile:           s.cfg.LogMaxFile,
		PodLogsDir:           s.cfg.PodLogsDir,
		Seal:                 s.cfg.Seal,
	}
	for name, r := range c.Runtimes {
		h.Runtimes[name] = translate.RuntimeFeatures{
			RecursiveReadOnly: h.ReadOnlyNonRecursive && r.RecursiveReadOnly(),
			ShimGrouping:      h.Annotations && s.cfg.ShimGrouping && r.RuncShim(),
		}
	}
	return h
}

// detach runs op to its end in the background, whatever happens to the caller:
// Docker does not take back what a client has asked for, so an operation that
// stopped half-way would leave something behind. The caller gets op's result,
// or its own context's end; see withinDeadline for what ends with the caller's
// deadline.
func detach[T any](ctx context.Context, s *Service, op func(context.Context) (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done, caller := make(chan result, 1), ctx
	if err := s.work.start(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), operationTimeout)
		defer cancel()
		if deadline, ok := caller.Deadline(); ok {
			ctx = context.WithValue(ctx, callerDeadline{}, deadline)
		}
		var v T
		err := recovered(ctx, func() (err error) {
			v, err = op(ctx)
			return err
		})
		if err != nil && caller.Err() != nil {
			klog.FromContext(ctx).Error(err, "An operation that went on without its caller has failed")
		}
		done <- result{v, err}
	}); err != nil {
		return *new(T), err
	}
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		return *new(T), fmt.Errorf("the operation goes on without its caller: %w", context.Cause(ctx))
	}
}

// callerDeadline is the key of the deadline that a detached operation's caller
// has.
type callerDeadline struct{}

// maxReport is the most of a caller's time that is kept for telling it what has
// not ended.
const maxReport = 10 * time.Second

// withinDeadline is the context of a step of a detached operation that may hang
// and that can be taken back or repeated, unlike Docker's: it ends shortly
// before its caller's deadline, so that the caller learns what did not end, and
// its retry does not have to wait for that.
func withinDeadline(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Value(callerDeadline{}).(time.Time)
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithDeadline(ctx, deadline.Add(-min(time.Until(deadline)/10, maxReport)))
}

// podKey names a pod's lock.
func podKey(m *runtimeapi.PodSandboxMetadata) string {
	return m.GetNamespace() + "/" + m.GetName() + "/" + m.GetUid()
}

// lockContainer takes the lock of the pod that a container belongs to. A
// container that has outlived its sandbox has that sandbox's ID for a key.
func (s *Service) lockContainer(ctx context.Context, c *translate.Container) (func(), error) {
	key := "sandbox/" + c.SandboxID
	if sb, err := s.index.Sandbox(ctx, c.SandboxID); err == nil {
		key = podKey(sb.Metadata)
	}
	return s.locks.lock(ctx, key)
}

// sandboxDir is the directory below the root directory that holds a sandbox's
// files. Its name comes from the sandbox's
// metadata, as it has to exist before Docker has given out an ID.
func (s *Service) sandboxDir(m *runtimeapi.PodSandboxMetadata) string {
	return filepath.Join(sandboxesDir, shortHash(translate.SandboxName(m)))
}

const sandboxesDir = "sandboxes"
