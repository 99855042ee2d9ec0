package app

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strconv"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/network"
	"github.com/cridock/cridock/shim"
	"github.com/cridock/cridock/shim/engine"
	"github.com/cridock/cridock/streaming"
	"github.com/cridock/cridock/translate"
)

// Run validates the settings and serves the CRI until ctx ends; then it waits for
// running calls and returns nil. Pods keep running. It fails at once if a setting is
// invalid, if another cridock uses the root directory, or if other users can change a
// directory or connect to the socket that systemd passed, and later if another cridock
// serves the engine.
//
// Run changes what belongs to the whole process: the umask and, with TracingEndpoint
// or OTEL_* variables, OpenTelemetry's global provider. It logs with klog, by the
// logger in ctx. It never ends the process, and may be called again after it has
// returned.
func Run(ctx context.Context, o *Options) error {
	if err := o.Validate(); err != nil {
		return err
	}
	// First, so that a process that cannot serve makes nothing.
	passed, err := o.passedSocket()
	if err != nil {
		return err
	}
	if passed != nil {
		defer func() { _ = passed.Close() }() // serve closes it too, if it comes that far
	}
	// Containers of any user must be able to read the files made for them.
	unix.Umask(0o022)
	ctx, refuse := context.WithCancelCause(ctx)
	defer refuse(nil)
	if err := o.prepareDirs(); err != nil {
		return err
	}
	unlock, err := lockRoot(ctx, o.RootDir)
	if err != nil {
		return err
	}
	defer unlock()
	seal, err := loadSeal(o.RootDir)
	if err != nil {
		return err
	}
	data := &engineData{refuse: refuse}
	defer data.release()
	flush, err := o.startTracing(ctx)
	if err != nil {
		return err
	}
	defer flush()
	metrics := shim.NewMetrics()
	docker, err := engine.New(o.DockerEndpoint, metrics.ObserveDocker)
	if err != nil {
		return err
	}
	defer func() { _ = docker.Close() }()
	cni, err := o.cni()
	if err != nil {
		return err
	}
	cfg := o.serviceConfig()
	cfg.ClaimEngine = data.claim
	cfg.Seal = seal
	if cfg.BlockIOClasses, err = o.blockIOClasses(); err != nil {
		return err
	}
	if cfg.Base, err = o.baseSpec(); err != nil {
		return err
	}
	service, err := shim.New(cfg, docker, cni, metrics)
	if err != nil {
		return err
	}
	listener, unlink, err := o.listen(ctx, passed)
	if err != nil {
		return err
	}
	defer unlink()
	klog.FromContext(ctx).Info("Serving the CRI", "version", o.Version, "endpoint", o.Endpoint, "docker", o.DockerEndpoint, "networkPlugin", o.networkPlugin())
	return errors.Join(o.serve(ctx, service, listener, metrics), data.refused())
}

// serve runs all parts of the process until ctx ends, or one of them fails.
func (o *Options) serve(ctx context.Context, service *shim.Service, l net.Listener, metrics *shim.Metrics) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return service.Run(ctx) })
	g.Go(func() error { return service.Serve(ctx, l) })
	g.Go(func() error {
		return o.observe(ctx, newMetricsServer(metrics.Handler(), service.Health), service.Ready())
	})
	if o.OwnProcess {
		g.Go(func() error { return notifySystemd(ctx, service.Ready()) })
		g.Go(func() error { return watchdog(ctx, l.Addr().String(), service.Health) })
	}
	return g.Wait()
}

func (o *Options) cni() (*network.CNI, error) {
	if o.networkPlugin() != pluginCNI {
		return nil, nil
	}
	cni, err := network.New(network.Config{
		ConfDir: o.CNIConfDir, BinDirs: o.CNIBinDirs, CacheDir: o.CNICacheDir, NetNSDir: o.netnsDir(), ConfTemplate: o.CNIConfTemplate,
	})
	if err != nil || o.PodCIDR == "" {
		return cni, err
	}
	return cni, cni.SetPodCIDRs(o.PodCIDR)
}

func (o *Options) netnsDir() string { return filepath.Join(o.RuntimeDir, "netns") }

func (o *Options) serviceConfig() shim.Config {
	addr, _ := o.streamingAddr() // Validate has checked it
	c := shim.Config{
		Version: o.Version, RootDir: o.RootDir, NetNSDir: o.netnsDir(), SeamDir: o.RuntimeDir, ImageVolumeDir: filepath.Join(o.RuntimeDir, "image-volumes"), PauseImage: o.PauseImage,
		DockerConfig: o.DockerConfig, RegistryConfigDir: o.RegistryConfigDir, NamespacedAuthDir: o.NamespacedAuthDir,
		ImageVerifierDir: o.ImageVerifierDir, PinnedImages: o.PinnedImages, CheckpointImages: o.CheckpointImages, MaxArtifacts: o.maxArtifacts(),
		CDISpecDirs: o.CDISpecDirs, AbsentMountSourcesToReject: o.AbsentMountSourcesToReject, SeccompDefaultProfile: o.SeccompDefaultProfile,
		PodAnnotations: o.PodAnnotations, ContainerAnnotations: o.ContainerAnnotations, CRIAnnotations: o.CRIAnnotations,
		DeclaredVolumes: translate.DeclaredVolumes(o.ImageVolumes),
		Settings: translate.SeamSettings{
			SharedUTS: o.SharedUTS, DeviceOwnership: o.DeviceOwnership,
			PrivilegedWithoutHostDevices: o.PrivilegedWithoutHostDevices, WritableCgroups: o.WritableCgroups, RDTClasses: o.RDTClasses,
			ExecOnFirstCPU: o.ExecCPUAffinity == execFirst,
		},
		PodLogsDir:     o.PodLogsDir,
		MinOOMScoreAdj: o.minOOMScoreAdj(), ShimGrouping: o.groupsShims(), EarlyNetwork: o.EarlyNetwork, PauseRuntime: o.PauseRuntime,
		Ulimits:    o.ulimits(),
		LogMaxSize: o.LogMaxSize, LogMaxFile: o.LogMaxFile, SymlinkLogs: o.LogMode == "symlink",
		NRI:                 o.nriConfig(),
		PullProgressTimeout: o.PullProgressDeadline, Tracing: o.traces(),
		Streaming: streaming.Config{
			Addr: addr, CertFile: o.StreamingTLSCert, KeyFile: o.StreamingTLSKey, ClientCAFile: o.StreamingTLSClientCA, IdleTimeout: o.StreamingIdleTimeout,
		},
	}
	if o.networkPlugin() == pluginDocker {
		c.DockerNetwork = o.DockerNetwork
	}
	return c
}

// groupsShims returns the setting; auto means on where engine and runtime support
// it.
func (o *Options) groupsShims() bool {
	on, err := strconv.ParseBool(o.ShimGrouping)
	return on || err != nil
}

// unrestrictedOOMScoreAdj is the kernel's minimum.
const unrestrictedOOMScoreAdj = -1000

// minOOMScoreAdj returns the lowest value that containers can have. Without
// CAP_SYS_RESOURCE, as in nested engines, a process cannot go below the value it
// started with, and runc fails.
func (o *Options) minOOMScoreAdj() int {
	restrict, err := strconv.ParseBool(o.RestrictOOMScoreAdj)
	if err != nil {
		restrict = !hasSysResource()
	}
	if !restrict {
		return unrestrictedOOMScoreAdj
	}
	lowest := ownOOMScoreAdj()
	klog.InfoS("Raising oom_score_adj of containers to the node's minimum", "limit", lowest, "reason", "no CAP_SYS_RESOURCE, or --restrict-oom-score-adj")
	return lowest
}
