package bench

import (
	"fmt"
	"slices"
	"time"

	"github.com/cridock/cridock/cmd/cribench/internal/proc"
	"github.com/cridock/cridock/cmd/cribench/internal/target"
)

// Workload names a selectable group of measurements.
type Workload string

// The workloads, in the order in which they run.
const (
	Pods       Workload = "pods"       // start, stop and remove, one at a time and in parallel
	FirstLine  Workload = "first-line" // time from start to the first log line
	Exec       Workload = "exec"       // a command in a container
	Throughput Workload = "throughput" // many log lines
	Pull       Workload = "pull"       // an image from a registry
	Churn      Workload = "churn"      // whole lives of pods, without pauses
	Scale      Workload = "scale"      // reads, CPU time and memory by number of containers
	Node       Workload = "node"       // probes and lists on a node with the largest number of containers
)

// Workloads lists all workloads.
var Workloads = []Workload{Pods, FirstLine, Exec, Throughput, Pull, Churn, Scale, Node}

// Config defines what to measure. The zero value measures nothing.
type Config struct {
	Workloads []Workload
	// Rounds is the number of turns of each target.
	Rounds int
	// Execs is how many commands [Exec] runs at each target.
	Execs int
	// Parallel are the numbers of pods to start at a time.
	Parallel []int
	// Levels are the numbers of containers for [Scale], ascending; the last is also that
	// for [Node].
	Levels           []int
	ContainersPerPod int
	// Reads is how often each read is made at each level.
	Reads int
	// Rest is how long CPU time at rest is measured.
	Rest time.Duration
	// Burst is how long one read is repeated without pauses to measure its CPU
	// time, which the kernel reports in hundredths of a second.
	Burst time.Duration
	// Load is how long [Node] loads each target.
	Load time.Duration
	// Relist is how often that load makes both lists.
	Relist time.Duration
	// Probes is the number of exec probes in each pod, each with ProbePeriod.
	Probes      int
	ProbePeriod time.Duration
	// Lines is how many lines [Throughput] writes.
	Lines int
	// Command is what containers run until they are stopped. It must exit on
	// SIGTERM, and print a line as soon as it is ready to.
	Command []string
	// Shell is a command that runs the script given as its next argument.
	Shell []string
	Image string
	// PullImages are images that no target has, to be pulled at once; without any, [Pull]
	// is left out.
	PullImages []string
	// LogRoot is a directory for logs that all targets see under the same path.
	LogRoot string
	Run     string
	// Timeout bounds one sample.
	Timeout time.Duration
}

// Subject is a target with its processes.
type Subject struct {
	target.Target
	Processes proc.Set
}

func (c Config) has(w Workload) bool { return slices.Contains(c.Workloads, w) }

// Validate returns an error that says what is wrong with the configuration; nil if
// nothing is.
func (c Config) Validate() error {
	for _, w := range c.Workloads {
		if !slices.Contains(Workloads, w) {
			return fmt.Errorf("workload %q: want one of %v", w, Workloads)
		}
	}
	switch {
	case c.Image == "":
		return fmt.Errorf("no image: set one that has a shell")
	case c.Rounds < 1 || c.Execs < 1 || c.Reads < 1 || c.Lines < 1 || c.ContainersPerPod < 1:
		return fmt.Errorf("rounds, execs, reads, lines and containers per pod: want 1 or more")
	case c.has(Node) && (c.Probes < 1 || c.ProbePeriod <= 0 || c.Relist <= 0 || c.Load <= 0):
		return fmt.Errorf("probes, their period, the lists' and the time of the load: want more than 0")
	case slices.ContainsFunc(c.Parallel, func(n int) bool { return n < 1 }):
		return fmt.Errorf("parallel %v: want 1 or more", c.Parallel)
	case slices.ContainsFunc(c.Levels, func(n int) bool { return n < 1 }) || !slices.IsSorted(c.Levels):
		return fmt.Errorf("levels %v: want numbers of containers, ascending", c.Levels)
	}
	return nil
}
