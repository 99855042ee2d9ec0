package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/shim/logs"
	"github.com/cridock/cridock/translate"
)

// drainTimeout bounds the wait for a log before its container is removed.
const drainTimeout = 10 * time.Second

// ReopenContainerLog opens the log file anew after the kubelet has renamed it.
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
	if linked, err := s.linked(c); err != nil {
		return nil, err
	} else if linked {
		return nil, fmt.Errorf("log of container %s is a link to Docker's own file: %w; Docker rotates it", c.ID, errdefs.ErrFailedPrecondition)
	}
	return &runtimeapi.ReopenContainerLogResponse{}, s.logs.Reopen(ctx, c.ID)
}

// followLog begins to write the CRI log of a container, or links to Docker's
// file where that was chosen. It is idempotent.
func (s *Service) followLog(c *translate.Container) error {
	if c.LogPath == "" {
		return nil
	}
	linked, err := s.linked(c)
	if err != nil {
		return err
	}
	if linked {
		return logs.Symlink(s.dockerLog(c), c.LogPath)
	}
	return s.logs.Start(s.logSource(c))
}

// linked tells whether a container's CRI log is a link to Docker's file: by
// choice, or because an earlier adapter made it so.
func (s *Service) linked(c *translate.Container) (bool, error) {
	if s.cfg.SymlinkLogs {
		return true, nil
	}
	return logs.IsSymlink(c.LogPath)
}

func (s *Service) logSource(c *translate.Container) logs.Source {
	return logs.Source{
		ID: c.ID, DockerLog: s.dockerLog(c), CRILog: c.LogPath, Position: s.positionFile(c.ID), TTY: c.TTY,
		Follow: func(ctx context.Context, since time.Time) (io.ReadCloser, error) {
			return s.engine.ContainerLogs(ctx, c.ID, since, true)
		},
	}
}

// dockerLog is where Docker keeps a container's log. Docker names it only once
// the container has been started.
func (s *Service) dockerLog(c *translate.Container) string {
	if c.DockerLogPath != "" {
		return c.DockerLogPath
	}
	caps := s.engine.Capabilities()
	return filepath.Join(caps.RootDir, "containers", c.ID, c.ID+"-json.log")
}

// exited makes the log of a container complete before its exit becomes visible.
func (s *Service) exited(ctx context.Context, c *translate.Container) {
	if err := s.drainLog(ctx, c); err != nil {
		klog.FromContext(ctx).Error(err, "Log of an exited container is not complete", "containerID", c.ID)
	}
}

// drainAgain gives a log that was not complete in time a last chance. One that
// was is left alone: the kubelet may have removed it by now.
func (s *Service) drainAgain(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	if err := ignoreNotFound(s.logs.Drain(ctx, id)); err != nil {
		klog.FromContext(ctx).Error(err, "Log of a removed container is not complete", "containerID", id)
	}
}

// drainLog returns when all that an exited container has printed is in its CRI
// log. It is idempotent.
func (s *Service) drainLog(ctx context.Context, c *translate.Container) error {
	if c.LogPath == "" || c.StartFailed {
		return nil
	}
	if linked, err := s.linked(c); err != nil || linked {
		return err
	}
	if err := s.logs.Start(s.logSource(c)); err != nil {
		return err
	}
	return s.logs.Drain(ctx, c.ID)
}

// resumeLogs goes on with the logs of containers that an earlier process of
// ours has left running.
func (s *Service) resumeLogs(ctx context.Context) error {
	containers, err := s.index.Containers(ctx)
	if err != nil {
		return err
	}
	for _, c := range containers {
		if c.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			if e := s.followLog(c); e != nil {
				err = errors.Join(err, fmt.Errorf("container %s: %w", c.ID, e))
			}
		}
	}
	return err
}
