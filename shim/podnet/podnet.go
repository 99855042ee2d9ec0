package podnet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/internal/netns"
	"github.com/cridock/cridock/internal/trace"
	"github.com/cridock/cridock/network"
	"github.com/cridock/cridock/translate"
)

// noNetwork is Docker's network mode of the sandboxes that CNI connects.
const noNetwork = "none"

// checkTimeout bounds a CNI CHECK, including its wait for other CNI operations on
// the pod.
const checkTimeout = 10 * time.Second

// Engine is the call to Docker that the network of pods needs.
type Engine interface {
	ContainerInspect(ctx context.Context, id string) (container.InspectResponse, error)
}

// Index has the sandboxes of Kubernetes.
type Index interface {
	Sandbox(ctx context.Context, id string) (*translate.Sandbox, error)
	Sandboxes(ctx context.Context) ([]*translate.Sandbox, error)
}

// Options are what Networks work with. All are required, except CNI.
type Options struct {
	// CNI connects the pods; nil if Docker does.
	CNI *network.CNI
	// PinDir holds the pins of network namespaces, named by sandbox ID.
	PinDir string
	Engine Engine
	Index  Index
	// Bounded returns the context of a CNI operation. It ends before the caller's
	// deadline, since a plugin may hang.
	Bounded func(context.Context) (context.Context, context.CancelFunc)
	// Sysctls returns those of a pod, with the node's defaults.
	Sysctls func(*runtimeapi.PodSandboxConfig) map[string]string
}

// Networks are the networks of all pods of a node.
type Networks struct {
	o Options
	// released has the IDs of sandboxes whose network was released, until they are
	// removed: they get no other, and without a record of ADD each further call would
	// run DEL again, which takes as long as the first.
	released sync.Map
}

// New returns the networks of a node; it starts nothing.
func New(o Options) *Networks { return &Networks{o: o} }

// Run does CNI's background work until ctx ends.
func (n *Networks) Run(ctx context.Context) error {
	if n.o.CNI == nil {
		return nil
	}
	return n.o.CNI.Run(ctx)
}

// CNI reports whether CNI connects new pods.
func (n *Networks) CNI() bool { return n.o.CNI != nil }

// connects reports whether CNI connects a sandbox: not if it uses the host's
// network, or if an earlier adapter had Docker connect it.
func (n *Networks) connects(sb *translate.Sandbox) bool {
	return n.o.CNI != nil && sb.NetworkMode == noNetwork
}

// Ready reports whether a sandbox runs and has its network.
func (n *Networks) Ready(sb *translate.Sandbox) bool {
	if !sb.Running || !n.connects(sb) {
		return sb.Running
	}
	_, attached := n.attachment(sb)
	return attached
}

// Complete is Ready for callers that must not wait for the inspection of the
// network of another adapter's sandbox.
func (n *Networks) Complete(sb *translate.Sandbox) bool { return sb.Config == nil || n.Ready(sb) }

// attachment returns a sandbox's network attachment. CNI's cache may lack that of
// another adapter's sandbox, and a working pod must not be replaced for that.
func (n *Networks) attachment(sb *translate.Sandbox) (*network.Attachment, bool) {
	if a, ok := n.o.CNI.Attachment(sb.ID); ok || sb.Config != nil || !sb.Running {
		return a, ok
	}
	return n.o.CNI.Adopt(sb.ID, processNetNS(sb.Pid))
}

// IPs returns the addresses of a ready sandbox, the primary one first; none with the
// host's network.
func (n *Networks) IPs(sb *translate.Sandbox) []string {
	if !n.Ready(sb) || sb.HostNetwork {
		return nil
	}
	if n.o.CNI != nil {
		if a, ok := n.attachment(sb); ok {
			return a.IPs
		}
	}
	return sb.DockerIPs
}

// Describe adds what is known of a sandbox's network to its verbose information.
func (n *Networks) Describe(ctx context.Context, sb *translate.Sandbox, info map[string]any) {
	if n.o.CNI == nil || sb.HostNetwork {
		return
	}
	a, _ := n.attachment(sb)
	info["netns"], info["cniResult"] = n.NetNS(sb), a
	if a != nil {
		info["cniCheck"] = n.check(ctx, sb)
	}
}

// check returns the result of CNI CHECK: "ok" or the error.
func (n *Networks) check(ctx context.Context, sb *translate.Sandbox) string {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	rt, err := translate.CNIRuntimeConf(sb.KnownConfig(), sb.ID, n.NetNS(sb))
	if err == nil {
		err = trace.Step(ctx, "CNI CHECK", func(ctx context.Context) error { return n.o.CNI.Check(ctx, rt) })
	}
	if err != nil {
		return err.Error()
	}
	return "ok"
}

// Status returns an error that says why no pod could be connected now.
func (n *Networks) Status(ctx context.Context) error {
	if n.o.CNI == nil {
		return nil
	}
	return n.o.CNI.Status(ctx)
}

// HostPorts returns an error that says why host ports of pods are not passed to the
// network; nil if they are. Docker's networks always publish them.
func (n *Networks) HostPorts() error {
	if n.o.CNI == nil {
		return nil
	}
	return n.o.CNI.HostPorts()
}

// DescribeNode returns the CNI configuration in force; nil without CNI.
func (n *Networks) DescribeNode() any {
	if n.o.CNI == nil {
		return nil
	}
	return n.o.CNI.Describe()
}

// SetPodCIDRs sets the node's address ranges, one or two separated by a comma.
func (n *Networks) SetPodCIDRs(cidrs string) error {
	if n.o.CNI == nil {
		return nil
	}
	return n.o.CNI.SetPodCIDRs(cidrs)
}

// processNetNS returns the path of a process's network namespace.
func processNetNS(pid int) string { return fmt.Sprintf("/proc/%d/ns/net", pid) }

// pin returns the path of a sandbox's pin.
func (n *Networks) pin(sandboxID string) string { return filepath.Join(n.o.PinDir, sandboxID) }

// NetNS returns the path of a sandbox's network namespace: the pin if cridock
// connected it with CNI, else that of its process, which other adapters pass to the
// plugins. It returns "" with the host's network, or without a process.
func (n *Networks) NetNS(sb *translate.Sandbox) string {
	switch {
	case sb.HostNetwork:
		return ""
	case n.connects(sb) && sb.Config != nil:
		return n.pin(sb.ID)
	case sb.Pid == 0:
		return ""
	}
	return processNetNS(sb.Pid)
}

// LiveNetNS is [Networks.NetNS], but "" once the namespace is gone.
func (n *Networks) LiveNetNS(sb *translate.Sandbox) string {
	if path := n.NetNS(sb); network.IsPinned(path) {
		return path
	}
	return ""
}

// OpenNetNS opens the network namespace with a pod's ports: the one that CNI has set
// up, or that of the sandbox's process; nil for the host's.
func (n *Networks) OpenNetNS(ctx context.Context, sb *translate.Sandbox) (*os.File, error) {
	if sb.HostNetwork {
		return nil, nil
	}
	if pin := n.pin(sb.ID); network.IsPinned(pin) {
		return netns.Open(pin)
	}
	// Without a pin, as with Docker's own networks. If the sandbox has exited its
	// process ID may have been reused: ask Docker once the file is open.
	file, openErr := netns.Open(processNetNS(sb.Pid))
	c, err := n.o.Engine.ContainerInspect(ctx, sb.ID)
	switch {
	case err == nil && (!c.State.Running || c.State.Pid != sb.Pid):
		err = fmt.Errorf("sandbox %s has exited: %w", sb.ID, errdefs.ErrFailedPrecondition)
	case err == nil && openErr == nil:
		return file, nil
	}
	if openErr == nil {
		_ = file.Close()
	}
	return nil, errors.Join(err, openErr)
}
