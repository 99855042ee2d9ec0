package target

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/cridock/cridock/cmd/cribench/internal/result"
)

// Labels of everything that a run makes.
const (
	// LabelMade is always "true".
	LabelMade = "cribench.made"
	// LabelRun is the name of the run.
	LabelRun = "cribench.run"
)

// ErrUnsupported is returned for calls that a target does not support.
var ErrUnsupported = errors.New("not supported by this target")

// Pod is a pod to be made. Its containers are numbered from 0.
type Pod struct {
	Name string
	// LogDir is the directory for the containers' logs.
	LogDir string
}

// Read is a read-only call about existing objects.
type Read string

// The reads. Lists ignore the IDs given to Target.Read.
const (
	ListContainers  Read = "list containers"
	ListSandboxes   Read = "list sandboxes"
	ContainerStatus Read = "container status"
	SandboxStatus   Read = "sandbox status"
	ContainerStats  Read = "list container stats"
	SandboxStats    Read = "list sandbox stats"
)

// Reads lists all reads, in the order of a report.
var Reads = []Read{ListContainers, ListSandboxes, ContainerStatus, SandboxStatus, ContainerStats, SandboxStats}

// Target runs pods. Its methods are safe for concurrent use; they block until done,
// and their errors name the call.
type Target interface {
	Name() string
	Describe(ctx context.Context) (result.Target, error)
	// Sockets returns the paths of the target's unix sockets.
	Sockets() []string

	// EnsureImage pulls an image unless the target has it.
	EnsureImage(ctx context.Context, image string) error
	HasImage(ctx context.Context, image string) (bool, error)
	PullImage(ctx context.Context, image string) error
	RemoveImage(ctx context.Context, image string) error

	RunSandbox(ctx context.Context, pod Pod) (id string, err error)
	CreateContainer(ctx context.Context, pod Pod, sandboxID string, number int, command []string) (id string, err error)
	StartContainer(ctx context.Context, id string) error
	StopContainer(ctx context.Context, id string) error
	RemoveContainer(ctx context.Context, id string) error
	StopSandbox(ctx context.Context, id string) error
	RemoveSandbox(ctx context.Context, id string) error

	// Exec runs a command in a container and returns its standard output. A failed
	// command is an error.
	Exec(ctx context.Context, id string, command []string) ([]byte, error)
	// OpenLog prepares to follow a container's log from its first line. Call it
	// before the container starts, so that it takes no time later.
	OpenLog(pod Pod, id string, number int) (Log, error)
	// Read makes one read and returns the number of objects in the answer.
	Read(ctx context.Context, read Read, sandboxID, containerID string) (int, error)

	// Clean removes what a run has made, or what all runs have made if run is
	// empty, and returns the number of pods. Objects already gone are not errors.
	Clean(ctx context.Context, run string) (int, error)
	Close() error
}

// Log is the log of one container.
type Log interface {
	// Wait blocks until the log has that many lines since the start.
	Wait(ctx context.Context, lines int) error
	Close() error
}

// Options are shared by all targets of a run.
type Options struct {
	Run          string
	Image        string
	CgroupParent string
}

func (o Options) labels() map[string]string {
	return map[string]string{LabelMade: "true", LabelRun: o.Run}
}

// selector returns the labels that select what to clean.
func selector(run string) map[string]string {
	s := map[string]string{LabelMade: "true"}
	if run != "" {
		s[LabelRun] = run
	}
	return s
}

// SocketPath returns the path of a unix:// endpoint.
func SocketPath(endpoint string) (string, error) {
	path, ok := strings.CutPrefix(endpoint, "unix://")
	if !ok || !strings.HasPrefix(path, "/") {
		return "", fmt.Errorf("endpoint %q: want unix:///path", endpoint)
	}
	return path, nil
}

func containerName(number int) string { return fmt.Sprintf("c%d", number) }
