package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/cridock/cridock/cmd/cribench/internal/bench"
	"github.com/cridock/cridock/cmd/cribench/internal/proc"
	"github.com/cridock/cridock/cmd/cribench/internal/progress"
	"github.com/cridock/cridock/cmd/cribench/internal/report"
	"github.com/cridock/cridock/cmd/cribench/internal/result"
	"github.com/cridock/cridock/cmd/cribench/internal/target"
	"github.com/cridock/cridock/cmd/cribench/internal/timeline"
	"github.com/cridock/cridock/internal/netns"
)

// traceOptions are the flags of cribench trace.
type traceOptions struct {
	runOptions
	target  string
	events  string
	collect string
	pods    int
}

func newTrace() *cobra.Command {
	o := &traceOptions{}
	cmd := &cobra.Command{
		Use:   "trace --target NAME=unix:///PATH --image IMAGE -o DIR",
		Short: "Show where the time of a pod start goes",
		Long: `Starts and removes pods one at a time, collects the spans that the runtime sends of
their starts, and draws a timeline of their medians. The runtime must send its traces
to the address of --collect, over OTLP on gRPC without TLS. The timeline is added to
the report of an earlier run in the same directory, or makes a report of its own.`,
		Example: `  cridock serve --tracing-endpoint 127.0.0.1:4317
  cribench trace --target cridock=unix:///run/cridock/cridock.sock --docker-events unix:///var/run/docker.sock --image busybox:1.36 -o report/`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.run(cmd.Context(), cmd.Flags(), cmd.OutOrStdout())
		},
	}
	o.addFlags(cmd.Flags())
	return cmd
}

func (o *traceOptions) addFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.target, "target", "", "NAME=unix:///PATH of a CRI socket")
	fs.StringVar(&o.events, "docker-events", "", "unix:///PATH of the target's Docker Engine, to show its events too")
	fs.StringVar(&o.collect, "collect", "127.0.0.1:4317", "address to receive spans on, in the target's network namespace")
	fs.IntVar(&o.pods, "pods", 30, "number of pods")
	o.addPodFlags(fs)
}

func (o *traceOptions) run(ctx context.Context, fs *pflag.FlagSet, stdout io.Writer) (err error) {
	if o.pods < 1 {
		return fmt.Errorf("pods: want 1 or more")
	}
	o.config.Rounds, o.config.Execs, o.config.Reads, o.config.Lines, o.config.ContainersPerPod = 1, 1, 1, 1, 1
	if err := o.complete(); err != nil {
		return err
	}
	removeLogs, err := o.makeLogs()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, removeLogs()) }()
	name, endpoint, err := pair("target", o.target)
	if err != nil {
		return err
	}
	c, err := target.NewCRI(name, endpoint, target.Options{Run: o.config.Run, Image: o.config.Image, CgroupParent: o.cgroupParent})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	subject := bench.Subject{Target: c, Processes: proc.Set{Sockets: c.Sockets()}}
	doc, err := o.document(ctx, fs, subject)
	if err != nil {
		return err
	}
	traced, err := o.trace(ctx, subject, c)
	if err != nil {
		return err
	}
	doc.SetTimeline(traced)
	if err := o.save(doc, stdout); err != nil {
		return err
	}
	return report.TimelineTable(stdout, traced)
}

// document returns that of an earlier run in the output directory, or a new one.
func (o *traceOptions) document(ctx context.Context, fs *pflag.FlagSet, s bench.Subject) (*result.Document, error) {
	doc, err := result.Read(filepath.Join(o.output, "results.json"))
	if errors.Is(err, os.ErrNotExist) {
		doc = &result.Document{
			Schema: result.Schema, Run: o.config.Run, Started: time.Now(), Machine: result.ThisMachine(), Settings: settings(fs),
		}
		err = describe(ctx, doc, []bench.Subject{s})
		doc.Finished = time.Now()
	}
	if err != nil {
		return nil, err
	}
	if o.baseline = doc.Settings["baseline"]; !slices.Contains(doc.Names(), o.baseline) {
		o.baseline = doc.Targets[0].Name
	}
	return doc, nil
}

// trace measures, and always removes what is left.
func (o *traceOptions) trace(ctx context.Context, s bench.Subject, c *target.CRI) (t result.Timeline, err error) {
	collector, err := o.listen(c)
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, collector.Close()) }()
	sources := map[string]bench.EventSource{"CRI": c}
	if o.events != "" {
		d, err := target.NewDocker(dockerName, o.events, target.DockerSandbox{}, target.Options{})
		if err != nil {
			return t, err
		}
		defer d.Close()
		sources["Docker"] = d
	}
	defer func() { err = errors.Join(err, cleanAll(ctx, []bench.Subject{s}, o.config.Run)) }()
	runner := bench.New(o.config, []bench.Subject{s}, nil, progress.New(os.Stderr))
	if err := runner.WarmUp(ctx); err != nil {
		return t, err
	}
	return runner.Trace(ctx, s, o.pods, collector, sources)
}

// listen starts a collector where the target can reach it.
func (o *traceOptions) listen(c *target.CRI) (*timeline.Collector, error) {
	pid, err := proc.Peer(c.Sockets()[0])
	if err != nil {
		return nil, err
	}
	var l net.Listener
	err = netns.DoAt(fmt.Sprintf("/proc/%d/ns/net", pid), func() (err error) {
		l, err = net.Listen("tcp", o.collect)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("collect: %w", err)
	}
	return timeline.Collect(l), nil
}
