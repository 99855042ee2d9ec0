package nri

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
	"google.golang.org/protobuf/proto"
	"k8s.io/klog/v2"
)

// active returns the library if there is any plugin.
func (p *Plugins) active() *adaptation.Adaptation {
	if !p.Active() {
		return nil
	}
	return p.adapter.Load()
}

// refused is the error of an event that a plugin refused, or that the policy of a
// plugin fails. The text is partly the plugin's; its class is not.
func refused(event string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("NRI %s: %s: %w", event, short(err.Error()), errdefs.ErrUnavailable)
	}
	return fmt.Errorf("NRI %s: %s: %w", event, short(err.Error()), errdefs.ErrAborted)
}

// RunPod tells plugins of a pod before others see it. With an error they have been
// told that it is gone.
func (p *Plugins) RunPod(ctx context.Context, pod *api.PodSandbox) error {
	a := p.active()
	if a == nil {
		return nil
	}
	p.setState(pod.GetId(), created)
	if err := a.RunPodSandbox(ctx, &api.RunPodSandboxRequest{Pod: pod}); err != nil {
		p.StopPod(ctx, pod)
		p.RemovePod(ctx, pod)
		return refused("RunPodSandbox", err)
	}
	return nil
}

// UpdatePod asks plugins before a pod's resources are updated; overhead and r may be
// nil.
func (p *Plugins) UpdatePod(ctx context.Context, pod *api.PodSandbox, overhead, r *api.LinuxResources) error {
	a := p.active()
	if a == nil {
		return nil
	}
	_, err := a.UpdatePodSandbox(ctx, &api.UpdatePodSandboxRequest{Pod: pod, OverheadLinuxResources: overhead, LinuxResources: r})
	return refused("UpdatePodSandbox", err)
}

// PodUpdated tells plugins that a pod's resources were updated.
func (p *Plugins) PodUpdated(ctx context.Context, pod *api.PodSandbox) {
	if a := p.active(); a != nil {
		note(ctx, "PostUpdatePodSandbox", a.PostUpdatePodSandbox(ctx, &api.PostUpdatePodSandboxRequest{Pod: pod}))
	}
}

// StopPod tells plugins once that a pod is being stopped; its containers are.
func (p *Plugins) StopPod(ctx context.Context, pod *api.PodSandbox) {
	if a := p.active(); a != nil && p.advance(pod.GetId(), stopped) {
		note(ctx, "StopPodSandbox", a.StopPodSandbox(ctx, &api.StopPodSandboxRequest{Pod: pod}))
	}
}

// RemovePod tells plugins once that a pod is gone.
func (p *Plugins) RemovePod(ctx context.Context, pod *api.PodSandbox) {
	if known := p.forget(pod.GetId()); !known {
		return
	}
	if a := p.active(); a != nil {
		note(ctx, "RemovePodSandbox", a.RemovePodSandbox(ctx, &api.RemovePodSandboxRequest{Pod: pod}))
	}
}

// Create asks plugins how to adjust a container that nobody else sees yet. They know
// of it from then on: after an error, call [Plugins.Remove].
func (p *Plugins) Create(ctx context.Context, pod *api.PodSandbox, c *api.Container) (*Answer, error) {
	a := p.active()
	if a == nil {
		return &Answer{}, nil
	}
	p.setState(c.GetId(), created)
	defer p.takeOwners(c.GetId())
	// The library changes the request to what the next plugin gets, and only there are
	// variables that were removed.
	req := &api.CreateContainerRequest{Pod: pod, Container: proto.CloneOf(c)}
	resp, err := a.CreateContainer(ctx, req)
	if err != nil {
		return nil, refused("CreateContainer", err)
	}
	p.update(ctx, resp.GetUpdate())
	return newAnswer(c, req.GetContainer(), resp.GetAdjust(), p.takeOwners(c.GetId()))
}

// Created tells plugins that a container was created.
func (p *Plugins) Created(ctx context.Context, pod *api.PodSandbox, c *api.Container) {
	if a := p.active(); a != nil {
		note(ctx, "PostCreateContainer", a.PostCreateContainer(ctx, &api.PostCreateContainerRequest{Pod: pod, Container: c}))
	}
}

// Start asks plugins before a container is started. With an error, they have been told
// that it is stopped.
func (p *Plugins) Start(ctx context.Context, pod *api.PodSandbox, c *api.Container) error {
	a := p.active()
	if a == nil {
		return nil
	}
	p.setState(c.GetId(), created)
	if err := a.StartContainer(ctx, &api.StartContainerRequest{Pod: pod, Container: c}); err != nil {
		p.Stop(ctx, pod, c)
		return refused("StartContainer", err)
	}
	return nil
}

// Started tells plugins that a container was started, unless they have been told that
// it has stopped.
func (p *Plugins) Started(ctx context.Context, pod *api.PodSandbox, c *api.Container) {
	p.inOrder(ctx, c.GetId(), func() {
		if a := p.active(); a != nil && p.is(c.GetId(), created) {
			note(ctx, "PostStartContainer", a.PostStartContainer(ctx, &api.PostStartContainerRequest{Pod: pod, Container: c}))
		}
	})
}

// Update asks plugins before the resources of a container are updated, and returns the
// resources to set instead; nil for those that were asked for.
func (p *Plugins) Update(ctx context.Context, pod *api.PodSandbox, c *api.Container, r *api.LinuxResources) (*api.LinuxResources, error) {
	a := p.active()
	if a == nil {
		return nil, nil
	}
	resp, err := a.UpdateContainer(ctx, &api.UpdateContainerRequest{Pod: pod, Container: c, LinuxResources: r})
	if err != nil {
		return nil, refused("UpdateContainer", err)
	}
	var own *api.LinuxResources
	var others []*api.ContainerUpdate
	for _, u := range resp.GetUpdate() {
		if u.GetContainerId() == c.GetId() {
			own = u.GetLinux().GetResources()
		} else if u != nil {
			others = append(others, u)
		}
	}
	p.update(ctx, others)
	return own, nil
}

// Updated tells plugins that the resources of a container were updated.
func (p *Plugins) Updated(ctx context.Context, pod *api.PodSandbox, c *api.Container) {
	if a := p.active(); a != nil {
		note(ctx, "PostUpdateContainer", a.PostUpdateContainer(ctx, &api.PostUpdateContainerRequest{Pod: pod, Container: c}))
	}
}

// Stop tells plugins once that a container has stopped. [Collect] also waits for the
// updates that they asked for when they were told before.
func (p *Plugins) Stop(ctx context.Context, pod *api.PodSandbox, c *api.Container) {
	p.inOrder(ctx, c.GetId(), func() { p.stop(ctx, pod, c) })
}

// inOrder runs f while no other goroutine is telling one of the last events of an object;
// not if ctx ends before.
func (p *Plugins) inOrder(ctx context.Context, id string, f func()) {
	if p == nil {
		return
	}
	unlock, err := p.order.Lock(ctx, id)
	if err != nil {
		return
	}
	defer unlock()
	f()
}

func (p *Plugins) stop(ctx context.Context, pod *api.PodSandbox, c *api.Container) {
	a := p.active()
	if a == nil {
		return
	}
	if p.advance(c.GetId(), stopped) {
		resp, err := a.StopContainer(ctx, &api.StopContainerRequest{Pod: pod, Container: c})
		note(ctx, "StopContainer", err)
		p.stopUpdates(ctx, c.GetId(), resp.GetUpdate())
	}
	p.awaitStopUpdates(ctx, c.GetId())
}

// stopUpdates does the updates that plugins want because a container has stopped.
func (p *Plugins) stopUpdates(ctx context.Context, id string, updates []*api.ContainerUpdate) {
	if len(updates) == 0 {
		return
	}
	group := &sync.WaitGroup{}
	p.update(context.WithValue(ctx, pending{}, group), updates)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stops[id] = group
}

// awaitStopUpdates has the request of ctx wait for them; see [Collect].
func (p *Plugins) awaitStopUpdates(ctx context.Context, id string) {
	p.mu.Lock()
	updates := p.stops[id]
	p.mu.Unlock()
	if request, ok := ctx.Value(pending{}).(*sync.WaitGroup); ok && updates != nil {
		request.Go(updates.Wait)
	}
}

// Remove tells plugins once that a container is gone, and that it has stopped, if they
// do not know.
func (p *Plugins) Remove(ctx context.Context, pod *api.PodSandbox, c *api.Container) {
	p.inOrder(ctx, c.GetId(), func() {
		p.stop(ctx, pod, c)
		known := p.forget(c.GetId())
		if a := p.active(); a != nil && known {
			note(ctx, "RemoveContainer", a.RemoveContainer(ctx, &api.RemoveContainerRequest{Pod: pod, Container: c}))
		}
	})
}

// Knows reports whether plugins know of a pod or container.
func (p *Plugins) Knows(id string) bool {
	if p == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.states[id] != 0
}

// note logs the error of an event about what has happened already.
func note(ctx context.Context, event string, err error) {
	if err != nil {
		klog.FromContext(ctx).Info("An NRI plugin failed to handle an event", "event", event, "err", short(err.Error()))
	}
}

func (p *Plugins) setState(id string, s state) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.states[id] = s
}

func (p *Plugins) is(id string, s state) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.states[id] == s
}

// advance sets a later state of a known object, and reports whether it was an earlier
// one before.
func (p *Plugins) advance(id string, to state) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.states[id]; s == 0 || s >= to {
		return false
	}
	p.states[id] = to
	return true
}

func (p *Plugins) forget(id string) (known bool) {
	if p == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	known = p.states[id] != 0
	delete(p.states, id)
	delete(p.stops, id)
	return known
}

// synchronize gives new plugins the list of all pods and containers.
func (p *Plugins) synchronize(ctx context.Context, send adaptation.SyncCB) error {
	pods, containers, err := p.runtime.List(p.life)
	if err != nil {
		return err
	}
	p.mu.Lock()
	// The exit of a container that plugins were told of may not be visible yet. One whose
	// start they have refused can be started again.
	containers = slices.DeleteFunc(containers, func(c *api.Container) bool {
		return p.states[c.GetId()] == stopped && c.GetState() != api.ContainerState_CONTAINER_CREATED
	})
	for _, pod := range pods {
		p.states[pod.GetId()] = max(p.states[pod.GetId()], created)
	}
	for _, c := range containers {
		p.states[c.GetId()] = max(p.states[c.GetId()], created)
	}
	p.mu.Unlock()
	updates, err := send(ctx, pods, containers)
	if err != nil {
		return err
	}
	p.update(ctx, updates)
	return nil
}

// updateUnasked does the updates that a plugin asks for by itself, and returns those
// that failed.
func (p *Plugins) updateUnasked(_ context.Context, updates []*api.ContainerUpdate) ([]*api.ContainerUpdate, error) {
	if len(updates) > maxUpdates {
		return updates, fmt.Errorf("%d updates; at most %d at a time", len(updates), maxUpdates)
	}
	var failed []*api.ContainerUpdate
	for _, u := range updates {
		// Not the plugin's context: an update does not stop half-way.
		if err := p.updateOne(p.life, u); err != nil && !u.GetIgnoreFailure() {
			failed = append(failed, u)
		}
	}
	return failed, nil
}

// maxUpdates bounds the number of updates, and of evictions, in one message.
const maxUpdates = 10000

// update does updates of other containers in the background: the caller holds the
// lock of a pod. See [Collect].
func (p *Plugins) update(ctx context.Context, updates []*api.ContainerUpdate) {
	group, ok := ctx.Value(pending{}).(*sync.WaitGroup)
	if !ok {
		group = &sync.WaitGroup{}
	}
	if len(updates) > maxUpdates {
		klog.FromContext(ctx).Error(nil, "NRI plugins want too many updates at a time; the rest is left out", "updates", len(updates), "limit", maxUpdates)
		updates = updates[:maxUpdates]
	}
	for _, u := range updates {
		group.Add(1)
		done := sync.OnceFunc(group.Done)
		if !p.background(func() { defer done(); _ = p.updateOne(p.life, u) }) {
			done()
		}
	}
}

func (p *Plugins) updateOne(ctx context.Context, u *api.ContainerUpdate) error {
	err := p.runtime.UpdateContainer(ctx, u.GetContainerId(), u.GetLinux().GetResources())
	if errdefs.IsNotFound(err) {
		return nil // it has been removed
	}
	if err != nil {
		klog.FromContext(ctx).Info("Cannot update a container as an NRI plugin asks", "containerID", short(u.GetContainerId()), "err", err.Error())
	}
	return err
}

func (p *Plugins) evict(list []*api.ContainerEviction) {
	if len(list) > maxUpdates {
		klog.FromContext(p.life).Error(nil, "An NRI plugin wants too many evictions at a time; the rest is left out", "evictions", len(list), "limit", maxUpdates)
		list = list[:maxUpdates]
	}
	for _, e := range list {
		p.background(func() {
			log := klog.FromContext(p.life).WithValues("containerID", short(e.GetContainerId()), "reason", short(e.GetReason()))
			log.Info("An NRI plugin evicts a container")
			if err := p.runtime.EvictContainer(p.life, e.GetContainerId()); err != nil && !errdefs.IsNotFound(err) {
				log.Error(err, "Failed to evict a container")
			}
		})
	}
}
