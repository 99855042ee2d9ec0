package podnet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/internal/trace"
	"github.com/cridock/cridock/network"
	"github.com/cridock/cridock/translate"
)

// Validate returns an error for a sandbox that CNI could not connect, before there
// is anything to undo.
func (n *Networks) Validate(cfg *runtimeapi.PodSandboxConfig) error {
	if n.o.CNI == nil {
		return nil
	}
	_, err := translate.CNIRuntimeConf(cfg, "", "")
	return err
}

// Setup connects a started sandbox. After an error, Undo releases what it has left.
func (n *Networks) Setup(ctx context.Context, sb *translate.Sandbox, cfg *runtimeapi.PodSandboxConfig) error {
	if sb.HostNetwork {
		return nil
	}
	if n.o.CNI == nil {
		return n.Finish(ctx, sb, cfg)
	}
	if err := network.PinNetNS(sb.Pid, n.pin(sb.ID)); err != nil {
		return fmt.Errorf("network namespace of sandbox %s: %w", sb.ID, err)
	}
	if err := n.Connect(ctx, sb, cfg); err != nil {
		return err
	}
	return n.Finish(ctx, sb, cfg)
}

// Make makes and pins a network namespace for a sandbox that has not been started, and
// returns its path. It sets the pod's sysctls there: interfaces inherit some when they
// are created. Undo and Release remove it.
func (n *Networks) Make(sb *translate.Sandbox, cfg *runtimeapi.PodSandboxConfig) (string, error) {
	pin := n.pin(sb.ID)
	if err := network.MakeNetNS(pin); err != nil {
		return "", fmt.Errorf("network namespace of sandbox %s: %w", sb.ID, err)
	}
	before, _ := n.sysctls(cfg)
	if err := network.SetSysctls(pin, before); err != nil {
		return "", fmt.Errorf("linux.sysctls of sandbox %s: %w", sb.ID, err)
	}
	return pin, nil
}

// Check returns an error unless a running sandbox is in its pinned network namespace.
func (n *Networks) Check(sb *translate.Sandbox) error {
	err := network.CheckNetNS(sb.Pid, n.pin(sb.ID))
	if !sb.Running || errors.Is(err, os.ErrNotExist) {
		err = fmt.Errorf("it exited during its setup: %w", errdefs.ErrAborted)
	}
	if err != nil {
		return fmt.Errorf("network namespace of sandbox %s: %w", sb.ID, err)
	}
	return nil
}

// Connect has CNI connect a sandbox's pinned network namespace. The sandbox need not
// run yet; once it does, call Finish.
func (n *Networks) Connect(ctx context.Context, sb *translate.Sandbox, cfg *runtimeapi.PodSandboxConfig) error {
	rt, err := translate.CNIRuntimeConf(cfg, sb.ID, n.pin(sb.ID))
	if err != nil {
		return err
	}
	n.warnOfHostPorts(ctx, sb, rt)
	err = trace.Step(ctx, "CNI ADD", func(ctx context.Context) error {
		ctx, cancel := n.o.Bounded(ctx)
		defer cancel()
		_, err := n.o.CNI.Setup(ctx, rt)
		return err
	})
	if err != nil {
		return fmt.Errorf("network of sandbox %s of pod %s: %w", sb.ID, translate.PodName(sb.Metadata), err)
	}
	return nil
}

// warnOfHostPorts logs that no CNI plugin takes a sandbox's host ports. The sandbox
// runs nevertheless, as with containerd and CRI-O: some networks read host ports
// from the API server and publish them on their own.
func (n *Networks) warnOfHostPorts(ctx context.Context, sb *translate.Sandbox, rt *libcni.RuntimeConf) {
	ports, asked := rt.CapabilityArgs["portMappings"]
	if !asked {
		return
	}
	if err := n.o.CNI.HostPorts(); err != nil {
		klog.FromContext(ctx).Error(err, "CNI does not publish the host ports of a pod", "pod", translate.PodName(sb.Metadata), "sandboxID", sb.ID, "hostPorts", ports)
	}
}

// Finish configures what it can in a pod's network namespace only once the sandbox
// runs and has its interfaces. Setup calls it; it is idempotent.
func (n *Networks) Finish(ctx context.Context, sb *translate.Sandbox, cfg *runtimeapi.PodSandboxConfig) error {
	if err := n.makeSysfsWritable(ctx, sb, cfg); err != nil {
		return err
	}
	return n.setInterfaceSysctls(sb, cfg)
}

// makeSysfsWritable lets the privileged containers of a pod mount /sys writable.
// Otherwise the sandbox, which is not privileged, makes it read-only for them: its
// /sys is the first in their network namespace, and Docker mounts it read-only.
func (n *Networks) makeSysfsWritable(ctx context.Context, sb *translate.Sandbox, cfg *runtimeapi.PodSandboxConfig) error {
	if !cfg.GetLinux().GetSecurityContext().GetPrivileged() || sb.HostNetwork {
		return nil
	}
	err := network.MakeSysfsWritable(n.running(sb))
	if errdefs.IsNotImplemented(err) {
		klog.FromContext(ctx).Error(err, "Privileged containers of a pod get a read-only /sys", "pod", translate.PodName(sb.Metadata))
		return nil
	}
	if err != nil {
		return fmt.Errorf("sandbox %s: %w", sb.ID, err)
	}
	return nil
}

// running returns the path of a running sandbox's network namespace.
func (n *Networks) running(sb *translate.Sandbox) string {
	if n.o.CNI == nil {
		return processNetNS(sb.Pid)
	}
	return n.pin(sb.ID)
}

// setInterfaceSysctls sets the sysctls of interfaces, which CNI or Docker has
// created by now, and those that CNI has changed.
func (n *Networks) setInterfaceSysctls(sb *translate.Sandbox, cfg *runtimeapi.PodSandboxConfig) error {
	_, after := n.sysctls(cfg)
	if len(after) == 0 || sb.HostNetwork {
		return nil
	}
	if err := network.SetSysctls(n.running(sb), after); err != nil {
		return fmt.Errorf("linux.sysctls of sandbox %s: %w", sb.ID, err)
	}
	return nil
}

// sysctls returns a pod's sysctls of its network namespace that belong there before its
// interfaces are created, and those that can be set only afterwards.
func (n *Networks) sysctls(cfg *runtimeapi.PodSandboxConfig) (before, after map[string]string) {
	before, after = map[string]string{}, map[string]string{}
	atCreate, afterCNI := translate.InterfaceSysctls(n.o.Sysctls(cfg))
	for key, value := range atCreate {
		switch {
		case translate.ResetByCNI(key):
			after[key] = value
		case strings.HasPrefix(key, "net.") || strings.HasPrefix(key, "net/"):
			before[key] = value
		}
	}
	maps.Copy(after, afterCNI)
	return before, after
}

// Pin pins a running sandbox's network namespace: without it CNI DEL reverts only
// part of what ADD did. It is idempotent.
func (n *Networks) Pin(ctx context.Context, sb *translate.Sandbox) error {
	pin := n.pin(sb.ID)
	if !sb.Running || !n.connects(sb) || network.IsPinned(pin) {
		return nil
	}
	pinErr := network.PinNetNS(sb.Pid, pin)
	// If the sandbox has exited, its process ID may have been reused, and DEL in
	// the wrong namespace would tear down another network.
	c, err := n.o.Engine.ContainerInspect(ctx, sb.ID)
	if err == nil && c.State.Running && c.State.Pid == sb.Pid {
		return pinErr
	}
	if errdefs.IsNotFound(err) {
		err = nil
	}
	return errors.Join(err, network.UnpinNetNS(pin))
}
