package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/network"
	"github.com/cridock/cridock/shim"
	"github.com/cridock/cridock/shim/engine"
	"github.com/cridock/cridock/streaming"
)

// serve connects the parts and runs them until the context ends.
func serve(cmd *cobra.Command, o *options) error {
	if err := o.complete(cmd.Flags()); err != nil {
		return err
	}
	// Containers of any user must be able to read the files made for them.
	unix.Umask(0o022)
	ctx, refuse := context.WithCancelCause(cmd.Context())
	defer refuse(nil)
	if err := o.prepareDirs(); err != nil {
		return err
	}
	unlock, err := lockRoot(ctx, o.rootDir)
	if err != nil {
		return err
	}
	defer unlock()
	seal, err := loadSeal(o.rootDir)
	if err != nil {
		return err
	}
	data := &engineData{refuse: refuse}
	defer data.release()
	flush, err := o.startTracing(ctx)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), observeShutdown)
		defer cancel()
		if err := flush(ctx); err != nil {
			klog.FromContext(ctx).Error(err, "Some traces were lost")
		}
	}()
	metrics := shim.NewMetrics()
	docker, err := engine.New(o.dockerEndpoint, metrics.ObserveDocker)
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
	service, err := shim.New(cfg, docker, cni, metrics)
	if err != nil {
		return err
	}
	listener, err := listen(ctx, o.endpoint)
	if err != nil {
		return err
	}
	klog.FromContext(ctx).Info("Serving the CRI", "version", version, "endpoint", o.endpoint, "docker", o.dockerEndpoint, "networkPlugin", o.networkPlugin)

	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return service.Run(gctx) })
	g.Go(func() error { return service.Serve(gctx, listener) })
	g.Go(func() error { return notifyReady(gctx, service.Ready()) })
	g.Go(func() error { return o.serveMetrics(gctx, metrics.Handler(), service.Health) })
	return errors.Join(g.Wait(), data.refused())
}

// systemdEndpoint means that systemd passes the socket, as in cri-dockerd's unit
// files.
const systemdEndpoint = "fd://"

// listen returns the socket that systemd passed, or makes one.
func listen(ctx context.Context, endpoint string) (net.Listener, error) {
	passed, err := activation.Listeners()
	if err != nil {
		return nil, fmt.Errorf("sockets passed by systemd: %w", err)
	}
	switch {
	case len(passed) == 1:
		return passed[0], nil
	case len(passed) > 1:
		return nil, fmt.Errorf("systemd passed %d sockets; want one", len(passed))
	case endpoint == systemdEndpoint:
		return nil, fmt.Errorf("container-runtime-endpoint %s: systemd passed no socket; enable cridock.socket", endpoint)
	default:
		return shim.Listen(ctx, endpoint)
	}
}

// notifyReady tells systemd, if it runs cridock, that the first sync is done.
func notifyReady(ctx context.Context, ready <-chan struct{}) error {
	select {
	case <-ready:
	case <-ctx.Done():
		return nil
	}
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	return nil
}

func (o *options) cni() (*network.CNI, error) {
	if o.networkPlugin != "cni" {
		return nil, nil
	}
	cni, err := network.New(network.Config{
		ConfDir: o.cniConfDir, BinDirs: o.cniBinDirs, CacheDir: o.cniCacheDir, NetNSDir: o.netnsDir(), ConfTemplate: o.cniTemplate,
	})
	if err != nil || o.podCIDR == "" {
		return cni, err
	}
	return cni, cni.SetPodCIDRs(o.podCIDR)
}

func (o *options) netnsDir() string { return filepath.Join(o.runtimeDir, "netns") }

func (o *options) serviceConfig() shim.Config {
	c := shim.Config{
		Version: version, RootDir: o.rootDir, NetNSDir: o.netnsDir(), SeamDir: o.runtimeDir, ImageVolumeDir: filepath.Join(o.runtimeDir, "image-volumes"), PauseImage: o.pauseImage,
		DockerConfig: o.dockerConfig,
		CDISpecDirs:  o.cdiSpecDirs, AbsentMountSourcesToReject: o.absentMountSources, SeccompDefaultProfile: o.seccompDefault,
		PodAnnotations: o.podAnnotations, ContainerAnnotations: o.containerAnnotations, CRIAnnotations: o.criAnnotations,
		PodLogsDir:     o.podLogsDir,
		MinOOMScoreAdj: o.minOOMScoreAdj(), ShimGrouping: o.groupsShims(),
		LogMaxSize: o.logMaxSize, LogMaxFile: o.logMaxFile, SymlinkLogs: o.logMode == "symlink",
		PullProgressTimeout: o.pullDeadline, Tracing: o.tracingEndpoint != "",
		Streaming: streaming.Config{
			Addr: o.streamingAddr, CertFile: o.streamingCert, KeyFile: o.streamingKey, ClientCAFile: o.streamingClientCA, IdleTimeout: o.streamingIdle,
		},
	}
	if o.networkPlugin == "docker" {
		c.DockerNetwork = o.dockerNetwork
	}
	return c
}

// groupsShims returns the setting; auto means on where engine and runtime support
// it.
func (o *options) groupsShims() bool {
	on, err := strconv.ParseBool(o.shimGrouping)
	return on || err != nil
}

// unrestrictedOOMScoreAdj is the kernel's minimum.
const unrestrictedOOMScoreAdj = -1000

// minOOMScoreAdj returns the lowest value that containers can have. Without
// CAP_SYS_RESOURCE, as in nested engines, a process cannot go below the value it
// started with, and runc fails.
func (o *options) minOOMScoreAdj() int {
	restrict, err := strconv.ParseBool(o.restrictOOM)
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
