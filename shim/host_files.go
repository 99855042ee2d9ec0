package shim

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/internal/beneath"
	"github.com/cridock/cridock/translate"
)

// podLogsDir is the kubelet's default.
const podLogsDir = "/var/log/pods"

// podLogs is the directory of all pods' logs. A pod can write to it through a
// hostPath volume of it, or of a part of it.
func (s *Service) podLogs() beneath.Root { return beneath.Root(s.cfg.PodLogsDir) }

// logFile returns where a container's CRI log is: its name relative to root, below
// which nothing is trusted. root is the pods' log directory, or else the
// log_directory that the client requested for the sandbox. A log elsewhere, which
// only other adapters' labels can name, is errdefs.ErrFailedPrecondition.
func (s *Service) logFile(c *translate.Container) (root beneath.Root, name string, err error) {
	if name, ok := s.podLogs().Rel(c.LogPath); ok {
		return s.podLogs(), name, nil
	}
	if c.Config != nil {
		name := filepath.Clean(c.Config.GetLogPath())
		dir, ok := strings.CutSuffix(c.LogPath, "/"+name)
		if ok && filepath.IsLocal(name) && (dir == "" || filepath.IsAbs(dir)) {
			return beneath.Root(cmp.Or(dir, "/")), name, nil
		}
	}
	return "", "", fmt.Errorf("log path %q of container %s: %w: not below the pods' log directory %s; see pod-logs-dir", c.LogPath, c.ID, errdefs.ErrFailedPrecondition, s.cfg.PodLogsDir)
}

// makeLogDir creates a sandbox's log_directory. A refused one does not fail the
// sandbox, as no other runtime checks the log directory of a sandbox: instead the
// containers with logs there fail to start, and their errors say why.
func (s *Service) makeLogDir(ctx context.Context, cfg *runtimeapi.PodSandboxConfig) error {
	if cfg.GetLogDirectory() == "" {
		return nil
	}
	path := filepath.Clean(cfg.GetLogDirectory())
	name, ok := s.podLogs().Rel(path)
	if !ok {
		return os.MkdirAll(path, 0o755) //nolint:gosec // the kubelet names it, and makes such directories like this
	}
	err := s.podLogs().MkdirAll(name, 0o755)
	if beneath.IsRefused(err) {
		klog.FromContext(ctx).Error(err, "Refused to create the log directory of a pod; containers with logs there cannot start", "pod", translate.PodName(cfg.GetMetadata()))
		return nil
	}
	return err
}
