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

// state is the root directory; names in it come from IDs and hashes alone.
func (s *Service) state() beneath.Root { return beneath.Root(s.cfg.RootDir) }

// podLogs is the directory of all pods' logs. Pods with a hostPath volume of it,
// or of their part of it, write there.
func (s *Service) podLogs() beneath.Root { return beneath.Root(s.cfg.PodLogsDir) }

// logFile is where a container's CRI log is: its name in a directory below which
// nothing is trusted. That is the pods' log directory, or else the log_directory
// that the client has asked for with the sandbox. A log elsewhere, which only
// other adapters' labels can name, is errdefs.ErrFailedPrecondition.
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

// makeLogDir makes a sandbox's log_directory. One that is refused does not fail
// the sandbox, whose log directory no other runtime looks at: the containers that
// have logs there are not started, and their errors say why.
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
		klog.FromContext(ctx).Error(err, "Log directory of a pod is not made, and its containers cannot start", "pod", podName(cfg.GetMetadata()))
		return nil
	}
	return err
}
