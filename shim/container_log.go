package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/shim/logs"
	"github.com/cridock/cridock/shim/state"
	"github.com/cridock/cridock/translate"
)

// drainTimeout bounds the wait for a log before its container is removed.
const drainTimeout = 10 * time.Second

// The Docker log drivers of containers created here. Adopted containers may have
// others, whose logs are read through Docker's API.
const (
	fileLog = "json-file"
	noLog   = "none"
)

// ReopenContainerLog reopens the log file after the kubelet has renamed it.
// Only a running container's log can be reopened.
func (s *Service) ReopenContainerLog(ctx context.Context, r *runtimeapi.ReopenContainerLogRequest) (*runtimeapi.ReopenContainerLogResponse, error) {
	c, err := s.index.Container(ctx, r.GetContainerId())
	if err != nil {
		return nil, err
	}
	if c.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return nil, fmt.Errorf("container %s is not running: %w", c.ID, errdefs.ErrFailedPrecondition)
	}
	if c.LogPath == "" {
		return nil, fmt.Errorf("container %s has no log: %w", c.ID, errdefs.ErrFailedPrecondition)
	}
	if s.cfg.SymlinkLogs {
		return nil, fmt.Errorf("log of container %s is a link to Docker's own file: %w; Docker rotates it", c.ID, errdefs.ErrFailedPrecondition)
	}
	return &runtimeapi.ReopenContainerLogResponse{}, s.logs.Reopen(ctx, c.ID)
}

// followLog starts writing the CRI log of a container or, in symlink mode, links
// it to Docker's file. Either way takes over what the other mode or another
// adapter has left. It is idempotent.
func (s *Service) followLog(c *translate.Container) error {
	if !logged(c) {
		return nil
	}
	source, err := s.logSource(c)
	if err != nil {
		return err
	}
	if s.cfg.SymlinkLogs && c.LogDriver == fileLog {
		return logs.Symlink(source.DockerLog, source.CRIRoot, source.CRILog)
	}
	return s.logs.Start(source)
}

// logged reports whether a container has a log. An adopted container may use a
// driver that keeps none.
func logged(c *translate.Container) bool {
	return c.LogPath != "" && c.LogDriver != noLog
}

func (s *Service) logSource(c *translate.Container) (logs.Source, error) {
	root, name, err := s.logFile(c)
	if err != nil {
		return logs.Source{}, err
	}
	source := logs.Source{
		ID: c.ID, CRIRoot: root, CRILog: name, Position: s.positionFile(c.ID), TTY: c.TTY,
		Follow: func(ctx context.Context, since time.Time) (io.ReadCloser, error) {
			return s.engine.ContainerLogs(ctx, c.ID, since, true)
		},
	}
	if c.LogDriver == fileLog {
		source.DockerLog = s.dockerLog(c)
	}
	if c.Config == nil {
		// An adopted container's log may have any size and must be converted anew.
		source.Backlog = s.logBacklog()
	}
	return source, nil
}

// logBacklog is the maximum size in bytes of one Docker log file of a container
// created here; 0 if the setting is invalid.
func (s *Service) logBacklog() int64 {
	size, err := units.FromHumanSize(s.cfg.LogMaxSize)
	if err != nil {
		return 0
	}
	return size
}

// dockerLog returns the path of Docker's log of a container. Docker reports the
// path only once the container has been started.
func (s *Service) dockerLog(c *translate.Container) string {
	if c.DockerLogPath != "" {
		return c.DockerLogPath
	}
	caps := s.engine.Capabilities()
	return filepath.Join(caps.RootDir, "containers", c.ID, c.ID+"-json.log")
}

// exited completes the log of a container before its exit becomes visible.
func (s *Service) exited(ctx context.Context, c *translate.Container) {
	if err := s.drainLog(ctx, c); err != nil {
		klog.FromContext(ctx).Error(err, "Log of an exited container is incomplete", "containerID", c.ID)
	}
}

// drainAgain tries once more to complete a log that was not complete in time. It
// leaves a complete log alone: the kubelet may have removed it by now.
func (s *Service) drainAgain(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	if err := ignoreNotFound(s.logs.Drain(ctx, id)); err != nil {
		klog.FromContext(ctx).Error(err, "Log of a removed container is incomplete", "containerID", id)
	}
}

// drainLog returns when all output of an exited container is in its CRI log. It is
// idempotent.
func (s *Service) drainLog(ctx context.Context, c *translate.Container) error {
	if !logged(c) || c.StartFailed {
		return nil
	}
	source, err := s.logSource(c)
	if err != nil {
		return err
	}
	// A link is complete: it is from symlink mode, or the container exited before it
	// was adopted. A file that was begun is completed, whatever the mode is now.
	if linked, err := logs.IsSymlink(source.CRIRoot, source.CRILog); err != nil || linked {
		return err
	}
	if err := s.logs.Start(source); err != nil {
		return err
	}
	return s.logs.Drain(ctx, c.ID)
}

// resumeLogs continues the logs of containers that an earlier process, of cridock
// or another adapter, has left running.
func (s *Service) resumeLogs(ctx context.Context) error {
	containers, err := s.index.Containers(ctx)
	if err != nil {
		return err
	}
	for _, c := range containers {
		if c.Config == nil && c.LogPath == "" && c.LogDriver != noLog {
			klog.FromContext(ctx).Info("Not writing the log of an adopted container: its path is not below pod-logs-dir, or may come from its image",
				"containerID", c.ID, "podLogsDir", s.cfg.PodLogsDir)
		}
		if c.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			if e := s.followLog(c); e != nil {
				err = errors.Join(err, fmt.Errorf("container %s: %w", c.ID, e))
			}
		}
	}
	return err
}

// positionFile returns the path of the file that records how far a container's log
// has been converted.
func (s *Service) positionFile(containerID string) string {
	return s.state.Container(containerID).Path(state.LogPosition)
}
