package shim

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/translate"
)

// runningContainer finds a container; one that is not running is
// ErrFailedPrecondition.
func (s *Service) runningContainer(ctx context.Context, id string) (*translate.Container, error) {
	c, err := s.index.Container(ctx, id)
	if err != nil {
		return nil, err
	}
	if c.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return nil, fmt.Errorf("container %s is not running: %w", c.ID, errdefs.ErrFailedPrecondition)
	}
	return c, nil
}

// ExecSync runs a command to its end. After Timeout, or if the client disconnects,
// the command and all its descendants are killed.
func (s *Service) ExecSync(ctx context.Context, r *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	if len(r.GetCmd()) == 0 {
		return nil, fmt.Errorf("cmd: %w: empty", errdefs.ErrInvalidArgument)
	}
	c, err := s.runningContainer(ctx, r.GetContainerId())
	if err != nil {
		return nil, err
	}
	timeout := time.Duration(max(r.GetTimeout(), 0)) * time.Second
	stdout, stderr, code, err := s.process.ExecSync(ctx, c.ID, r.GetCmd(), timeout)
	if err != nil {
		return nil, err
	}
	stdout, stderr = fitMessage(stdout, stderr, maxMessage-execSyncOverhead)
	return &runtimeapi.ExecSyncResponse{Stdout: stdout, Stderr: stderr, ExitCode: code}, nil
}

// execSyncOverhead exceeds the size of an ExecSyncResponse without its outputs.
const execSyncOverhead = 1 << 10

// fitMessage truncates outputs that together exceed limit, as the client would
// reject a larger message. An output of up to half the limit stays whole.
func fitMessage(stdout, stderr []byte, limit int) (out, errs []byte) {
	out = stdout[:min(len(stdout), max(limit/2, limit-len(stderr)))]
	return out, stderr[:min(len(stderr), limit-len(out))]
}
