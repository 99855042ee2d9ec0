package bench

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cridock/cridock/cmd/cribench/internal/proc"
	"github.com/cridock/cridock/cmd/cribench/internal/result"
	"github.com/cridock/cridock/cmd/cribench/internal/target"
)

// WorkloadNode is [Node] in a document. Its level is the number of containers. Its
// steps are those below, "CPU: NAME" for the processes of one name, "list: NAME" for
// the time of a list, and stepProbe for that of a probe.
const (
	WorkloadNode = "node with probes"
	// StepNodeCPU is the CPU time of all processes of a target.
	StepNodeCPU = "CPU: all processes"
	// StepProbe is the time of one probe.
	StepProbe = "probe (ExecSync)"
	// StepLate is how many of 100 probes began more than a period late, or not at all:
	// a runtime that is late does less work for its CPU time.
	StepLate = "late probes"
)

// statsPeriod is how often the kubelet reads all stats.
const statsPeriod = 10 * time.Second

// node loads each target in turn as a kubelet does on a full node: exec probes of each
// container, both lists every [Config.Relist], and all stats every ten seconds. It measures the CPU
// time of the target's processes, those that have come and gone included.
func (r *Runner) node(ctx context.Context, all []*filled, level int) error {
	r.progress.Stage(fmt.Sprintf("node of %d", level), len(all))
	for _, f := range all {
		if err := r.loadNode(ctx, f, level); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			r.doc.Fail(f.Name(), seconds(WorkloadNode, StepProbe, level), err)
		}
		r.progress.Step()
	}
	return nil
}

func (r *Runner) loadNode(ctx context.Context, f *filled, level int) error {
	before, err := f.Processes.Tree()
	if err != nil {
		before = nil // noteUnknown has noted it
	}
	began := time.Now()
	if err := r.nodeLoad(ctx, f, level); err != nil {
		return err
	}
	took := time.Since(began).Seconds()
	if before == nil {
		return nil
	}
	after, err := f.Processes.Tree()
	if err != nil {
		return err
	}
	key := result.Key{Workload: WorkloadNode, Step: StepNodeCPU, Level: level, Unit: result.CPUPerSecond}
	r.addCPU(f.Subject, key, "CPU: ", proc.SpentByName(before, after), took)
	return nil
}

func (r *Runner) addNode(f *filled, step string, level int, unit string, value float64) {
	r.doc.Add(f.Name(), result.Key{Workload: WorkloadNode, Step: step, Level: level, Unit: unit}, value)
}

// nodeLoad runs the load for the configured time.
func (r *Runner) nodeLoad(ctx context.Context, f *filled, level int) error {
	began := time.Now()
	end := began.Add(r.config.Load)
	record := r.record(f.Subject, WorkloadNode, level)
	load, ctx := errgroup.WithContext(ctx)
	for _, poll := range []struct {
		period time.Duration
		reads  []target.Read
	}{
		{r.config.Relist, []target.Read{target.ListSandboxes, target.ListContainers}},
		{statsPeriod, []target.Read{target.ContainerStats, target.SandboxStats}},
	} {
		load.Go(func() error {
			_, err := every(ctx, poll.period, began, end, func(ctx context.Context) error {
				for _, read := range poll.reads {
					err := timed(record, "list: "+string(read), func() error { return f.read(ctx, read) })
					if err != nil && !errors.Is(err, target.ErrUnsupported) {
						return err
					}
				}
				return nil
			})
			return err
		})
	}
	var due, late atomic.Int64
	for i, id := range f.probed(r.config.Probes) {
		load.Go(func() error {
			// The kubelet's probes are spread over their period too.
			first := began.Add(r.config.ProbePeriod * time.Duration(i) / time.Duration(len(f.pods)*r.config.Probes))
			p, err := every(ctx, r.config.ProbePeriod, first, end, func(ctx context.Context) error {
				return timed(record, StepProbe, func() error { return r.probe(ctx, f, id) })
			})
			due.Add(p.due)
			late.Add(p.late)
			return err
		})
	}
	if err := load.Wait(); err != nil {
		return err
	}
	if due.Load() > 0 {
		r.addNode(f, StepLate, level, result.Percent, 100*float64(late.Load())/float64(due.Load()))
	}
	return nil
}

// probed returns the container of each probe: those of a pod in turn.
func (f *filled) probed(probes int) []string {
	var ids []string
	for n := range probes {
		for _, p := range f.pods {
			ids = append(ids, p.containers[n%len(p.containers)])
		}
	}
	return ids
}

func (r *Runner) probe(ctx context.Context, f *filled, id string) error {
	ctx, cancel := context.WithTimeout(ctx, r.config.Timeout)
	defer cancel()
	_, err := f.Exec(ctx, id, []string{"echo", "ok"})
	return err
}

// punctuality is how many calls were due, and how many of them began more than a
// period late or not at all.
type punctuality struct{ due, late int64 }

// every calls f at first and then once a period until end, never twice at a time.
func every(ctx context.Context, period time.Duration, first, end time.Time, f func(context.Context) error) (p punctuality, err error) {
	for next := first; next.Before(end); next = next.Add(period) {
		if err := sleep(ctx, time.Until(next)); err != nil {
			return p, err
		}
		p.due++
		now := time.Now()
		if now.Sub(next) > period || !now.Before(end) {
			p.late++
		}
		if !now.Before(end) {
			continue
		}
		if err := f(ctx); err != nil {
			return p, err
		}
	}
	return p, nil
}
