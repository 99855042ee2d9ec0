package network

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

const (
	// pipeGrace is how long a plugin's output is still read after the plugin has
	// exited.
	pipeGrace = time.Second
	// busyRetry is the pause between attempts to start a binary that is being
	// installed.
	busyRetry    = 200 * time.Millisecond
	busyAttempts = 25
	// maxOutput bounds each of a plugin's outputs, maxSaid the part of it that
	// goes into an error; in bytes.
	maxOutput = 4 << 20
	maxSaid   = 1 << 10
)

// pluginExec runs plugins from disk. It differs from libcni's default in two ways:
// when the context ends, it kills the plugin with all its children (libcni kills
// only the plugin and then waits for whoever holds its output), and the error then
// says so and wraps the context's.
type pluginExec struct {
	version.PluginDecoder
}

var _ invoke.Exec = &pluginExec{}

// FindInPath returns the path of the plugin's binary in the first directory that
// has it.
func (*pluginExec) FindInPath(plugin string, paths []string) (string, error) {
	return invoke.FindInPath(plugin, paths)
}

// ExecPlugin runs one plugin and returns its standard output. An error that the
// plugin reports is a *types.Error in the returned error.
func (*pluginExec) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	name := filepath.Base(path)
	for attempt := 1; ; attempt++ {
		stdout, err := runPlugin(ctx, path, stdin, environ)
		switch {
		case err == nil:
			return stdout, nil
		case ctx.Err() != nil:
			return nil, fmt.Errorf("plugin %s killed: %w", name, context.Cause(ctx))
		case !errors.Is(err, syscall.ETXTBSY) || attempt == busyAttempts:
			return nil, err
		}
		select {
		case <-ctx.Done():
		case <-time.After(busyRetry):
		}
	}
}

// runPlugin runs the binary once, in its own process group.
func runPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	var stdout, stderr boundedBuffer
	cmd := exec.CommandContext(ctx, path)
	cmd.Env = environ
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.Stdout = &stdout
	cmd.Stderr = &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = pipeGrace

	err := cmd.Run()
	// ErrWaitDelay alone means that the plugin succeeded and a process it left
	// behind still holds its output.
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return nil, pluginError(err, stdout.taken.Bytes(), stderr.taken.String())
	}
	if stderr.taken.Len() > 0 {
		klog.FromContext(ctx).V(4).Info("CNI plugin wrote to standard error",
			"plugin", filepath.Base(path), "stderr", strings.TrimSpace(stderr.taken.String()))
	}
	return stdout.taken.Bytes(), nil
}

// boundedBuffer holds up to maxOutput bytes; a write beyond returns an error, and
// the plugin gets a broken pipe.
type boundedBuffer struct{ taken bytes.Buffer } // not embedded: its ReadFrom would bypass Write

func (b *boundedBuffer) Write(p []byte) (int, error) {
	if b.taken.Len()+len(p) > maxOutput {
		return 0, fmt.Errorf("plugin printed more than %d bytes", maxOutput)
	}
	return b.taken.Write(p)
}

// pluginError makes an error from a plugin's exit. A plugin that follows the
// specification prints a JSON error to its standard output.
func pluginError(err error, stdout []byte, stderr string) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	reported := &types.Error{}
	if json.Unmarshal(stdout, reported) == nil && (reported.Msg != "" || reported.Code != 0) {
		if reported.Msg == "" {
			reported.Msg = fmt.Sprintf("error code %d", reported.Code) // its text would be empty
		}
		reported.Msg, reported.Details = shortened(reported.Msg), shortened(reported.Details)
		return reported
	}
	said := strings.TrimSpace(string(stdout) + " " + stderr)
	if said == "" {
		return fmt.Errorf("%w, without an error message", err)
	}
	return fmt.Errorf("%w: %s", err, shortened(said))
}

// shortened cuts a plugin's output to fit an error and an event, as valid UTF-8.
func shortened(said string) string {
	if len(said) > maxSaid {
		said = said[:maxSaid] + " …"
	}
	return strings.ToValidUTF8(said, "")
}
