package engine

import (
	"context"
	"io"
	"net"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/registry"
)

// Containers are the calls on containers. IDs are full 64-digit container IDs:
// Docker takes a shorter string for a name or a prefix, which may be somebody
// else's container.
type Containers interface {
	// ContainerCreate creates a container and returns its ID.
	// errdefs.ErrConflict: the name is taken. errdefs.ErrNotFound: no such image.
	ContainerCreate(ctx context.Context, name string, cfg *container.Config, host *container.HostConfig, net *network.NetworkingConfig) (string, error)
	// ContainerStart starts a container; an already running one is success.
	ContainerStart(ctx context.Context, id string) error
	// ContainerRestore starts a container with the processes that CRIU has written to
	// the directory checkpoints/checkpoint among the daemon's files of the container. It
	// needs an experimental daemon. It is bounded by ctx only.
	ContainerRestore(ctx context.Context, id, checkpoint string) error
	// ContainerKill sends a signal ("SIGTERM"). errdefs.ErrConflict: not running.
	ContainerKill(ctx context.Context, id, signal string) error
	// ContainerPause freezes a running container's processes, ContainerUnpause
	// resumes them. errdefs.ErrConflict: already frozen, or not running;
	// errdefs.ErrInternal: not frozen.
	ContainerPause(ctx context.Context, id string) error
	ContainerUnpause(ctx context.Context, id string) error
	// ContainerCheckpoint has CRIU write the state of a container's processes to
	// dir/name, a new directory that the daemon creates; the container stays running
	// or paused as it was. It needs an experimental daemon. It is bounded by ctx
	// only, and the daemon continues after ctx has ended.
	ContainerCheckpoint(ctx context.Context, id, dir, name string) error
	// ContainerRemove kills and removes a container and its anonymous volumes.
	ContainerRemove(ctx context.Context, id string) error
	ContainerInspect(ctx context.Context, id string) (container.InspectResponse, error)
	// ContainerList lists containers in every state that match the filters.
	ContainerList(ctx context.Context, f filters.Args) ([]container.Summary, error)
	// ContainerWait returns when the container is not running; bounded by ctx only.
	ContainerWait(ctx context.Context, id string) error
	// ContainerStats takes one reading of a running container's usage. It is the
	// call here that costs the daemon most. errdefs.ErrNotFound: not running.
	ContainerStats(ctx context.Context, id string) (container.StatsResponse, error)
	ContainerUpdate(ctx context.Context, id string, update container.UpdateConfig) error
	ContainerResize(ctx context.Context, id string, height, width uint) error
	// ContainerAttach opens a stream to the container's main process. With TTY
	// the stream is raw, otherwise multiplexed as pkg/stdcopy describes.
	// The stream is closed when ctx ends.
	ContainerAttach(ctx context.Context, id string, o AttachOptions) (*Stream, error)
	// ContainerLogs reads the log from since on, each record preceded by its
	// timestamp, and follows it if follow is set. The reader is closed when ctx ends.
	ContainerLogs(ctx context.Context, id string, since time.Time, follow bool) (io.ReadCloser, error)
	// ContainerFile reads one regular file of the container's file system, at
	// most limit bytes, and follows symbolic links inside it. A dangling link is
	// ErrInvalidArgument: its meaning once mounts are in place is unknown. It also
	// works on containers that were never started.
	ContainerFile(ctx context.Context, id, path string, limit int64) ([]byte, error)
}

// AttachOptions say which streams of a container to attach.
type AttachOptions struct {
	Stdin, Stdout, Stderr bool
}

// Execs are the calls that run further processes in a container.
type Execs interface {
	// ExecCreate prepares a process. errdefs.ErrConflict: the container is not
	// running; errdefs.ErrNotFound: there is no such container.
	ExecCreate(ctx context.Context, containerID string, o container.ExecOptions) (execID string, err error)
	// ExecStart starts it and opens its streams: raw with TTY, otherwise
	// multiplexed. size (height, width; zeros for none) is the initial terminal
	// size, used since API 1.42. The stream is closed when ctx ends.
	ExecStart(ctx context.Context, execID string, tty bool, size [2]uint) (*Stream, error)
	ExecResize(ctx context.Context, execID string, height, width uint) error
	// ExecInspect returns whether the process runs, its exit code and its host PID.
	ExecInspect(ctx context.Context, execID string) (container.ExecInspect, error)
}

// Stream is a hijacked connection to a process: reads return the process's
// output, writes go to its standard input. It is closed when the context that
// opened it ends.
type Stream struct {
	io.Reader
	conn net.Conn
}

// Write sends bytes to the process's standard input.
func (s *Stream) Write(p []byte) (int, error) { return s.conn.Write(p) }

// CloseWrite ends the process's standard input and leaves its output open.
func (s *Stream) CloseWrite() error {
	if c, ok := s.conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}

// Close closes both directions. It may be called more than once.
func (s *Stream) Close() error { return s.conn.Close() }

// Images are the calls on images.
type Images interface {
	// ImageList lists all images except intermediate build layers.
	ImageList(ctx context.Context) ([]image.Summary, error)
	// ImageInspect takes an ID or any reference.
	ImageInspect(ctx context.Context, ref string) (image.InspectResponse, error)
	ImageHistory(ctx context.Context, ref string) ([]image.HistoryResponseItem, error)
	// ImagePull returns the stream of progress messages (pkg/jsonmessage). The
	// pull has succeeded when the stream ends without an error message; closing
	// the stream or ending ctx cancels it.
	ImagePull(ctx context.Context, ref string, auth registry.AuthConfig) (io.ReadCloser, error)
	// ImageTag gives an image a tag, which another image may have until then.
	ImageTag(ctx context.Context, image, ref string) error
	// DistributionInspect asks the registry of a reference for the image's descriptor.
	DistributionInspect(ctx context.Context, ref string, auth registry.AuthConfig) (registry.DistributionInspect, error)
	// ImageRemove removes one reference, and the image with its last. With force
	// an ID is removed with all its references.
	ImageRemove(ctx context.Context, ref string, force bool) error
	// ImageLoad loads an archive in the format of "docker save".
	ImageLoad(ctx context.Context, archive io.Reader) error
}

// Events is the daemon's event stream.
type Events interface {
	// Events delivers until ctx ends or the connection breaks; then exactly one
	// error arrives on the second channel. Read the first channel without
	// delay: dockerd drops events for a slow reader.
	Events(ctx context.Context, f filters.Args) (<-chan events.Message, <-chan error)
}

// System are the calls about the daemon itself.
type System interface {
	// Ping is the cheapest proof that the daemon answers.
	Ping(ctx context.Context) error
	// Refresh rereads version and info, negotiates the API version and replaces
	// what Capabilities returns. Call it at start and after every reconnect: the
	// daemon may have been replaced.
	Refresh(ctx context.Context) (*Capabilities, error)
	// Capabilities returns those of the last Refresh; nil before the first.
	Capabilities() *Capabilities
}

var (
	_ Containers = (*Client)(nil)
	_ Execs      = (*Client)(nil)
	_ Images     = (*Client)(nil)
	_ Events     = (*Client)(nil)
	_ System     = (*Client)(nil)
)
