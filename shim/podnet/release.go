package podnet

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/internal/trace"
	"github.com/cridock/cridock/network"
	"github.com/cridock/cridock/translate"
)

// Release releases a sandbox's addresses and its namespace, whether the network is
// set up, partly set up or already released.
func (n *Networks) Release(ctx context.Context, sb *translate.Sandbox) error {
	if _, done := n.released.Load(sb.ID); done {
		return nil
	}
	if err := n.Pin(ctx, sb); err != nil {
		klog.FromContext(ctx).Error(err, "Releasing the network of a sandbox without its namespace", "sandboxID", sb.ID)
	}
	ctx, cancel := n.o.Bounded(ctx)
	defer cancel()
	if err := n.releaseAddresses(ctx, sb); err != nil || n.o.CNI == nil {
		return err
	}
	if err := network.UnpinNetNS(n.pin(sb.ID)); err != nil {
		return err
	}
	n.released.Store(sb.ID, nil)
	return nil
}

func (n *Networks) releaseAddresses(ctx context.Context, sb *translate.Sandbox) error {
	if !n.connects(sb) {
		return nil
	}
	rt, err := translate.CNIRuntimeConf(sb.KnownConfig(), sb.ID, n.pin(sb.ID))
	if err != nil {
		return err
	}
	err = trace.Step(ctx, "CNI DEL", func(ctx context.Context) error { return n.o.CNI.Teardown(ctx, rt) })
	if err != nil {
		return fmt.Errorf("release the network of sandbox %s of pod %s: %w", sb.ID, translate.PodName(sb.Metadata), err)
	}
	return nil
}

// Undo releases the network of a sandbox whose setup has failed. released is false
// if that is not possible now: the sandbox must be kept then, so that StopPodSandbox
// tries again.
func (n *Networks) Undo(ctx context.Context, sb *translate.Sandbox) (released bool, err error) {
	if n.o.CNI == nil {
		return true, nil
	}
	recorded, err := n.o.CNI.Recorded(sb.ID)
	if _, attached := n.o.CNI.Attachment(sb.ID); recorded && !attached {
		return false, nil // Setup failed, and so did its own DEL
	}
	if err == nil && recorded {
		err = n.releaseAddresses(ctx, sb)
	}
	if err != nil {
		return false, err
	}
	return true, network.UnpinNetNS(n.pin(sb.ID))
}

// Forget releases the network of a sandbox that is gone, if it may have any. It is
// idempotent.
func (n *Networks) Forget(ctx context.Context, sb *translate.Sandbox) error {
	n.released.Delete(sb.ID)
	if n.o.CNI == nil {
		return nil
	}
	recorded, err := n.o.CNI.Recorded(sb.ID)
	if err == nil && recorded {
		err = n.releaseAddresses(ctx, sb)
	}
	if err != nil {
		return err
	}
	return network.UnpinNetNS(n.pin(sb.ID))
}

// Sweep releases the networks of removed sandboxes: those that a killed process did
// not complete or remove, and those removed while cridock was not running.
func (n *Networks) Sweep(ctx context.Context) error {
	if n.o.CNI == nil {
		return nil
	}
	sandboxes, err := n.o.Index.Sandboxes(ctx)
	if err != nil {
		return err
	}
	live := make([]string, 0, len(sandboxes))
	for _, sb := range sandboxes {
		live = append(live, sb.ID)
	}
	return errors.Join(n.o.CNI.GC(ctx, live), n.sweepPins(ctx))
}

// sweepPins removes namespace pins of removed sandboxes. A sandbox is in the index
// before it has a pin, so a sandbox that has a pin and is not in the index is gone.
func (n *Networks) sweepPins(ctx context.Context) error {
	entries, err := os.ReadDir(n.o.PinDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if _, lookErr := n.o.Index.Sandbox(ctx, e.Name()); errdefs.IsNotFound(lookErr) {
			err = errors.Join(err, network.UnpinNetNS(n.pin(e.Name())))
		}
	}
	return err
}
