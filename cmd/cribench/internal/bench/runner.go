package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/cridock/cridock/cmd/cribench/internal/progress"
	"github.com/cridock/cridock/cmd/cribench/internal/result"
	"github.com/cridock/cridock/cmd/cribench/internal/target"
)

// Runner measures subjects into a document.
type Runner struct {
	config   Config
	subjects []Subject
	doc      *result.Document
	progress progress.Reporter
	pods     atomic.Int64
}

// New returns a runner. It starts nothing.
func New(config Config, subjects []Subject, doc *result.Document, p progress.Reporter) *Runner {
	return &Runner{config: config, subjects: subjects, doc: doc, progress: p}
}

// Run runs the workloads. A failed measurement is counted in its series and does not
// end the run; the end of ctx does.
func (r *Runner) Run(ctx context.Context) error {
	defer r.progress.Close()
	r.noteUnknown()
	for _, step := range []struct {
		workload Workload
		run      func(context.Context) error
	}{
		{Pods, r.podLife}, {FirstLine, r.firstLine}, {Exec, r.exec}, {Throughput, r.throughput},
		{Pull, r.pull}, {Churn, r.churn}, {Scale, r.scale},
	} {
		// A node is a scale at its last level.
		wanted := r.config.has(step.workload) || step.workload == Scale && r.config.has(Node)
		if !wanted {
			continue
		}
		if err := step.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.workload, err)
		}
	}
	return nil
}

// noteUnknown adds notes about targets whose processes cannot be found.
func (r *Runner) noteUnknown() {
	for _, s := range r.subjects {
		if _, err := s.Processes.Find(); err != nil {
			r.doc.Note("%s: CPU time and memory are not available: %v", s.Name(), err)
		}
	}
}

// WarmUp makes sure that all targets have the image, and runs a pod in each without
// recording its times: the first use loads plugins, libraries and caches.
func (r *Runner) WarmUp(ctx context.Context) error {
	r.progress.Stage("warm-up", len(r.subjects))
	for _, s := range r.subjects {
		if err := s.EnsureImage(ctx, r.config.Image); err != nil {
			return fmt.Errorf("%s: %w", s.Name(), err)
		}
		p, err := r.startPod(ctx, s, r.config.Command, discard)
		if err != nil {
			return fmt.Errorf("%s: %w", s.Name(), err)
		}
		if err := errors.Join(p.ready(ctx), p.end(ctx, discard)); err != nil {
			return fmt.Errorf("%s: %w", s.Name(), err)
		}
		r.progress.Step()
	}
	return nil
}

// interleave takes samples of each subject in turn, rounds times. A subject that
// returns [target.ErrUnsupported] is not asked again; other failures are counted
// under key.
func (r *Runner) interleave(ctx context.Context, title string, rounds int, key result.Key, sample func(context.Context, Subject) error) error {
	r.progress.Stage(title, rounds*len(r.subjects))
	skip := map[string]bool{}
	for range rounds {
		for _, s := range r.subjects {
			if !skip[s.Name()] {
				err := r.sample(ctx, s, sample)
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				if errors.Is(err, target.ErrUnsupported) {
					skip[s.Name()] = true
				} else if err != nil {
					r.doc.Fail(s.Name(), key, err)
				}
			}
			r.progress.Step()
		}
	}
	return nil
}

func (r *Runner) sample(ctx context.Context, s Subject, sample func(context.Context, Subject) error) error {
	ctx, cancel := context.WithTimeout(ctx, r.config.Timeout)
	defer cancel()
	return sample(ctx, s)
}

// pod is a pod that was made.
type pod struct {
	target.Pod
	subject    Subject
	sandbox    string
	containers []string
}

// recorder records the time of a step.
type recorder func(step string, took time.Duration)

func discard(string, time.Duration) {}

// record returns a recorder that adds times to the series of a workload.
func (r *Runner) record(s Subject, workload string, level int) recorder {
	return func(step string, took time.Duration) {
		r.doc.Add(s.Name(), result.Key{Workload: workload, Step: step, Level: level, Unit: result.Seconds}, took.Seconds())
	}
}

// timed runs f and records how long it took, unless it fails.
func timed(rec recorder, step string, f func() error) error {
	began := time.Now()
	if err := f(); err != nil {
		return err
	}
	rec(step, time.Since(began))
	return nil
}

// newPod returns a pod with a name and a directory for its logs; it makes the
// directory.
func (r *Runner) newPod(s Subject) (*pod, error) {
	name := fmt.Sprintf("b%s-%d", r.config.Run, r.pods.Add(1))
	dir := filepath.Join(r.config.LogRoot, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	return &pod{Pod: target.Pod{Name: name, LogDir: dir}, subject: s}, nil
}

// startPod makes a pod with one running container.
func (r *Runner) startPod(ctx context.Context, s Subject, command []string, rec recorder) (*pod, error) {
	p, err := r.newPod(s)
	if err != nil {
		return nil, err
	}
	return p, timed(rec, "sum", func() error {
		if err := p.run(ctx, rec); err != nil {
			return err
		}
		return p.add(ctx, command, rec)
	})
}

func (p *pod) run(ctx context.Context, rec recorder) error {
	return timed(rec, "run sandbox", func() (err error) {
		p.sandbox, err = p.subject.RunSandbox(ctx, p.Pod)
		return err
	})
}

// create makes the pod's next container.
func (p *pod) create(ctx context.Context, command []string, rec recorder) error {
	return timed(rec, "create container", func() error {
		id, err := p.subject.CreateContainer(ctx, p.Pod, p.sandbox, len(p.containers), command)
		if err == nil {
			p.containers = append(p.containers, id)
		}
		return err
	})
}

// add makes the pod's next container and starts it.
func (p *pod) add(ctx context.Context, command []string, rec recorder) error {
	if err := p.create(ctx, command, rec); err != nil {
		return err
	}
	return timed(rec, "start container", func() error {
		return p.subject.StartContainer(ctx, p.containers[len(p.containers)-1])
	})
}

// end stops and removes the pod's containers, then the pod and its logs.
func (p *pod) end(ctx context.Context, rec recorder) error {
	err := timed(rec, "sum", func() error {
		for _, id := range p.containers {
			if err := timed(rec, "stop container", func() error { return p.subject.StopContainer(ctx, id) }); err != nil {
				return err
			}
			if err := timed(rec, "remove container", func() error { return p.subject.RemoveContainer(ctx, id) }); err != nil {
				return err
			}
		}
		if err := timed(rec, "stop sandbox", func() error { return p.subject.StopSandbox(ctx, p.sandbox) }); err != nil {
			return err
		}
		return timed(rec, "remove sandbox", func() error { return p.subject.RemoveSandbox(ctx, p.sandbox) })
	})
	return errors.Join(err, os.RemoveAll(p.LogDir))
}
