package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/shim/logs"
	"github.com/cridock/cridock/translate"
)

// drainTimeout bounds the wait for a log before its container is removed.
const drainTimeout = 10 * time.Second

// Docker's log drivers of the containers made here. Those of adopted ones may
// have others, whose logs Docker gives out through its API.
const (
	fileLog = "json-file"
	noLog   = "none"
)

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
	if s.cfg.SymlinkLogs {
		return nil, fmt.Errorf("log of container %s is a link to Docker's own file: %w; Docker rotates it", c.ID, errdefs.ErrFailedPrecondition)
	}
	return &runtimeapi.ReopenContainerLogResponse{}, s.logs.Reopen(ctx, c.ID)
}

// followLog begins to write the CRI log of a container, or links to Docker's
// file where that was chosen. Either way takes over what the other has left, or
// another adapter. It is idempotent.
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

// logged tells whether a container has a log. Adopted ones may have been run
// with a driver that keeps none.
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
		// Its log may be of any size, and has to be written once more.
		source.Backlog = s.logBacklog()
	}
	return source, nil
}

// logBacklog is as much as Docker keeps in one file of a container of ours.
func (s *Service) logBacklog() int64 {
	size, err := units.FromHumanSize(s.cfg.LogMaxSize)
	if err != nil {
		return 0
	}
	return size
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
	if !logged(c) || c.StartFailed {
		return nil
	}
	source, err := s.logSource(c)
	if err != nil {
		return err
	}
	// A link, by choice or because it exited before it was adopted, is complete. A
	// file that was begun is written to its end, whatever is chosen now.
	if linked, err := logs.IsSymlink(source.CRIRoot, source.CRILog); err != nil || linked {
		return err
	}
	if err := s.logs.Start(source); err != nil {
		return err
	}
	return s.logs.Drain(ctx, c.ID)
}

// resumeLogs goes on with the logs of containers that an earlier process, of
// ours or another adapter's, has left running.
func (s *Service) resumeLogs(ctx context.Context) error {
	containers, err := s.index.Containers(ctx)
	if err != nil {
		return err
	}
	for _, c := range containers {
		if c.Config == nil && c.LogPath == "" && c.LogDriver != noLog {
			klog.FromContext(ctx).Info("Log of an adopted container is not written: its path is not below pod-logs-dir, or may be its image's choice",
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

// positionFile holds how far a container's log has been converted.
func (s *Service) positionFile(containerID string) string {
	return s.state().Path(positionName(containerID))
}

const positionsDir = "logs"

func positionName(containerID string) string {
	return filepath.Join(positionsDir, shortHash(containerID))
}

// collectPositions removes the log positions of containers that were removed
// while nobody looked. A container is in the index before it has one.
func (s *Service) collectPositions(ctx context.Context) error {
	files, err := s.state().Names(positionsDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	containers, err := s.index.Containers(ctx)
	if err != nil {
		return err
	}
	live := make(map[string]bool, len(containers))
	for _, c := range containers {
		live[positionName(c.ID)] = true
	}
	for _, file := range files {
		if name := filepath.Join(positionsDir, file); !live[name] {
			err = errors.Join(err, s.state().Remove(name))
		}
	}
	return err
}
