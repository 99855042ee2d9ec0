package process

import (
	"bytes"
	"context"
	"fmt"
	"time"
)

// maxOutput is how much ExecSync keeps of each stream; like other runtimes, it
// reads and drops the rest.
const maxOutput = 16 << 20

// ExecSync runs a command in a container and returns its output, at most 16 MiB
// of each stream, and its exit code. At the timeout (zero for none) or when ctx
// ends, the command and all its descendants are killed and the error wraps
// context.DeadlineExceeded or ctx's cause. A command that cannot be started is
// a *StartError; other errors are those of Exec.
func (r *Runner) ExecSync(ctx context.Context, containerID string, cmd []string, timeout time.Duration) (stdout, stderr []byte, exitCode int32, err error) {
	if timeout > 0 {
		cause := fmt.Errorf("command in container %s did not finish within %v: %w", containerID, timeout, context.DeadlineExceeded)
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, timeout, cause)
		defer cancel()
	}
	out, errs := &capped{left: maxOutput}, &capped{left: maxOutput}
	code, err := r.run(ctx, &command{containerID: containerID, cmd: cmd, Streams: Streams{Stdout: out, Stderr: errs}})
	if err != nil {
		return nil, nil, 0, err
	}
	return out.kept.Bytes(), errs.kept.Bytes(), int32(code), nil //nolint:gosec // an exit code
}

// capped keeps the first bytes written to it. The buffer is not embedded: its
// ReadFrom has no limit.
type capped struct {
	kept bytes.Buffer
	left int
}

// Write implements [io.Writer]; it never fails.
func (c *capped) Write(p []byte) (int, error) {
	kept := p[:min(len(p), c.left)]
	c.left -= len(kept)
	_, _ = c.kept.Write(kept)
	return len(p), nil
}
