package shim

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/network"
	"github.com/cridock/cridock/streaming"
	"github.com/cridock/cridock/translate"
)

// Exec returns the URL of a streaming session that runs a command.
func (s *Service) Exec(ctx context.Context, r *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	if len(r.GetCmd()) == 0 {
		return nil, fmt.Errorf("cmd: %w: empty", errdefs.ErrInvalidArgument)
	}
	if _, err := s.runningContainer(ctx, r.GetContainerId()); err != nil {
		return nil, err
	}
	return s.streams.Exec(r)
}

// Attach returns the URL of a streaming session with a container's own process.
func (s *Service) Attach(ctx context.Context, r *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	if _, err := s.runningContainer(ctx, r.GetContainerId()); err != nil {
		return nil, err
	}
	return s.streams.Attach(r)
}

// PortForward returns the URL of a session that connects to ports of a pod.
func (s *Service) PortForward(ctx context.Context, r *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	if _, err := s.readySandbox(ctx, r.GetPodSandboxId()); err != nil {
		return nil, err
	}
	return s.streams.PortForward(r)
}

// streamRuntime implements the streaming server's runtime on the service.
type streamRuntime struct{ s *Service }

// Exec runs a command with the client's streams.
func (r streamRuntime) Exec(ctx context.Context, containerID string, cmd []string, st streaming.Streams) error {
	c, err := r.s.runningContainer(ctx, containerID)
	if err != nil {
		return err
	}
	code, err := r.s.process.Exec(ctx, c.ID, cmd, st.TTY, st.Stdin, st.Stdout, st.Stderr, st.Resize)
	if err != nil || code == 0 {
		return err
	}
	return streaming.ExitError(code)
}

// Attach connects the client to the container's own process.
func (r streamRuntime) Attach(ctx context.Context, containerID string, st streaming.Streams) error {
	c, err := r.s.runningContainer(ctx, containerID)
	if err != nil {
		return err
	}
	return r.s.process.Attach(ctx, c.ID, c.TTY, st.Stdin, st.Stdout, st.Stderr, st.Resize, func(ctx context.Context) error {
		return r.s.index.WaitExited(ctx, c.ID)
	})
}

// NetNS opens the network namespace with the pod's ports: the one that CNI has set
// up, or that of the sandbox's process; nil for the host's.
func (r streamRuntime) NetNS(ctx context.Context, podSandboxID string) (*os.File, error) {
	sb, err := r.s.readySandbox(ctx, podSandboxID)
	if err != nil || sb.HostNetwork {
		return nil, err
	}
	if pin := r.s.netnsPath(sb.ID); network.IsPinned(pin) {
		return openNetNS(pin)
	}
	return r.s.openSandboxNetNS(ctx, sb)
}

// openSandboxNetNS opens the network namespace of a sandbox without a pin, as with
// Docker's own networks. If the sandbox has exited its process ID may have been
// reused, so it asks Docker once the file is open.
func (s *Service) openSandboxNetNS(ctx context.Context, sb *translate.Sandbox) (*os.File, error) {
	netns, openErr := openNetNS(processNetNS(sb.Pid))
	c, err := s.engine.ContainerInspect(ctx, sb.ID)
	switch {
	case err == nil && (!c.State.Running || c.State.Pid != sb.Pid):
		err = fmt.Errorf("sandbox %s has exited: %w", sb.ID, errdefs.ErrFailedPrecondition)
	case err == nil && openErr == nil:
		return netns, nil
	}
	if openErr == nil {
		_ = netns.Close()
	}
	return nil, errors.Join(err, openErr)
}

// openNetNS opens a network namespace. It rejects other files: a pin whose mount is
// gone is a plain file.
func openNetNS(path string) (*os.File, error) {
	f, err := os.Open(path) //nolint:gosec // checked below to be a network namespace
	if err != nil {
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	if kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
		_ = f.Close()
		return nil, fmt.Errorf("%s is not a network namespace: %w", path, errdefs.ErrFailedPrecondition)
	}
	return f, nil
}
