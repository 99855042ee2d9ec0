package shim

import (
	"context"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/shim/process"
	"github.com/cridock/cridock/streaming"
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
	code, err := r.s.process.Exec(ctx, c.ID, cmd, process.Streams{TTY: st.TTY, Stdin: st.Stdin, Stdout: st.Stdout, Stderr: st.Stderr, Resize: st.Resize})
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
	return r.s.process.Attach(ctx, c.ID, process.Streams{TTY: c.TTY, Stdin: st.Stdin, Stdout: st.Stdout, Stderr: st.Stderr, Resize: st.Resize}, func(ctx context.Context) error {
		return r.s.index.WaitExited(ctx, c.ID)
	})
}

// NetNS opens the network namespace with the pod's ports: the one that CNI has set
// up, or that of the sandbox's process; nil for the host's.
func (r streamRuntime) NetNS(ctx context.Context, podSandboxID string) (*os.File, error) {
	sb, err := r.s.readySandbox(ctx, podSandboxID)
	if err != nil {
		return nil, err
	}
	return r.s.networks.OpenNetNS(ctx, sb)
}
