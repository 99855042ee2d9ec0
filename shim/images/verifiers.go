package images

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/internal/trust"
)

const (
	// verifierTimeout bounds one verifier, as in containerd.
	verifierTimeout = 10 * time.Second
	// verifierOutput bounds, in bytes, what is kept of a verifier's output; the rest is
	// read and dropped.
	verifierOutput = 32 << 10
	// maxVerifiers bounds the files in the directory.
	maxVerifiers = 10
	// maxReason bounds, in bytes, what the kubelet is told.
	maxReason = 1 << 10
	// killDelay is how long a killed verifier's pipes may stay open.
	killDelay = time.Second
)

// Verifiers is the path of a directory whose executables are asked before an image is
// pulled, with containerd's arguments: -name, -digest and -stdin-media-type; standard
// input has the image's descriptor. All must exit with status 0. Empty means that all
// images may be used.
type Verifiers string

// Enabled reports whether there are verifiers to ask.
func (v Verifiers) Enabled() bool { return v != "" }

// Verify implements [Policy]. An image is refused too if a verifier cannot be run or
// takes too long, or if the directory is missing or can be changed by others.
func (v Verifiers) Verify(ctx context.Context, name string, image ocispec.Descriptor) error {
	if !v.Enabled() {
		return nil
	}
	entries, err := os.ReadDir(string(v))
	if err != nil {
		return fmt.Errorf("image verifiers: %w: %w", errdefs.ErrFailedPrecondition, err)
	}
	if len(entries) > maxVerifiers {
		return fmt.Errorf("image verifiers: %w: %s has %d files; at most %d are asked", errdefs.ErrFailedPrecondition, v, len(entries), maxVerifiers)
	}
	for _, entry := range entries { // sorted by name
		if err := v.ask(ctx, entry.Name(), name, image); err != nil {
			return err
		}
	}
	return nil
}

// ask runs one verifier.
func (v Verifiers) ask(ctx context.Context, verifier, name string, image ocispec.Descriptor) error {
	path := filepath.Join(string(v), verifier)
	if err := trust.Check(path, os.Geteuid()); err != nil {
		return fmt.Errorf("image verifier %s: %w: %w", verifier, errdefs.ErrFailedPrecondition, err)
	}
	descriptor, err := json.Marshal(image)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, verifierTimeout)
	defer cancel()
	stdout, stderr := &boundedBuffer{}, &boundedBuffer{}
	cmd := exec.CommandContext(ctx, path, "-name", name, "-digest", image.Digest.String(), "-stdin-media-type", ocispec.MediaTypeDescriptor) //nolint:gosec // the operator's programs
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(descriptor), stdout, stderr
	err = runGroup(cmd)
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // it has exited well, and a child outside its group holds a pipe
	}
	klog.FromContext(ctx).V(2).Info("Image verifier", "verifier", verifier, "image", name, "digest", image.Digest.String(), "err", err, "stdout", stdout.text(), "stderr", stderr.text())
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		err = fmt.Errorf("no answer: %w", cause)
	}
	return refusal(verifier, stdout.text(), err)
}

// runGroup runs a program and kills what it leaves in its process group, whether it
// exits or is cancelled: children would hold its pipes and stay on the node.
func runGroup(cmd *exec.Cmd) error {
	kill := func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel, cmd.WaitDelay = kill, killDelay
	if err := cmd.Start(); err != nil {
		return err
	}
	// The process stays a zombie until Wait, so the group's number is not another's.
	for errors.Is(unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil), unix.EINTR) {
	}
	_ = kill()
	return cmd.Wait()
}

// refusal is the error for an image that a verifier has not accepted. The deadline in
// it is the verifier's and not the caller's, so it keeps no class.
func refusal(verifier, reason string, err error) error {
	if reason == "" {
		return fmt.Errorf("image verifier %s: %v", verifier, err) //nolint:errorlint // see above
	}
	return fmt.Errorf("image verifier %s: %v: %s", verifier, err, reason) //nolint:errorlint // see above
}

// boundedBuffer keeps the beginning of what is written.
type boundedBuffer struct{ kept []byte }

// Write implements [io.Writer]. It never fails.
func (b *boundedBuffer) Write(p []byte) (int, error) {
	b.kept = append(b.kept, p[:min(len(p), verifierOutput-len(b.kept))]...)
	return len(p), nil
}

// text returns the beginning as one line of valid text.
func (b *boundedBuffer) text() string {
	text := strings.ToValidUTF8(string(b.kept[:min(len(b.kept), maxReason)]), "?")
	return strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' }), " ")
}
