package shim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/nri/pkg/api"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"golang.org/x/sync/errgroup"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/internal/ocifeatures"
	"github.com/cridock/cridock/internal/undo"
	"github.com/cridock/cridock/shim/index"
	"github.com/cridock/cridock/shim/nri"
	"github.com/cridock/cridock/shim/state"
	"github.com/cridock/cridock/translate"
)

// pluginHost connects NRI plugins to a service. Without NRI its methods cost nothing.
type pluginHost struct {
	s       *Service
	plugins *nri.Plugins  // nil: off
	begin   chan struct{} // closed when plugins may be started
}

func newPluginHost(s *Service) *pluginHost {
	h := &pluginHost{s: s, begin: make(chan struct{})}
	if s.cfg.NRI != nil {
		cfg := *s.cfg.NRI
		cfg.Version = s.cfg.Version
		h.plugins = nri.New(cfg, h)
	}
	return h
}

// start has run start plugins: all pods are known, and their network namespaces pinned.
func (h *pluginHost) start(context.Context) error {
	close(h.begin)
	return nil
}

// run serves plugins once start has been called.
func (h *pluginHost) run(ctx context.Context) error {
	select {
	case <-h.begin:
		return h.plugins.Run(ctx)
	case <-h.s.ending:
	case <-ctx.Done():
	}
	h.plugins.Close()
	return nil
}

// withPlugins is withLock for an operation that plugins learn of. No plugin is added
// meanwhile. It also waits for the updates of other containers that they ask for. The
// service's start takes the locks of pods before it starts plugins: so the wait for them
// comes before the lock.
func withPlugins[T any](ctx context.Context, s *Service, key string, op func(context.Context) (T, error)) (T, error) {
	if !s.plugins.plugins.Enabled() {
		return withLock(ctx, s, key, op)
	}
	if err := s.plugins.waitStarted(ctx); err != nil {
		return *new(T), err
	}
	settled := make(chan struct{})
	value, err := withLock(ctx, s, key, func(ctx context.Context) (value T, err error) {
		unblock, err := s.plugins.plugins.Block(ctx)
		if err != nil {
			return value, err
		}
		ctx, settle := nri.Collect(ctx)
		defer func() {
			unblock()
			// A running operation can always start another.
			_ = s.work.start(func() {
				settle()
				close(settled)
			})
		}()
		return op(ctx)
	})
	if err == nil {
		select {
		case <-settled:
		case <-ctx.Done():
		}
	}
	return value, err
}

// waitStarted waits until plugins have been started. Call it without the lock of a pod.
func (h *pluginHost) waitStarted(ctx context.Context) error {
	if !h.plugins.Enabled() {
		return nil
	}
	defer h.s.metrics.waiting("plugins")()
	return h.plugins.WaitStarted(ctx)
}

// conceal hides what is created under a name until plugins have agreed to it.
func (h *pluginHost) conceal(name string) (reveal func()) {
	if !h.plugins.Active() {
		return func() {}
	}
	return h.s.index.Conceal(name)
}

// pod describes a sandbox.
func (h *pluginHost) pod(ctx context.Context, sb *translate.Sandbox) *api.PodSandbox {
	d := nri.PodDetails{IPs: h.s.networks.IPs(sb), NetNS: h.s.networks.LiveNetNS(sb), SystemdCgroup: h.systemd()}
	if sb.Config != nil {
		cfg, err := h.s.podLimits.Config(sb, sb.Config)
		if err != nil {
			klog.FromContext(ctx).Error(err, "Cannot read the updated resources of a sandbox", "sandboxID", sb.ID)
		}
		d.Config = cfg
	}
	return nri.Pod(sb, d)
}

// podOf describes the sandbox of a container.
func (h *pluginHost) podOf(ctx context.Context, c *translate.Container) (*api.PodSandbox, *translate.Sandbox) {
	sb, err := h.s.index.Sandbox(index.All(ctx), c.SandboxID)
	if err != nil {
		return nri.UnknownPod(c.SandboxID), nil
	}
	return h.pod(ctx, sb), sb
}

func (h *pluginHost) systemd() bool { return h.s.Host().CgroupDriver == "systemd" }

// container describes a container and its pod. What Docker cannot tell is missing.
func (h *pluginHost) container(ctx context.Context, c *translate.Container) (*api.PodSandbox, *api.Container) {
	pod, sb := h.podOf(ctx, c)
	d := nri.ContainerDetails{Adjustment: h.stored(ctx, c.ID), SystemdCgroup: h.systemd(), HostDevices: sb != nil && h.s.Host().PrivilegedDevices(sb.RuntimeHandler)}
	if caps := h.s.engine.Capabilities(); caps != nil {
		d.CDISpecDirs = caps.CDISpecDirs
	}
	inspect, inspectErr := h.s.engine.ContainerInspect(ctx, c.ID)
	if inspectErr == nil {
		d.Docker = &inspect
		for i := range inspect.Mounts {
			inspect.Mounts[i].Source = h.s.state.Linked(inspect.Mounts[i].Source)
		}
	}
	message, err := nri.Container(h.s.limits.Effective(c), sb, d)
	if err = errors.Join(ignoreNotFound(inspectErr), err); err != nil {
		klog.FromContext(ctx).Error(err, "Cannot describe a container to NRI plugins completely", "containerID", c.ID)
	}
	return pod, message
}

// stored returns what plugins wanted at a container's creation; nil for nothing.
func (h *pluginHost) stored(ctx context.Context, id string) *api.ContainerAdjustment {
	document, err := h.s.state.Container(id).Read(state.NRI)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	answer, err2 := nri.Decode(document)
	if err = errors.Join(err, err2); err != nil {
		klog.FromContext(ctx).Error(err, "Cannot read what NRI plugins wanted of a container", "containerID", id)
		return nil
	}
	return answer
}

// List implements [nri.Runtime].
func (h *pluginHost) List(ctx context.Context) ([]*api.PodSandbox, []*api.Container, error) {
	sandboxes, err := h.s.index.Sandboxes(ctx)
	if err != nil {
		return nil, nil, err
	}
	all, err := h.s.index.Containers(ctx)
	if err != nil {
		return nil, nil, err
	}
	pods := make([]*api.PodSandbox, len(sandboxes))
	for i, sb := range sandboxes {
		pods[i] = h.pod(ctx, sb)
	}
	var live []*translate.Container
	for _, c := range all {
		if c.State == runtimeapi.ContainerState_CONTAINER_CREATED || c.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			live = append(live, c)
		}
	}
	containers := make([]*api.Container, len(live))
	var g errgroup.Group
	g.SetLimit(listInspects)
	for i, c := range live {
		g.Go(func() error {
			_, containers[i] = h.container(ctx, c)
			return nil
		})
	}
	return pods, containers, g.Wait()
}

// listInspects limits concurrent inspects for a list.
const listInspects = 12

// UpdateContainer implements [nri.Runtime].
func (h *pluginHost) UpdateContainer(ctx context.Context, id string, r *api.LinuxResources) error {
	want, err := nri.ToCRI(r)
	if err != nil {
		return err
	}
	c, err := h.s.index.Container(ctx, id)
	if err != nil {
		return err
	}
	_, err = withLock(ctx, h.s, h.s.containerKey(ctx, c), func(ctx context.Context) (struct{}, error) {
		return struct{}{}, h.s.limits.Update(ctx, c.ID, want)
	})
	return err
}

// EvictContainer implements [nri.Runtime].
func (h *pluginHost) EvictContainer(ctx context.Context, id string) error {
	c, err := h.s.index.Container(ctx, id)
	if err != nil {
		return err
	}
	return h.s.stops.stop(ctx, c, 0)
}

// adjustAttempts bounds how often a container is created for plugins that want
// something else each time.
const adjustAttempts = 4

// adjust asks plugins how to change a created container that nobody has seen. As Docker
// can't change it, it is then replaced by another one: plugins learn that it is gone, and
// are asked again, since the other one has another ID.
func (h *pluginHost) adjust(ctx context.Context, made *creation, job *containerJob) error {
	if !h.plugins.Active() {
		return nil
	}
	original := made.create
	for range adjustAttempts {
		next, err := h.ask(ctx, made, job, original)
		if err != nil {
			return err
		}
		if sameRequest(made.create, next) {
			made.create = next
			return nil
		}
		if err := h.replace(ctx, made, job, next); err != nil {
			return err
		}
	}
	return fmt.Errorf("NRI %s: another adjustment each time, %d times: %w", made.answer.Plugins(), adjustAttempts, errdefs.ErrAborted)
}

// ask asks plugins about a container, and returns the request for it as they want it.
func (h *pluginHost) ask(ctx context.Context, made *creation, job *containerJob, original *translate.Create) (*translate.Create, error) {
	c, err := h.s.index.Container(ctx, made.id)
	if err != nil {
		return nil, err
	}
	made.seen = c
	pod, message := h.container(ctx, c)
	made.first = nri.Renamed(made.first, message)
	answer, err := h.plugins.Create(ctx, pod, made.first)
	if err != nil {
		return nil, err
	}
	made.answer = answer
	if answer.Empty() {
		return original, nil
	}
	cfg, adjustment, err := answer.Adjust(job.request.GetConfig(), made.first, h.node(ctx, job.sandbox))
	if err != nil {
		return nil, err
	}
	if err := h.link(made, job, adjustment); err != nil {
		return nil, err
	}
	adjustment.Request = original.Config.Labels[translate.LabelRequest]
	next, err := h.s.containerSpec(ctx, job, cfg, adjustment)
	if err != nil {
		return nil, fmt.Errorf("as NRI %s: %w", answer.Plugins(), err)
	}
	return next, nil
}

// link has Docker mount a link in place of each path that contains the container's ID,
// such as a directory that a plugin has made for the container. Docker gets the path of
// the mount before it has chosen the ID; only at the start, it matters where that leads.
func (h *pluginHost) link(made *creation, job *containerJob, adjustment *translate.Adjustment) error {
	dir, name := h.s.state.Sandbox(job.sandbox.Name), state.NRIMounts(made.seen.Name)
	for i := range adjustment.Mounts {
		m := &adjustment.Mounts[i]
		if m.Type != mount.TypeBind || !strings.Contains(m.Source, made.id) {
			continue
		}
		file := translate.ShortHash(m.Target)
		if len(made.links) == 0 {
			job.undo.Push(func(context.Context) error { return dir.Remove(name) })
		}
		if !slices.Contains(made.links, file) {
			made.links = append(made.links, file)
		}
		if err := dir.Link(name, file, m.Source); err != nil {
			return fmt.Errorf("mount %s: %w", m.Target, err)
		}
		m.Source = filepath.Join(dir.Path(name), file)
	}
	return nil
}

// unlink removes the links of a container that is gone. It does nothing while another
// one has its name.
func (h *pluginHost) unlink(ctx context.Context, c *translate.Container) error {
	ctx = index.All(ctx)
	sb, err := h.s.index.Sandbox(ctx, c.SandboxID)
	if err != nil {
		return ignoreNotFound(err) // they have gone with the pod
	}
	all, err := h.s.index.Containers(ctx)
	if err != nil || slices.ContainsFunc(all, func(other *translate.Container) bool { return other.Name == c.Name }) {
		return err
	}
	return h.s.state.Sandbox(sb.Name).Remove(state.NRIMounts(c.Name))
}

// creation is a container that is being created.
type creation struct {
	id     string
	create *translate.Create // its request
	// seen is the container as plugins know it; nil if they do not.
	seen *translate.Container
	// first describes the container without adjustments: plugins are asked about the
	// same one each time, but for the ID.
	first *api.Container
	// answer is the last one; nil without plugins.
	answer *nri.Answer
	links  []string // that [pluginHost.link] has made
}

// replace replaces a container by one that is created by another request.
func (h *pluginHost) replace(ctx context.Context, made *creation, job *containerJob, next *translate.Create) error {
	h.gone(ctx, made)
	if err := h.s.names.remove(ctx, made.id); err != nil {
		return err
	}
	for _, file := range made.links {
		// Docker wants them to lead somewhere; where, is known when plugins are asked again.
		if err := h.s.state.Sandbox(job.sandbox.Name).Link(state.NRIMounts(next.Name), file, "."); err != nil {
			return err
		}
	}
	id, _, err := h.s.names.create(ctx, next, func(context.Context, container.InspectResponse) (bool, error) { return false, nil })
	if err != nil {
		return err
	}
	made.id, made.create = id, next
	return h.s.index.Sync(ctx, id)
}

// gone tells plugins that a container that they were asked about does not come to be.
func (h *pluginHost) gone(ctx context.Context, made *creation) {
	if made.seen != nil && h.plugins.Knows(made.seen.ID) {
		pod, message := h.container(ctx, made.seen)
		h.plugins.Remove(ctx, pod, message)
	}
	made.seen = nil
}

// created stores what plugins wanted of a container that is complete, and tells them.
// Only with that, a repeated request to create it finds it complete.
func (h *pluginHost) created(ctx context.Context, made *creation) error {
	if made.answer == nil {
		return nil
	}
	document, err := made.answer.Encode()
	if err != nil {
		return err
	}
	if err := h.s.state.Container(made.id).Write(state.NRI, document, 0o600); err != nil {
		return fmt.Errorf("adjustment of container %s: %w", made.id, err)
	}
	pod, message := h.container(ctx, made.seen)
	h.plugins.Created(ctx, pod, message)
	return nil
}

// kept reports whether created has been called for a container.
func (h *pluginHost) kept(id string) bool {
	_, err := h.s.state.Container(id).Read(state.NRI)
	return err == nil
}

// settle is like its argument, but has a container replaced that plugins were not
// asked about: an earlier process was killed before.
func (h *pluginHost) settle(otherwise settle) settle {
	if !h.plugins.Active() {
		return otherwise
	}
	return func(ctx context.Context, holder container.InspectResponse) (bool, error) {
		keep, err := otherwise(ctx, holder)
		return keep && h.kept(holder.ID), err
	}
}

// sameRequest reports whether Docker would make the same container. What
// cridock-runtime does follows later.
func sameRequest(a, b *translate.Create) bool {
	x, y := *a, *b
	x.Seam, y.Seam = nil, nil
	return reflect.DeepEqual(x, y)
}

// node describes what adjustments of a pod's containers depend on.
func (h *pluginHost) node(ctx context.Context, sb *translate.Sandbox) nri.Node {
	host := h.s.Host()
	return nri.Node{
		SeamUnmet: host.SeamUnmet(sb.RuntimeHandler), Annotations: host.Annotations, SystemdCgroup: h.systemd(), CgroupV2: host.CgroupV2,
		Device: nri.HostDevice, SpecVersion: func() string { return h.specVersion(ctx, sb.RuntimeHandler) },
	}
}

// featuresTimeout bounds the wait for a runtime to say what it supports.
const featuresTimeout = 10 * time.Second

// specVersion returns the version of the OCI specification that a handler's runtime
// knows; "" if it does not say so in time.
func (h *pluginHost) specVersion(ctx context.Context, handler string) string {
	caps := h.s.engine.Capabilities()
	if caps == nil {
		return ""
	}
	if caps.Runtimes[handler].Path == "" {
		handler = caps.DefaultRuntime
	}
	r := caps.Runtimes[handler]
	ctx, cancel := withinDeadline(ctx)
	defer cancel()
	bounded, cancel := context.WithTimeout(ctx, featuresTimeout)
	defer cancel()
	features, err := ocifeatures.Ask(bounded, r.Path, r.Args)
	if err != nil {
		klog.FromContext(ctx).Error(err, "Cannot ask an OCI runtime which version of the specification it knows", "handler", handler)
		return ""
	}
	return features.SpecVersion
}

// containerJob is one call of CreateContainer.
type containerJob struct {
	request *runtimeapi.CreateContainerRequest
	sandbox *translate.Sandbox
	dir     state.Dir // the sandbox's
	volumes map[string]state.Volume
	undo    *undo.Stack
	restore *restoring // nil: the container is a new one
	image   translate.Image
}

// runPod tells plugins of a sandbox that is ready and that nobody has seen.
func (h *pluginHost) runPod(ctx context.Context, sb *translate.Sandbox) error {
	if !h.plugins.Active() {
		return nil
	}
	return h.plugins.RunPod(ctx, h.pod(ctx, sb))
}

// updatePod stores the resources of a pod, unless plugins refuse them.
func (h *pluginHost) updatePod(ctx context.Context, sb *translate.Sandbox, r *runtimeapi.UpdatePodSandboxResourcesRequest) error {
	if h.plugins.Active() {
		if err := h.plugins.UpdatePod(ctx, h.pod(ctx, sb), nri.FromCRI(r.GetOverhead()), nri.FromCRI(r.GetResources())); err != nil {
			return err
		}
	}
	if err := h.s.podLimits.Update(sb, r); err != nil {
		return fmt.Errorf("resources of sandbox %s: %w", sb.ID, err)
	}
	if h.plugins.Active() {
		h.plugins.PodUpdated(ctx, h.pod(ctx, sb))
	}
	return nil
}

// podStopped tells plugins that the containers of a pod have stopped.
func (h *pluginHost) podStopped(ctx context.Context, sb *translate.Sandbox) {
	if h.plugins.Active() && h.plugins.Knows(sb.ID) {
		h.plugins.StopPod(ctx, h.pod(ctx, sb))
	}
}

// podRemoved tells plugins that a pod is gone.
func (h *pluginHost) podRemoved(ctx context.Context, sb *translate.Sandbox) {
	if h.plugins.Knows(sb.ID) {
		pod := h.pod(ctx, sb)
		h.plugins.StopPod(ctx, pod)
		h.plugins.RemovePod(ctx, pod)
	}
}

// startContainer starts a container with run, unless plugins refuse it.
func (h *pluginHost) startContainer(ctx context.Context, c *translate.Container, run func() error) error {
	if !h.plugins.Active() {
		return run()
	}
	pod, message := h.container(ctx, c)
	if err := h.plugins.Start(ctx, pod, message); err != nil {
		return err
	}
	if err := run(); err != nil {
		h.stopped(ctx, c)
		return err
	}
	now, err := h.s.index.Container(ctx, c.ID)
	if err != nil {
		return ignoreNotFound(err)
	}
	pod, message = h.container(ctx, now)
	h.plugins.Started(ctx, pod, message)
	return nil
}

// update updates the resources of a container as plugins want it.
func (h *pluginHost) update(ctx context.Context, id string, want *runtimeapi.LinuxContainerResources) error {
	if !h.plugins.Active() {
		return h.s.limits.Update(ctx, id, want)
	}
	c, err := h.s.index.Container(ctx, id)
	if err != nil {
		return err
	}
	pod, message := h.container(ctx, c)
	instead, err := h.plugins.Update(ctx, pod, message, nri.FromCRI(want))
	if err != nil {
		return err
	}
	if instead != nil {
		adj := want.GetOomScoreAdj() // plugins do not get it
		if want, err = nri.ToCRI(instead); err != nil {
			return fmt.Errorf("NRI: %w: %w", errdefs.ErrFailedPrecondition, err)
		}
		want.OomScoreAdj = adj
	}
	if err := h.s.limits.Update(ctx, id, want); err != nil {
		return err
	}
	if c, err = h.s.index.Container(ctx, id); err == nil {
		pod, message = h.container(ctx, c)
		h.plugins.Updated(ctx, pod, message)
	}
	return nil
}

// blocked runs f, which tells plugins of what has happened without a call that keeps
// new ones waiting. One may be getting the list without what has happened: so whether
// plugins know of an object is for f to ask. A caller with a pod's lock has waited with
// waitStarted before.
func (h *pluginHost) blocked(ctx context.Context, f func()) {
	if !h.plugins.Enabled() {
		return
	}
	unblock, err := h.plugins.Block(ctx)
	if err != nil {
		return // shutting down
	}
	defer unblock()
	f()
}

// exited tells plugins that a container has exited, if it has, and returns when what
// they want of others is done. All plugins are told, even if the caller leaves.
func (h *pluginHost) exited(ctx context.Context, c *translate.Container) error {
	if !h.plugins.Enabled() {
		return nil
	}
	done := make(chan struct{})
	tell := func(ctx context.Context) error {
		ctx, settle := nri.Collect(ctx)
		defer settle()
		h.blocked(ctx, func() {
			now, err := h.s.index.Container(ctx, c.ID)
			if err == nil && now.State == runtimeapi.ContainerState_CONTAINER_EXITED {
				h.stopped(ctx, now)
			}
		})
		return nil
	}
	if err := h.s.work.start(func() { defer close(done); _ = detached(ctx, tell) }); err != nil {
		return nil //nolint:nilerr // shutting down: they will be told at the next connect
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("container %s has stopped, but NRI plugins are still being told: %w", c.ID, context.Cause(ctx))
	}
}

// stopped tells plugins that a container has stopped.
func (h *pluginHost) stopped(ctx context.Context, c *translate.Container) {
	if !h.plugins.Active() || !h.plugins.Knows(c.ID) {
		return
	}
	if now, err := h.s.index.Container(index.All(ctx), c.ID); err == nil {
		c = now
	}
	pod, message := h.container(ctx, c)
	message.State = api.ContainerState_CONTAINER_STOPPED
	h.plugins.Stop(ctx, pod, message)
}

// removed tells plugins that a container is gone, or will be at once.
func (h *pluginHost) removed(ctx context.Context, c *translate.Container) {
	if h.plugins.Knows(c.ID) {
		pod, message := h.container(ctx, c)
		message.State = api.ContainerState_CONTAINER_STOPPED
		h.plugins.Remove(ctx, pod, message)
	}
}

// drained completes the log of a container that has exited, and has plugins told.
func (h *pluginHost) drained(ctx context.Context, c *translate.Container) {
	if h.plugins.Enabled() {
		ctx := context.WithoutCancel(ctx)
		_ = h.s.work.start(func() { // shutting down: they will be told at the next connect
			h.blocked(ctx, func() {
				if h.plugins.Active() && h.plugins.Knows(c.ID) {
					pod, message := h.container(ctx, c)
					h.plugins.Stop(ctx, pod, message)
				}
			})
		})
	}
	h.s.logs.Complete(ctx, c)
}
