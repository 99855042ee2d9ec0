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
	"github.com/cridock/cridock/shim/oom"
	"github.com/cridock/cridock/shim/process"
	"github.com/cridock/cridock/shim/stats"
	"github.com/cridock/cridock/shim/userns"
	"github.com/cridock/cridock/streaming"
	"github.com/cridock/cridock/translate"
)

// Engine is the part of Docker that the service uses.
type Engine interface {
	engine.Containers
	engine.Execs
	engine.Images
	engine.Events
	engine.System
}

// Config holds the service's settings.
type Config struct {
	// Version is cridock's own, for the verbose status.
	Version string
	// RootDir holds what must survive a reboot: resolv.conf files, log positions.
	RootDir string
	// PodLogsDir is the kubelet's directory of all pods' logs; empty for
	// /var/log/pods. No link below it is followed. Another adapter's container gets a
	// log only there. A sandbox created here may have its log_directory elsewhere; no
	// link below that is followed either.
	PodLogsDir string
	// Seal distinguishes the containers that cridock created from all others.
	// Required.
	Seal *translate.Seal
	// NetNSDir holds the pins of the pods' network namespaces.
	NetNSDir string
	// SeamDir is cridock's runtime directory, in which cridock-runtime finds its
	// records; empty for no user namespaces.
	SeamDir string
	// ImageVolumeDir is where images are mounted that containers use as volumes, for
	// engines before Docker 28.0. The engine must see these mounts.
	ImageVolumeDir string
	// CDISpecDirs are searched for CDI devices if Docker does not support CDI; later
	// ones take precedence.
	CDISpecDirs []string
	// SeccompDefaultProfile is a file with the profile for RuntimeDefault; empty for
	// the engine's. It is read for each sandbox and container.
	SeccompDefaultProfile string
	// AbsentMountSourcesToReject are host paths at and below which no directory is
	// created for a mount whose source is missing: such a mount is an error.
	AbsentMountSourcesToReject []string
	// PodAnnotations, ContainerAnnotations and CRIAnnotations are as in
	// [translate.Host].
	PodAnnotations, ContainerAnnotations []translate.AnnotationPattern
	CRIAnnotations                       []string
	// PauseImage is the sandbox image; empty for the one cridock ships.
	PauseImage string
	// DockerConfig is the path of Docker's config.json, with credentials for pull
	// requests without any; empty for none. It need not exist.
	DockerConfig string
	// DockerNetwork is the Docker network to connect pods to instead of using CNI.
	DockerNetwork string
	// MinOOMScoreAdj is the lowest oom_score_adj that the node allows.
	MinOOMScoreAdj int
	// LogMaxSize and LogMaxFile bound Docker's own log of each container, in the
	// format of its json-file driver ("100m", 3).
	LogMaxSize string
	LogMaxFile int
	// SymlinkLogs links the CRI log path to Docker's file instead of writing
	// the CRI format.
	SymlinkLogs bool
	// ShimGrouping runs the containers of a pod in one containerd shim, if engine and
	// runtime support it.
	ShimGrouping bool
	// CgroupRoot is where cgroups are mounted; empty for /sys/fs/cgroup.
	CgroupRoot string
	// LimitsInterval is the time between checks of limits that systemd may have
	// overwritten; zero for ten seconds.
	LimitsInterval time.Duration
	// PullProgressTimeout cancels a pull without progress in any phase for this long;
	// zero for never.
	PullProgressTimeout time.Duration
	// ClaimEngine, if not nil, is called at every connect with the engine's data
	// directory, before anything is read or changed. An error ends the attempt.
	ClaimEngine func(ctx context.Context, dataDir string) error
	// Tracing records spans of CRI calls. Without it calls are a sixth cheaper.
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
	oom     *oom.Watcher
	records *userns.Records
	specs   sync.Map // owners of CDI specifications that this process has written

	host      atomic.Pointer[translate.Host]
	locks     keyLock
	stops     stopper
	pulls     pullGroup
	accounts  accountCache
	updates   updates
	processID string        // random, unique to this process
	ready     chan struct{} // closed after the first sync
	ending    chan struct{} // closed when shutdown begins
	work      operations
	layers    layers
}

// New returns a service. cni must be nil if cfg.DockerNetwork is set, and not nil
// otherwise. New starts nothing: see Run and Serve.
func New(cfg Config, e Engine, cni *network.CNI, m *Metrics) (*Service, error) {
	if (cni == nil) == (cfg.DockerNetwork == "") {
		return nil, fmt.Errorf("pod network: %w: want either CNI or a Docker network", errdefs.ErrInvalidArgument)
	}
	if cfg.Seal == nil {
		return nil, fmt.Errorf("seal: %w: missing", errdefs.ErrInvalidArgument)
	}
	cfg.CgroupRoot = cmp.Or(cfg.CgroupRoot, cgroupRoot)
	cfg.PodLogsDir = cmp.Or(cfg.PodLogsDir, podLogsDir)
	s := &Service{cfg: cfg, engine: e, cni: cni, metrics: m, processID: rand.Text(), ready: make(chan struct{}), ending: make(chan struct{})}
	s.host.Store(&translate.Host{MinOOMScoreAdj: cfg.MinOOMScoreAdj, PodLogsDir: cfg.PodLogsDir, Seal: cfg.Seal})
	s.volumes = imagevolume.New(cfg.ImageVolumeDir)
	s.records = userns.New(cfg.SeamDir)
	s.updates.state = s.state()
	s.logs = logs.New(logs.Options{})
	s.disk = stats.NewDisk(stats.DiskOptions{})
	s.stats = stats.New(stats.Options{Disk: s.disk, Fallback: s.dockerStats})
	s.process = process.New(e)
	s.index = index.New(e, index.Options{
		Host: s.Host, Connected: s.connected, Exited: s.exited, OOMKilled: s.oomKilled,
		Complete: s.networkComplete, SandboxGone: s.sandboxGone, ContainerGone: s.containerGone, Observer: m.indexObserver(),
	})
	var err error
	cfg.Streaming.Opened = m.session
	if s.streams, err = streaming.New(cfg.Streaming, streamRuntime{s}); err != nil {
		return nil, err
	}
	if s.oom, err = oom.New(); err != nil {
		return nil, err
	}
	m.registry.MustRegister(s.gauges()...)
	return s, nil
}

// Health returns nil while cridock is connected to Docker and in sync with it,
// otherwise an error that says why not.
func (s *Service) Health() error { return s.index.Health() }

// Host returns what translations depend on, as of the last connect to Docker.
func (s *Service) Host() translate.Host { return *s.host.Load() }

// Ready returns a channel that is closed after the first sync with Docker and the
// cleanup that follows it.
func (s *Service) Ready() <-chan struct{} { return s.ready }

// Run does the service's background work until ctx ends, and then until the
// operations in progress have finished; it does not wait for grace periods of
// stops. Call it once.
func (s *Service) Run(ctx context.Context) error {
	// Operations in progress at shutdown need the background work, so it ends after
	// them.
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
	g.Go(func() error { return s.oom.Run(gctx) })
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

// start waits for the first sync, then resumes or cleans up what an earlier process
// left unfinished.
func (s *Service) start(ctx context.Context) error {
	if err := s.index.Ready(ctx); err != nil {
		return ignoreEnded(ctx, err)
	}
	log := klog.FromContext(ctx)
	for _, step := range []struct {
		do     func(context.Context) error
		failed string
	}{
		{s.resumeLogs, "Failed to follow some container logs"},
		{s.watchRunning, "Cannot watch running containers for OOM kills; relying on Docker's report alone"},
		{s.resumeCheckpointed, "Failed to resume containers that were being checkpointed, which may be paused; will retry at the next start"},
		{s.adoptNetworks, "Failed to pin some network namespaces; will retry before their release"},
		{s.collectRemains, "Incomplete cleanup of removed pods; will retry at the next start"},
		{s.collectImageVolumes, "Failed to release some image volumes of removed containers; will retry at the next start"},
		{s.collectUpdates, "Failed to remove updated resources of removed containers; will retry at the next start"},
		{s.collectPositions, "Failed to remove log positions of removed containers; will retry at the next start"},
		{s.collectRecords, "Failed to remove records for cridock-runtime of removed containers; will retry at the next start"},
		{s.collectMountSpecs, "Failed to remove CDI specifications of removed containers; will retry at the next start"},
		{s.removeProbes, "Failed to remove containers for the inspection of images; will retry at the next start"},
		{func(ctx context.Context) error { _, err := s.pauseImage(ctx); return err }, "No sandbox image yet; will retry with the first pod"},
	} {
		if err := step.do(ctx); err != nil {
			log.Error(err, step.failed)
		}
	}
	close(s.ready)
	log.Info("Ready", "engine", s.Host().EngineVersion, "api", s.Host().APIVersion)
	return nil
}

// ignoreEnded returns nil if ctx has ended, else err.
func ignoreEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// connected runs at every (re)connect, before the index reads anything from Docker.
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
		klog.FromContext(ctx).Info("Warning from Docker", "warning", w)
	}
	for _, name := range s.cfg.CRIAnnotations {
		if caps.Runtimes[name].RuncShim() {
			klog.FromContext(ctx).Info("A runtime in cri-annotations uses runc's shim, which misses the exit of a container that shares its pod's process; set a shim of its own (runtimeType in daemon.json)", "runtime", name)
		}
	}
	return nil
}

func (s *Service) describeHost(c *engine.Capabilities) *translate.Host {
	h := &translate.Host{
		EngineVersion: c.EngineVersion, APIVersion: c.APIVersion,
		CgroupDriver: c.CgroupDriver, CgroupV2: c.CgroupV2,
		Seccomp: c.Seccomp, AppArmor: c.AppArmor, SELinux: c.SELinux, UsernsRemap: c.UsernsRemap,
		SeccompBuiltin:       c.AtLeast("1.42"),
		SeccompCustom:        c.SeccompCustom,
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
		PodAnnotations:       s.cfg.PodAnnotations,
		ContainerAnnotations: s.cfg.ContainerAnnotations,
		CRIAnnotations:       s.cfg.CRIAnnotations,
		PodLogsDir:           s.cfg.PodLogsDir,
		Seal:                 s.cfg.Seal,
	}
	for name, r := range c.Runtimes {
		h.Runtimes[name] = translate.RuntimeFeatures{
			RecursiveReadOnly: h.ReadOnlyNonRecursive && r.RecursiveReadOnly(),
			ShimGrouping:      h.Annotations && s.cfg.ShimGrouping && r.RuncShim(),
		}
	}
	s.describeUserns(h, c)
	return h
}

// podKey returns the key of a pod's lock.
func podKey(m *runtimeapi.PodSandboxMetadata) string {
	return m.GetNamespace() + "/" + m.GetName() + "/" + m.GetUid()
}

// containerKey returns the key of the lock of a container's pod. For a container
// that has outlived its sandbox it derives from the sandbox's ID.
func (s *Service) containerKey(ctx context.Context, c *translate.Container) string {
	if sb, err := s.index.Sandbox(ctx, c.SandboxID); err == nil {
		return podKey(sb.Metadata)
	}
	return "sandbox/" + c.SandboxID
}

// sandboxDir returns the directory of a sandbox's files, relative to the root
// directory. Its name derives from the sandbox's metadata, as it must exist before
// Docker has assigned an ID.
func (s *Service) sandboxDir(m *runtimeapi.PodSandboxMetadata) string {
	return filepath.Join(sandboxesDir, shortHash(translate.SandboxName(m)))
}

const sandboxesDir = "sandboxes"
