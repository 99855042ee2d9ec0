package shim

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/internal/cgroup"
	"github.com/cridock/cridock/network"
	"github.com/cridock/cridock/shim/engine"
	"github.com/cridock/cridock/shim/index"
	"github.com/cridock/cridock/shim/mounts"
	"github.com/cridock/cridock/shim/oom"
	"github.com/cridock/cridock/shim/podlogs"
	"github.com/cridock/cridock/shim/podnet"
	"github.com/cridock/cridock/shim/process"
	"github.com/cridock/cridock/shim/state"
	"github.com/cridock/cridock/shim/stats"
	"github.com/cridock/cridock/shim/userns"
	"github.com/cridock/cridock/streaming"
	"github.com/cridock/cridock/translate"
)

// New returns a service. cni must be nil if cfg.DockerNetwork is set, and not nil
// otherwise. New starts nothing: see Run and Serve.
func New(cfg Config, e Engine, cni *network.CNI, m *Metrics) (*Service, error) {
	if (cni == nil) == (cfg.DockerNetwork == "") {
		return nil, fmt.Errorf("pod network: %w: want either CNI or a Docker network", errdefs.ErrInvalidArgument)
	}
	if cfg.Seal == nil {
		return nil, fmt.Errorf("seal: %w: missing", errdefs.ErrInvalidArgument)
	}
	cfg.PodLogsDir = cmp.Or(cfg.PodLogsDir, podlogs.DefaultDir)
	s := &Service{cfg: cfg, engine: e, metrics: m, created: time.Now(), processID: rand.Text(), ready: make(chan struct{}), ending: make(chan struct{})}
	s.host.Store(&translate.Host{MinOOMScoreAdj: cfg.MinOOMScoreAdj, PodLogsDir: cfg.PodLogsDir, Seal: cfg.Seal})
	s.addParts(cni)
	var err error
	cfg.Streaming.Opened = func(kind string) func() {
		uncount, end := m.session(kind), s.sessions.open(kind)
		return func() { uncount(); end() }
	}
	if s.streams, err = streaming.New(cfg.Streaming, streamRuntime{s}); err != nil {
		return nil, err
	}
	if s.oom, err = oom.New(); err != nil {
		return nil, err
	}
	m.registry.MustRegister(s.gauges()...)
	return s, nil
}

// addParts creates the parts and connects them. Several refer to others that are
// created after them, through functions that are not called before Run.
func (s *Service) addParts(cni *network.CNI) {
	s.state = state.New(s.cfg.RootDir)
	s.userns = &userNamespaces{records: userns.New(s.cfg.SeamDir), engine: s.engine, host: s.Host}
	s.logs = podlogs.New(podlogs.Options{
		Dir: s.cfg.PodLogsDir, Symlinks: s.cfg.SymlinkLogs, MaxSize: s.cfg.LogMaxSize, DrainTimeout: s.cfg.DrainTimeout, Engine: s.engine,
		Containers: func(ctx context.Context) ([]*translate.Container, error) { return s.index.Containers(ctx) },
		Position:   func(id string) string { return s.state.Container(id).Path(state.LogPosition) },
	})
	s.disk = stats.NewDisk(stats.DiskOptions{})
	s.usage = &usage{engine: s.engine, layers: func() stats.Layers { return s.images.usage.WhereLayers() }, pauseImage: func() string { return s.images.pause.Name() }}
	s.stats = stats.New(stats.Options{Disk: s.disk, Fallback: s.usage.ask, Layers: s.usage.layers})
	s.process = process.New(s.engine)
	s.plugins = newPluginHost(s)
	s.index = index.New(s.engine, index.Options{
		Host: s.Host, Connected: s.connected, Exited: s.plugins.drained, DrainTimeout: s.cfg.DrainTimeout, OOMKilled: s.oomKilled,
		Complete: func(sb *translate.Sandbox) bool { return s.networks.Complete(sb) }, SandboxGone: s.sandboxGone, ContainerGone: s.containerGone, Observer: s.metrics.indexObserver(),
	})
	s.images = newImageParts(s)
	s.networks = podnet.New(podnet.Options{CNI: cni, PinDir: s.cfg.NetNSDir, Engine: s.engine, Index: s.index, Bounded: withinDeadline,
		Sysctls: func(cfg *runtimeapi.PodSandboxConfig) map[string]string { return s.Host().SandboxSysctls(cfg) }})
	s.mounts = mounts.New(mounts.Options{
		ImageVolumeDir: s.cfg.ImageVolumeDir, CDISpecDirs: s.cfg.CDISpecDirs,
		AbsentSourcesToReject: s.cfg.AbsentMountSourcesToReject, Instance: s.cfg.RootDir,
		Engine: s.engine, Unstarted: s.images.unstarted, Index: s.index, Host: s.Host,
		Image: s.images.volume, Artifact: s.images.artifacts.Files, LookInto: s.images.probes.Look,
	})
	s.usage.index, s.usage.networks, s.usage.collector = s.index, s.networks, s.stats
	s.limits, s.podLimits = newLimits(s)
	s.names = &names{engine: s.engine, index: s.index, networks: s.networks, host: s.Host, removed: func(ctx context.Context, id string) {
		s.stats.Forget(id)
		s.userns.forget(ctx, id)
	}}
	s.stops = &stopper{engine: s.engine, index: s.index, work: &s.work, waiting: func() func() { return s.metrics.waiting("stop") }, ending: s.ending}
	s.userns.index, s.userns.stops = s.index, s.stops
	s.checkpoints = &checkpointer{
		engine: s.engine, state: s.state, container: s.index.Container, effective: s.limits.Effective, openLog: s.logs.Open,
		layers: s.images.usage.WhereLayers, host: s.Host,
	}
	s.restores = &restorer{
		engine: s.engine, patterns: s.cfg.CheckpointImages, image: s.image, logs: s.logs, state: s.state, container: s.index.Container, scratch: s.cfg.RootDir,
	}
}

// Run does the service's background work until ctx ends, and then until the
// operations in progress have finished; it does not wait for grace periods of
// stops. Call it once.
func (s *Service) Run(ctx context.Context) error {
	// Operations in progress at shutdown need the background work, so it ends after
	// them.
	background, end := context.WithCancel(index.All(context.WithoutCancel(ctx)))
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
	g.Go(func() error { return s.images.mirrors.Run(gctx) })
	g.Go(func() error { return s.logs.Run(gctx) })
	g.Go(func() error { return s.stats.Run(gctx) })
	g.Go(func() error { return s.process.Run(gctx) })
	g.Go(func() error { return s.oom.Run(gctx) })
	g.Go(func() error { return s.streams.Run(gctx) })
	g.Go(func() error { return s.networks.Run(gctx) })
	g.Go(func() error { return s.limits.Run(gctx) })
	g.Go(func() error { return s.start(gctx) })
	g.Go(func() error { return s.plugins.run(gctx) })
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
		{s.logs.Resume, "Failed to follow some container logs"},
		{s.watchRunning, "Cannot watch running containers for OOM kills; relying on Docker's report alone"},
		{s.checkpoints.resume, "Failed to resume containers that were being checkpointed, which may be paused; will retry at the next start"},
		{s.adoptNetworks, "Failed to pin some network namespaces; will retry before their release"},
		{s.plugins.start, "Failed to start NRI plugins"},
		{s.networks.Sweep, "Failed to release some networks of removed pods; will retry at the next start"},
		{s.sweepState, "Failed to remove files of removed pods; will retry at the next start"},
		{s.userns.sweep, "Failed to remove records for cridock-runtime of removed containers; will retry at the next start"},
		{s.mounts.Sweep, "Failed to release some mounts of removed containers; will retry at the next start"},
		{s.images.probes.Collect, "Failed to remove containers for the inspection of images; will retry at the next start"},
		{func(ctx context.Context) error { _, err := s.images.pause.Ensure(ctx); return err }, "No sandbox image yet; will retry with the first pod"},
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
	s.host.Store(s.describeHost(ctx, caps))
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

func (s *Service) describeHost(ctx context.Context, c *engine.Capabilities) *translate.Host {
	h := &translate.Host{
		EngineVersion: c.EngineVersion, APIVersion: c.APIVersion,
		CgroupDriver: c.CgroupDriver, CgroupV2: c.CgroupV2,
		Seccomp: c.Seccomp, AppArmor: c.AppArmor, SELinux: c.SELinux, UsernsRemap: c.UsernsRemap,
		SeccompBuiltin:       c.AtLeast("1.42"),
		SeccompCustom:        c.SeccompCustom,
		Annotations:          c.AtLeast("1.43"),
		ReadOnlyNonRecursive: c.AtLeast("1.44"),
		ImageMounts:          c.AtLeast("1.48"),
		RepeatedImageMounts:  c.AtLeast("1.52"),
		CDI:                  len(c.CDISpecDirs) > 0,
		MountOptions:         mounts.SpecDir(c) != "",
		DefaultRuntime:       c.DefaultRuntime,
		PauseRuntime:         s.cfg.PauseRuntime,
		DockerRootDir:        c.RootDir,
		Runtimes:             map[string]translate.RuntimeFeatures{},
		MinOOMScoreAdj:       s.cfg.MinOOMScoreAdj,
		Ulimits:              s.cfg.Ulimits,
		LogMaxSize:           s.cfg.LogMaxSize,
		LogMaxFile:           s.cfg.LogMaxFile,
		PodAnnotations:       s.cfg.PodAnnotations,
		ContainerAnnotations: s.cfg.ContainerAnnotations,
		CRIAnnotations:       s.cfg.CRIAnnotations,
		Base:                 s.cfg.Base,
		BlockIOClasses:       s.cfg.BlockIOClasses,
		DeclaredVolumes:      s.cfg.DeclaredVolumes,
		Settings:             s.cfg.Settings,
		PodLogsDir:           s.cfg.PodLogsDir,
		Seal:                 s.cfg.Seal,
	}
	for name, r := range c.Runtimes {
		h.Runtimes[name] = translate.RuntimeFeatures{
			RecursiveReadOnly: h.ReadOnlyNonRecursive && r.RecursiveReadOnly(),
			ShimGrouping:      h.Annotations && s.cfg.ShimGrouping && r.RuncShim(),
		}
	}
	hugetlb, err := cgroup.Node{Root: s.cfg.CgroupRoot, V2: c.CgroupV2}.HasController("hugetlb")
	if err != nil {
		klog.FromContext(ctx).Error(err, "Failed to read the node's cgroup controllers; it is taken to have hugetlb")
	} else if !hugetlb {
		klog.FromContext(ctx).Info("This node's cgroups have no hugetlb controller: containers with huge pages have no limits of them")
	}
	h.NoHugetlb = !hugetlb && err == nil
	s.userns.describe(ctx, h, c)
	return h
}

// adoptNetworks pins the network namespaces of running sandboxes that have no
// pin: dockershim and cri-dockerd make none, and a runtime directory can be lost.
func (s *Service) adoptNetworks(ctx context.Context) error {
	sandboxes, err := s.index.Sandboxes(ctx)
	for _, sb := range sandboxes {
		err = errors.Join(err, s.withSandbox(ctx, sb.ID, withLock, s.networks.Pin))
	}
	return err
}
