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
	// LabelMade is "true" on all of it.
	LabelMade = "cribench.made"
	// LabelRun is the run's own name.
	LabelRun = "cribench.run"
)

// ErrUnsupported is returned for what a target cannot do at all.
var ErrUnsupported = errors.New("not supported by this target")

// Pod is a pod to be made. Its containers are numbered from 0.
type Pod struct {
	Name string
	// LogDir is where the runtime is to write the containers' logs.
	LogDir string
}

// Read is a read-only call over what is there.
type Read string

// The reads. Those of one object get the first ID of a kind.
const (
	ListContainers  Read = "list containers"
	ListSandboxes   Read = "list sandboxes"
	ContainerStatus Read = "container status"
	SandboxStatus   Read = "sandbox status"
	ContainerStats  Read = "list container stats"
	SandboxStats    Read = "list sandbox stats"
)

// Reads are all of them, in the order of a report.
var Reads = []Read{ListContainers, ListSandboxes, ContainerStatus, SandboxStatus, ContainerStats, SandboxStats}

// Target is something that runs pods. Its methods are safe for concurrent use;
// they block until done, and their errors name the call.
type Target interface {
	Name() string
	Describe(ctx context.Context) (result.Target, error)
	// Sockets are the paths of the unix sockets that it is reached by.
	Sockets() []string

	// EnsureImage pulls an image unless it is there.
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

	// Exec runs a command in a container and gives its standard output. A
	// command that fails is an error.
	Exec(ctx context.Context, id string, command []string) ([]byte, error)
	// OpenLog prepares to follow a container's log from its first line; called
	// before the start, no time is lost later.
	OpenLog(pod Pod, id string, number int) (Log, error)
	// Read makes one read and says how many objects the answer has.
	Read(ctx context.Context, read Read, sandboxID, containerID string) (int, error)

	// Clean removes what a run has made, of all runs if run is empty, and says
	// how many pods that was. What is gone already is no error.
	Clean(ctx context.Context, run string) (int, error)
	Close() error
}

// Log is the log of one container.
type Log interface {
	// Wait blocks until so many lines have been written since the start.
	Wait(ctx context.Context, lines int) error
	Close() error
}

// Options are what all targets of a run share.
type Options struct {
	Run          string
	Image        string
	CgroupParent string
}

func (o Options) labels() map[string]string {
	return map[string]string{LabelMade: "true", LabelRun: o.Run}
}

// selector are the labels to clean by.
func selector(run string) map[string]string {
	s := map[string]string{LabelMade: "true"}
	if run != "" {
		s[LabelRun] = run
	}
	return s
}

// SocketPath is the path of a unix:// endpoint.
func SocketPath(endpoint string) (string, error) {
	path, ok := strings.CutPrefix(endpoint, "unix://")
	if !ok || !strings.HasPrefix(path, "/") {
		return "", fmt.Errorf("endpoint %q: want unix:///path", endpoint)
	}
	return path, nil
}

func containerName(number int) string { return fmt.Sprintf("c%d", number) }
