package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/cridock/cridock/cmd/cribench/internal/bench"
	"github.com/cridock/cridock/cmd/cribench/internal/progress"
	"github.com/cridock/cridock/cmd/cribench/internal/report"
	"github.com/cridock/cridock/cmd/cribench/internal/result"
	"github.com/cridock/cridock/cmd/cribench/internal/target"
)

// cleanTimeout bounds the removal of a run's pods.
const cleanTimeout = 5 * time.Minute

// cpuBurst is long compared to the CPU clock's hundredths of a second.
const cpuBurst = 2 * time.Second

// runOptions are the flags of cribench run.
type runOptions struct {
	targetFlags
	config       bench.Config
	workloads    []string
	cgroupParent string
	sandboxImage string
	logDir       string
	output       string
	baseline     string
	notes        []string
}

func newRun() *cobra.Command {
	o := &runOptions{}
	cmd := &cobra.Command{
		Use:   "run --target NAME=unix:///PATH ... --image IMAGE -o DIR",
		Short: "Measure runtimes and write a report",
		Long: `Measures runtimes in turn, prints a table and writes results.json, index.html and
plots to a directory. It needs root and the host's PID namespace to see the
runtimes' processes. An interrupt removes all pods and keeps the results so far.`,
		Example: `  cribench run --target cridock=unix:///run/cridock/cridock.sock --backend cridock=unix:///var/run/docker.sock \
    --target containerd=unix:///run/containerd/containerd.sock --docker unix:///var/run/docker.sock \
    --image busybox:1.36 -o report/`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.run(cmd.Context(), cmd.Flags(), cmd.OutOrStdout())
		},
	}
	o.addFlags(cmd.Flags())
	return cmd
}

func (o *runOptions) addFlags(fs *pflag.FlagSet) {
	o.add(fs)
	o.addProcesses(fs)
	o.addPodFlags(fs)
	c := &o.config
	fs.StringSliceVar(&c.PullImages, "pull-image", nil, "images for measuring pulls, all at once, ideally from a local registry; no target may have them")
	fs.StringSliceVar(&o.workloads, "workloads", names(bench.Workloads), "what to measure")
	fs.IntVar(&c.Rounds, "rounds", 20, "number of turns of each target")
	fs.IntVar(&c.Execs, "execs", 100, "number of commands to run in a container of each target")
	fs.IntSliceVar(&c.Parallel, "parallel", []int{1, 2, 4, 8}, "numbers of pods to start at a time")
	fs.IntSliceVar(&c.Levels, "containers", []int{10, 50, 110, 220}, "numbers of containers for reads, CPU time and memory")
	fs.IntVar(&c.ContainersPerPod, "containers-per-pod", 2, "number of containers in each of these pods")
	fs.IntVar(&c.Reads, "reads", 50, "number of reads of each list and status at each number of containers")
	fs.DurationVar(&c.Rest, "rest", 10*time.Second, "how long to measure CPU time at rest")
	fs.DurationVar(&c.Load, "load", 30*time.Second, "how long to load each target as a node with probes")
	fs.DurationVar(&c.Relist, "relist", time.Second, "period of both lists on that node: the kubelet's is 1s, or 5m with an evented PLEG")
	fs.IntVar(&c.Probes, "probes", 3, "number of exec probes in each pod of that node")
	fs.DurationVar(&c.ProbePeriod, "probe-period", 10*time.Second, "period of each probe")
	fs.IntVar(&c.Lines, "log-lines", 100000, "number of lines for log throughput")
	fs.StringVar(&o.sandboxImage, "docker-sandbox-image", "", "sandbox image for --docker (default: --image)")
	fs.StringVar(&o.baseline, "baseline", "", "target that the others are compared to (default: the first)")
	fs.StringArrayVar(&o.notes, "note", nil, "a note for the report's readers; repeat it for more")
}

// addPodFlags adds the flags for everything that makes pods.
func (o *runOptions) addPodFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.config.Image, "image", "", "image with a shell, echo, sleep, yes and head, such as busybox; pulled if missing")
	fs.DurationVar(&o.config.Timeout, "timeout", 2*time.Minute, "time limit of one measurement")
	fs.StringVar(&o.cgroupParent, "cgroup-parent", "", "cgroup of the pods (default: the runtimes' own)")
	fs.StringVar(&o.logDir, "log-dir", os.TempDir(), "directory for pod logs; the runtimes must see it under the same path")
	fs.StringVarP(&o.output, "output", "o", "cribench-report", "directory for the report")
}

func names(workloads []bench.Workload) []string {
	out := make([]string, len(workloads))
	for i, w := range workloads {
		out[i] = string(w)
	}
	return out
}

// settings returns the values of all flags, for the document.
func settings(fs *pflag.FlagSet) map[string]string {
	all := map[string]string{}
	fs.VisitAll(func(f *pflag.Flag) {
		if f.Name != "help" {
			all[f.Name] = f.Value.String()
		}
	})
	return all
}

// complete sets the parts of the configuration that have no flags, and validates it.
func (o *runOptions) complete() error {
	for _, w := range o.workloads {
		o.config.Workloads = append(o.config.Workloads, bench.Workload(w))
	}
	o.config.Shell = []string{"sh", "-c"}
	// The shell is process 1 of the container, which gets only signals that it
	// handles; and it handles one at once only in wait, not while a child runs in
	// the foreground.
	o.config.Command = []string{"sh", "-c", "trap 'exit 0' TERM; echo ready; while :; do sleep 3600 & wait $!; done"}
	o.config.Burst = cpuBurst
	o.config.Run = strconv.FormatInt(time.Now().UnixMilli(), 36)
	return o.config.Validate()
}

func (o *runOptions) run(ctx context.Context, fs *pflag.FlagSet, stdout io.Writer) (err error) {
	if err := o.complete(); err != nil {
		return err
	}
	removeLogs, err := o.makeLogs()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, removeLogs()) }()
	subjects, err := o.open(
		target.Options{Run: o.config.Run, Image: o.config.Image, CgroupParent: o.cgroupParent},
		o.dockerSandbox())
	defer func() { err = errors.Join(err, closeAll(subjects)) }()
	if err != nil {
		return err
	}
	doc := &result.Document{
		Schema: result.Schema, Run: o.config.Run, Started: time.Now(), Machine: result.ThisMachine(), Settings: settings(fs),
		Notes: o.notes,
	}
	if err := describe(ctx, doc, subjects); err != nil {
		return err
	}
	if o.baseline == "" {
		o.baseline = doc.Targets[0].Name
	}
	if !slices.Contains(doc.Names(), o.baseline) {
		return fmt.Errorf("baseline %q: no such target", o.baseline)
	}
	measured := o.measure(ctx, doc, subjects)
	if len(doc.Series) == 0 {
		return measured
	}
	return errors.Join(measured, o.write(doc, stdout))
}

// makeLogs makes a directory for the logs of pods.
func (o *runOptions) makeLogs() (remove func() error, err error) {
	o.config.LogRoot, err = os.MkdirTemp(o.logDir, "cribench-")
	return func() error { return os.RemoveAll(o.config.LogRoot) }, err
}

func (o *runOptions) dockerSandbox() target.DockerSandbox {
	if o.sandboxImage != "" {
		return target.DockerSandbox{Image: o.sandboxImage}
	}
	return target.DockerSandbox{Image: o.config.Image, Command: o.config.Command}
}

// measure runs the workloads and always removes what is left of them.
func (o *runOptions) measure(ctx context.Context, doc *result.Document, subjects []bench.Subject) (err error) {
	defer func() { err = errors.Join(err, cleanAll(ctx, subjects, o.config.Run)) }()
	defer func() { doc.Finished, doc.Machine.LoadAfter = time.Now(), result.Load() }()
	runner := bench.New(o.config, subjects, doc, progress.New(os.Stderr))
	if err := runner.WarmUp(ctx); err != nil {
		return err
	}
	return runner.Run(ctx)
}

// cleanAll removes the pods of a run, or of all runs if run is empty, even if ctx has
// ended.
func cleanAll(ctx context.Context, subjects []bench.Subject, run string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTimeout)
	defer cancel()
	var errs []error
	for _, s := range subjects {
		n, err := s.Clean(ctx, run)
		if err != nil {
			errs = append(errs, fmt.Errorf("clean %s: %w", s.Name(), err))
		}
		if n > 0 {
			fmt.Fprintf(os.Stderr, "%s: removed %d leftovers\n", s.Name(), n)
		}
	}
	return errors.Join(errs...)
}

// write prints the table of a document and saves it.
func (o *runOptions) write(doc *result.Document, stdout io.Writer) error {
	if err := o.save(doc, stdout); err != nil {
		return err
	}
	return report.Table(stdout, doc, o.baseline)
}

// save writes a document and its report, and prints where they are.
func (o *runOptions) save(doc *result.Document, stdout io.Writer) error {
	if err := os.MkdirAll(o.output, 0o755); err != nil {
		return err
	}
	if err := doc.Write(filepath.Join(o.output, "results.json")); err != nil {
		return err
	}
	if err := report.WriteAll(o.output, doc, o.baseline); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "report: %s\n\n", filepath.Join(o.output, "index.html"))
	return nil
}

// describe adds the targets' descriptions and processes to the document.
func describe(ctx context.Context, doc *result.Document, subjects []bench.Subject) error {
	for _, s := range subjects {
		t, err := s.Describe(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", s.Name(), err)
		}
		if found, err := s.Processes.Find(); err == nil { // measuring them reports the error
			counts := map[string]int{}
			for _, p := range found {
				counts[p.Name]++
			}
			for _, name := range slices.Sorted(maps.Keys(counts)) {
				if counts[name] > 1 {
					name = fmt.Sprintf("%s ×%d", name, counts[name])
				}
				t.Processes = append(t.Processes, name)
			}
		}
		doc.Targets = append(doc.Targets, t)
	}
	return nil
}
