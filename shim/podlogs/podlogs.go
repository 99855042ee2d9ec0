// Package podlogs connects the logs of containers with the files that the kubelet
// expects: where each is, when it is followed, and when it must be complete. It
// never copies a line itself: see package logs.
package podlogs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/internal/beneath"
	"github.com/cridock/cridock/shim/engine"
	"github.com/cridock/cridock/shim/logs"
	"github.com/cridock/cridock/translate"
)

const (
	// DefaultDir is the kubelet's directory of all pods' logs.
	DefaultDir = "/var/log/pods"
	// drainTimeout is the default of Options.DrainTimeout.
	drainTimeout = 10 * time.Second
)

// The Docker log drivers of containers created here. Adopted containers may have
// others, whose logs are read through Docker's API.
const (
	fileLog = "json-file"
	noLog   = "none"
)

// Engine is the part of Docker that logs need.
type Engine interface {
	Capabilities() *engine.Capabilities
	ContainerLogs(ctx context.Context, id string, since time.Time, follow bool) (io.ReadCloser, error)
}

// Options are what Logs work with.
type Options struct {
	// Dir is the directory of all pods' logs. A pod can write to it through a hostPath
	// volume of it, or of a part of it.
	Dir string
	// Symlinks links the CRI log path to Docker's file instead of writing the CRI
	// format.
	Symlinks bool
	// MaxSize bounds Docker's own log of each container created here, in the format
	// of its json-file driver ("100m").
	MaxSize string
	// Position returns the path of the file that records how far a container's log
	// has been converted.
	Position func(containerID string) string
	// DrainTimeout bounds the wait for a log before its container is removed; zero for
	// ten seconds.
	DrainTimeout time.Duration
	Engine       Engine
	// Containers lists the containers of Kubernetes.
	Containers func(ctx context.Context) ([]*translate.Container, error)
}

// Logs are the logs of all containers of a node.
type Logs struct {
	o      Options
	tailer *logs.Tailer
}

// New returns the logs of a node; it starts nothing.
func New(o Options) *Logs { return &Logs{o: o, tailer: logs.New(logs.Options{})} }

// Run writes the followed logs until ctx ends.
func (l *Logs) Run(ctx context.Context) error { return l.tailer.Run(ctx) }

// Stats describes the work of Run.
func (l *Logs) Stats() logs.Stats { return l.tailer.Stats() }

// dir is the directory of all pods' logs as a root that nothing leads out of.
func (l *Logs) dir() beneath.Root { return beneath.Root(l.o.Dir) }

// MakeDir creates a sandbox's log_directory. A refused one does not fail the
// sandbox, as no other runtime checks the log directory of a sandbox: instead the
// containers with logs there fail to start, and their errors say why.
func (l *Logs) MakeDir(ctx context.Context, cfg *runtimeapi.PodSandboxConfig) error {
	if cfg.GetLogDirectory() == "" {
		return nil
	}
	path := filepath.Clean(cfg.GetLogDirectory())
	name, ok := l.dir().Rel(path)
	if !ok {
		return os.MkdirAll(path, 0o755) //nolint:gosec // the kubelet names it, and makes such directories like this
	}
	err := l.dir().MkdirAll(name, 0o755)
	if beneath.IsRefused(err) {
		klog.FromContext(ctx).Error(err, "Refused to create the log directory of a pod; containers with logs there cannot start", "pod", translate.PodName(cfg.GetMetadata()))
		return nil
	}
	return err
}

// file returns where a container's CRI log is: its name relative to root, below
// which nothing is trusted. root is the pods' log directory, or else the
// log_directory that the client requested for the sandbox. A log elsewhere, which
// only other adapters' labels can name, is errdefs.ErrFailedPrecondition.
func (l *Logs) file(c *translate.Container) (root beneath.Root, name string, err error) {
	if name, ok := l.dir().Rel(c.LogPath); ok {
		return l.dir(), name, nil
	}
	if c.Config != nil {
		name := filepath.Clean(c.Config.GetLogPath())
		dir, ok := strings.CutSuffix(c.LogPath, "/"+name)
		if ok && filepath.IsLocal(name) && (dir == "" || filepath.IsAbs(dir)) {
			return beneath.Root(cmp.Or(dir, "/")), name, nil
		}
	}
	return "", "", fmt.Errorf("log path %q of container %s: %w: not below the pods' log directory %s; see pod-logs-dir", c.LogPath, c.ID, errdefs.ErrFailedPrecondition, l.o.Dir)
}

// logged reports whether a container has a log. An adopted container may use a
// driver that keeps none.
func logged(c *translate.Container) bool {
	return c.LogPath != "" && c.LogDriver != noLog
}

// Follow starts writing the CRI log of a container or, in symlink mode, links it to
// Docker's file. Either way takes over what the other mode or another adapter has
// left. The log file exists on return. It is idempotent.
func (l *Logs) Follow(c *translate.Container) error {
	if !logged(c) {
		return nil
	}
	source, err := l.source(c)
	if err != nil {
		return err
	}
	if l.o.Symlinks && c.LogDriver == fileLog {
		return logs.Symlink(source.DockerLog, source.CRIRoot, source.CRILog)
	}
	return l.tailer.Start(source)
}

// Begin has the CRI log of a container that has not been started begin with the lines
// of another container's; what are none in the CRI format is left out. In symlink mode,
// and for a container without a log, it does nothing.
func (l *Logs) Begin(c *translate.Container, content io.Reader) error {
	if !logged(c) || l.o.Symlinks {
		return nil
	}
	source, err := l.source(c)
	if err != nil {
		return err
	}
	return source.Begin(content)
}

// Discard removes the CRI log of a container that comes to nothing.
func (l *Logs) Discard(c *translate.Container) error {
	if !logged(c) {
		return nil
	}
	root, name, err := l.file(c)
	if err != nil {
		return err
	}
	return root.RemoveAll(name)
}

func (l *Logs) source(c *translate.Container) (logs.Source, error) {
	root, name, err := l.file(c)
	if err != nil {
		return logs.Source{}, err
	}
	source := logs.Source{
		ID: c.ID, CRIRoot: root, CRILog: name, Position: l.o.Position(c.ID), TTY: c.TTY,
		Follow: func(ctx context.Context, since time.Time) (io.ReadCloser, error) {
			return l.o.Engine.ContainerLogs(ctx, c.ID, since, true)
		},
	}
	if c.LogDriver == fileLog {
		source.DockerLog = l.dockerFile(c)
	}
	if c.Config == nil {
		// An adopted container's log may have any size and must be converted anew.
		source.Backlog = l.backlog()
	}
	return source, nil
}

// backlog is the maximum size in bytes of one Docker log file of a container
// created here; 0 if the setting is invalid.
func (l *Logs) backlog() int64 {
	size, err := units.FromHumanSize(l.o.MaxSize)
	if err != nil {
		return 0
	}
	return size
}

// dockerFile returns the path of Docker's log of a container. Docker reports the
// path only once the container has been started.
func (l *Logs) dockerFile(c *translate.Container) string {
	if c.DockerLogPath != "" {
		return c.DockerLogPath
	}
	return filepath.Join(l.o.Engine.Capabilities().RootDir, "containers", c.ID, c.ID+"-json.log")
}

// Reopen reopens the log file of a running container after the kubelet has renamed
// it. errdefs.ErrFailedPrecondition: there is no log here that could be reopened.
func (l *Logs) Reopen(ctx context.Context, c *translate.Container) error {
	if c.LogPath == "" {
		return fmt.Errorf("container %s has no log: %w", c.ID, errdefs.ErrFailedPrecondition)
	}
	if l.o.Symlinks {
		return fmt.Errorf("log of container %s is a link to Docker's own file: %w; Docker rotates it", c.ID, errdefs.ErrFailedPrecondition)
	}
	return l.tailer.Reopen(ctx, c.ID)
}

// Complete returns when all output of an exited container is in its CRI log, or it
// has logged why not. It is idempotent.
func (l *Logs) Complete(ctx context.Context, c *translate.Container) {
	if err := l.complete(ctx, c); err != nil {
		klog.FromContext(ctx).Error(err, "Log of an exited container is incomplete", "containerID", c.ID)
	}
}

func (l *Logs) complete(ctx context.Context, c *translate.Container) error {
	if !logged(c) || c.StartFailed {
		return nil
	}
	source, err := l.source(c)
	if err != nil {
		return err
	}
	// A link is complete: it is from symlink mode, or the container exited before it
	// was adopted. A file that was begun is completed, whatever the mode is now.
	if linked, err := logs.IsSymlink(source.CRIRoot, source.CRILog); err != nil || linked {
		return err
	}
	if err := l.tailer.Start(source); err != nil {
		return err
	}
	return l.tailer.Drain(ctx, c.ID)
}

// CompleteAgain tries once more to complete a log that was not complete in time,
// before its container is removed. It leaves a complete log alone: the kubelet may
// have removed it by now.
func (l *Logs) CompleteAgain(ctx context.Context, containerID string) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(l.o.DrainTimeout, drainTimeout))
	defer cancel()
	if err := l.tailer.Drain(ctx, containerID); err != nil && !errdefs.IsNotFound(err) {
		klog.FromContext(ctx).Error(err, "Log of a removed container is incomplete", "containerID", containerID)
	}
}

// Resume continues the logs of containers that an earlier process, of cridock or
// another adapter, has left running.
func (l *Logs) Resume(ctx context.Context) error {
	containers, err := l.o.Containers(ctx)
	if err != nil {
		return err
	}
	for _, c := range containers {
		if c.Config == nil && c.LogPath == "" && c.LogDriver != noLog {
			klog.FromContext(ctx).Info("Not writing the log of an adopted container: its path is not below pod-logs-dir, or may come from its image",
				"containerID", c.ID, "podLogsDir", l.o.Dir)
		}
		if c.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			if e := l.Follow(c); e != nil {
				err = errors.Join(err, fmt.Errorf("container %s: %w", c.ID, e))
			}
		}
	}
	return err
}

// Forget ends the work on a removed container's log. The log stays, as it is the
// kubelet's, unless it is only a link, whose target was removed with the container.
// It is idempotent.
func (l *Logs) Forget(c *translate.Container) error {
	return errors.Join(l.tailer.Remove(c.ID, l.o.Position(c.ID)), l.removeLink(c))
}

func (l *Logs) removeLink(c *translate.Container) error {
	if !logged(c) {
		return nil
	}
	root, name, err := l.file(c)
	if err != nil {
		return err
	}
	link, err := logs.IsSymlink(root, name)
	if err == nil && link {
		err = root.Remove(name)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Open opens a container's CRI log for reading; nil if there is none. In symlink
// mode it opens Docker's file by its own path rather than through the link.
func (l *Logs) Open(c *translate.Container) (*os.File, error) {
	if !logged(c) {
		return nil, nil
	}
	root, name, err := l.file(c)
	if err != nil {
		return nil, err
	}
	f, err := root.Open(name)
	if linked, lerr := logs.IsSymlink(root, name); lerr == nil && linked && c.LogDriver == fileLog {
		f, err = os.Open(l.dockerFile(c))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return f, err
}
