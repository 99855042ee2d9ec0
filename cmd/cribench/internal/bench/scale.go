package bench

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cridock/cridock/cmd/cribench/internal/proc"
	"github.com/cridock/cridock/cmd/cribench/internal/result"
	"github.com/cridock/cridock/cmd/cribench/internal/target"
)

// Workloads of [Scale] in a document. Their level is the number of containers,
// sandboxes not counted.
const (
	WorkloadRead   = "read"
	WorkloadCPU    = "CPU time"
	WorkloadMemory = "memory"
	// StepRest, StepTotal and StepPerPod are steps of WorkloadCPU and
	// WorkloadMemory for a whole target; others are named after a read or a process,
	// the one at rest as "at rest: NAME".
	StepRest   = "at rest"
	StepTotal  = "all processes"
	StepPerPod = "per pod"
)

const (
	fillers        = 4 // pods made at a time
	memoryReadings = 3
)

// filled is a subject with its pods.
type filled struct {
	Subject
	pods []*pod
	// empty is the memory before the first pod, in bytes.
	empty uint64
}

// scale fills all targets to each level and measures reads, CPU time and memory at
// it, and at the last level the load of a node. Targets that cannot list are left out.
func (r *Runner) scale(ctx context.Context) error {
	var all []*filled
	for _, s := range r.subjects {
		if _, err := s.Read(ctx, target.ListContainers, "", ""); errors.Is(err, target.ErrUnsupported) {
			continue
		}
		all = append(all, &filled{Subject: s})
	}
	r.noteShared(all)
	if r.config.has(Scale) {
		if err := r.rest(ctx, all, 0); err != nil {
			return err
		}
		for _, level := range r.config.Levels {
			if err := r.atLevel(ctx, all, level); err != nil {
				return err
			}
		}
	}
	if n := len(r.config.Levels); n > 0 && r.config.has(Node) {
		last := r.config.Levels[n-1]
		if err := r.fill(ctx, all, last); err != nil {
			return err
		}
		if err := r.node(ctx, all, last); err != nil {
			return err
		}
	}
	return r.empty(ctx, all)
}

// atLevel fills all targets to a level and measures there.
func (r *Runner) atLevel(ctx context.Context, all []*filled, level int) error {
	if err := r.fill(ctx, all, level); err != nil {
		return err
	}
	if err := r.reads(ctx, all, level); err != nil {
		return err
	}
	if err := r.cpuPerCall(ctx, all, level); err != nil {
		return err
	}
	return r.rest(ctx, all, level)
}

// noteShared adds notes about processes that belong to two targets.
func (r *Runner) noteShared(all []*filled) {
	owner := map[int]string{}
	for _, f := range all {
		found, err := f.Processes.Find()
		if err != nil {
			continue // noteUnknown has noted it
		}
		for pid, p := range found {
			if other, ok := owner[pid]; ok {
				r.doc.Note("%s and %s share %s: the lists, CPU time and memory of each include the other's pods", other, f.Name(), p.Name)
			}
			owner[pid] = f.Name()
		}
	}
}

// fill makes pods, at each target in turn, until it has level containers.
func (r *Runner) fill(ctx context.Context, all []*filled, level int) error {
	want := (level + r.config.ContainersPerPod - 1) / r.config.ContainersPerPod
	r.progress.Stage(fmt.Sprintf("fill to %d containers", level), len(all))
	for _, f := range all {
		made := make([]*pod, max(want-len(f.pods), 0))
		var group errgroup.Group
		group.SetLimit(fillers)
		for i := range made {
			group.Go(func() (err error) {
				made[i], err = r.fillPod(ctx, f.Subject, min(r.config.ContainersPerPod, level-(len(f.pods)+i)*r.config.ContainersPerPod))
				return err
			})
		}
		if err := group.Wait(); err != nil {
			return fmt.Errorf("%s: %w", f.Name(), err)
		}
		f.pods = append(f.pods, made...)
		r.progress.Step()
	}
	return nil
}

func (r *Runner) fillPod(ctx context.Context, s Subject, containers int) (*pod, error) {
	p, err := r.newPod(s)
	if err != nil {
		return nil, err
	}
	if err := p.run(ctx, discard); err != nil {
		return nil, err
	}
	for range containers {
		if err := p.add(ctx, r.config.Command, discard); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// turn is like interleave, for the subjects of a scale; the key has the title.
func (r *Runner) turn(ctx context.Context, all []*filled, rounds int, key result.Key, sample func(context.Context, *filled) error) error {
	byName := map[string]*filled{}
	subjects := make([]Subject, len(all))
	for i, f := range all {
		byName[f.Name()], subjects[i] = f, f.Subject
	}
	part := &Runner{config: r.config, subjects: subjects, doc: r.doc, progress: r.progress}
	title := fmt.Sprintf("%s at %d", key.Step, key.Level)
	if key.Workload == WorkloadCPU {
		title = "CPU of " + title
	}
	return part.interleave(ctx, title, rounds, key, func(ctx context.Context, s Subject) error {
		return sample(ctx, byName[s.Name()])
	})
}

func (r *Runner) reads(ctx context.Context, all []*filled, level int) error {
	for _, read := range target.Reads {
		key := seconds(WorkloadRead, string(read), level)
		err := r.turn(ctx, all, r.config.Reads, key, func(ctx context.Context, f *filled) error {
			return timed(r.record(f.Subject, WorkloadRead, level), string(read), func() error { return f.read(ctx, read) })
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// read makes one read, of the subject's first pod or of all pods, and checks that
// the answer is complete.
func (f *filled) read(ctx context.Context, read target.Read) error {
	first := f.pods[0]
	n, err := f.Read(ctx, read, first.sandbox, first.containers[0])
	if err != nil {
		return err
	}
	want := 1
	switch read {
	case target.ListContainers, target.ContainerStats:
		want = 0
		for _, p := range f.pods {
			want += len(p.containers)
		}
	case target.ListSandboxes, target.SandboxStats:
		want = len(f.pods)
	}
	if n < want {
		return fmt.Errorf("%s: the answer has %d of %d objects", read, n, want)
	}
	return nil
}

// cpuPerCall repeats lists without pauses and divides the CPU time of the subject's
// processes by the number of calls.
func (r *Runner) cpuPerCall(ctx context.Context, all []*filled, level int) error {
	for _, read := range []target.Read{target.ListContainers, target.ContainerStats, target.SandboxStats} {
		key := result.Key{Workload: WorkloadCPU, Step: string(read), Level: level, Unit: result.CPUPerCall}
		err := r.turn(ctx, all, 1, key, func(ctx context.Context, f *filled) error {
			return r.burst(ctx, f, read, key)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *Runner) burst(ctx context.Context, f *filled, read target.Read, key result.Key) error {
	before, err := f.Processes.CPU()
	if err != nil {
		return nil // noteUnknown has noted it
	}
	calls := 0
	for end := time.Now().Add(r.config.Burst); time.Now().Before(end); calls++ {
		if err := f.read(ctx, read); err != nil {
			return err
		}
	}
	after, err := f.Processes.CPU()
	if err != nil {
		return err
	}
	r.doc.Add(f.Name(), key, milliseconds(proc.Spent(before, after))/float64(calls))
	return nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// rest measures the CPU time of all targets while nothing is done for a while, then
// their memory. Level 0 is before the first pod.
func (r *Runner) rest(ctx context.Context, all []*filled, level int) error {
	r.progress.Stage(fmt.Sprintf("rest at %d", level), 1)
	before := map[string]map[string]time.Duration{}
	for _, f := range all {
		if cpu, err := f.Processes.Tree(); err == nil { // noteUnknown has noted it
			before[f.Name()] = cpu
		}
	}
	began := time.Now()
	if err := sleep(ctx, r.config.Rest); err != nil {
		return err
	}
	took := time.Since(began).Seconds()
	for _, f := range all {
		cpu, ok := before[f.Name()]
		if !ok {
			continue
		}
		if err := r.recordRest(f, cpu, level, took); err != nil {
			return err
		}
		if err := r.recordMemory(f, level); err != nil {
			return err
		}
	}
	r.progress.Step()
	return nil
}

// recordRest records the CPU time since before, of each process and of all.
func (r *Runner) recordRest(f *filled, before map[string]time.Duration, level int, seconds float64) error {
	after, err := f.Processes.Tree()
	if err != nil {
		return fmt.Errorf("%s: %w", f.Name(), err)
	}
	key := result.Key{Workload: WorkloadCPU, Step: StepRest, Level: level, Unit: result.CPUPerSecond}
	r.addCPU(f.Subject, key, StepRest+": ", proc.SpentByName(before, after), seconds)
	return nil
}

// addCPU records CPU time divided by n: the sum with the key, and that of each process
// with the key's step replaced by prefix and name.
func (r *Runner) addCPU(s Subject, key result.Key, prefix string, spent map[string]time.Duration, n float64) {
	var sum time.Duration
	for _, name := range slices.Sorted(maps.Keys(spent)) {
		one := key
		one.Step = prefix + name
		r.doc.Add(s.Name(), one, milliseconds(spent[name])/n)
		sum += spent[name]
	}
	r.doc.Add(s.Name(), key, milliseconds(sum)/n)
}

func (r *Runner) recordMemory(f *filled, level int) error {
	const bytesPerMiB = 1 << 20
	for i := range memoryReadings {
		u, err := f.Processes.Usage()
		if err != nil {
			return fmt.Errorf("%s: %w", f.Name(), err)
		}
		if i == 0 && level == 0 {
			f.empty = u.Total()
		}
		add := func(step string, bytes float64) {
			r.doc.Add(f.Name(), result.Key{Workload: WorkloadMemory, Step: step, Level: level, Unit: result.MiB}, bytes/bytesPerMiB)
		}
		add(StepTotal, float64(u.Total()))
		for _, name := range slices.Sorted(maps.Keys(u.Memory)) {
			add(name, float64(u.Memory[name]))
		}
		if len(f.pods) > 0 {
			add(StepPerPod, (float64(u.Total())-float64(f.empty))/float64(len(f.pods)))
		}
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// empty stops and removes all pods of a scale.
func (r *Runner) empty(ctx context.Context, all []*filled) error {
	r.progress.Stage("remove the pods", len(all))
	for _, f := range all {
		var group errgroup.Group
		group.SetLimit(fillers)
		for _, p := range f.pods {
			group.Go(func() error { return p.end(ctx, discard) })
		}
		if err := group.Wait(); err != nil {
			return fmt.Errorf("%s: %w", f.Name(), err)
		}
		r.progress.Step()
	}
	return nil
}
