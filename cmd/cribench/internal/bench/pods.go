package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cridock/cridock/cmd/cribench/internal/proc"
	"github.com/cridock/cridock/cmd/cribench/internal/result"
)

// churnParallel is how many pods run at a time in [Churn].
const churnParallel = 4

// Names of workloads in a document.
const (
	WorkloadStart      = "pod start"
	WorkloadStartCPU   = "CPU time of a pod start" // steps are those of WorkloadMemory
	WorkloadStop       = "pod stop and remove"
	WorkloadFirstLine  = "first log line"
	WorkloadExec       = "exec"
	WorkloadThroughput = "log throughput"
	WorkloadPull       = "image pull"
	WorkloadChurn      = "pod churn"
)

func seconds(workload, step string, level int) result.Key {
	return result.Key{Workload: workload, Step: step, Level: level, Unit: result.Seconds}
}

// podLife starts, stops and removes pods, for each configured number at a time.
func (r *Runner) podLife(ctx context.Context) error {
	for _, n := range r.config.Parallel {
		// With more pods, run fewer rounds: about as many samples of each step.
		rounds := max((r.config.Rounds+n-1)/n, min(r.config.Rounds, 3))
		title := fmt.Sprintf("pods, %d at a time", n)
		err := r.interleave(ctx, title, rounds, seconds(WorkloadStart, "sum", n), func(ctx context.Context, s Subject) error {
			return r.podBatch(ctx, s, n)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *Runner) podBatch(ctx context.Context, s Subject, n int) error {
	pods := make([]*pod, n)
	start, stop := r.record(s, WorkloadStart, n), r.record(s, WorkloadStop, n)
	before, unknown := s.Processes.Tree()
	began := time.Now()
	err := together(n, func(i int) (err error) {
		pods[i], err = r.startPod(ctx, s, r.config.Command, start)
		return err
	})
	if err != nil {
		return err
	}
	if n > 1 {
		start("all of them", time.Since(began))
	}
	if unknown == nil { // noteUnknown has noted it
		after, err := s.Processes.Tree()
		if err != nil {
			return err
		}
		key := result.Key{Workload: WorkloadStartCPU, Step: StepTotal, Level: n, Unit: result.CPUPerPod}
		r.addCPU(s, key, "", proc.SpentByName(before, after), float64(n))
	}
	return together(n, func(i int) error {
		if err := pods[i].ready(ctx); err != nil {
			return err
		}
		return pods[i].end(ctx, stop)
	})
}

// ready waits for the first line of the pod's first container: before it, the
// container's process may not have set its handler for SIGTERM.
func (p *pod) ready(ctx context.Context) (err error) {
	log, err := p.subject.OpenLog(p.Pod, p.containers[0], 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	return log.Wait(ctx, 1)
}

// together runs f n times in parallel and returns the first error when all are done.
func together(n int, f func(i int) error) error {
	var group errgroup.Group
	for i := range n {
		group.Go(func() error { return f(i) })
	}
	return group.Wait()
}

// churn runs whole lives of pods in parallel.
func (r *Runner) churn(ctx context.Context) error {
	rounds := max(r.config.Rounds/churnParallel, min(r.config.Rounds, 3))
	return r.interleave(ctx, "churn", rounds, seconds(WorkloadChurn, "pod", churnParallel), func(ctx context.Context, s Subject) error {
		began := time.Now()
		err := together(churnParallel, func(int) error {
			p, err := r.startPod(ctx, s, r.config.Command, discard)
			if err != nil {
				return err
			}
			if err := p.ready(ctx); err != nil {
				return err
			}
			return p.end(ctx, discard)
		})
		if err == nil {
			r.record(s, WorkloadChurn, churnParallel)("pod", time.Since(began)/churnParallel)
		}
		return err
	})
}

// script returns a command that runs a script and then the usual command of
// containers.
func (r *Runner) script(text string) []string {
	quoted := make([]string, len(r.config.Command))
	for i, arg := range r.config.Command {
		quoted[i] = "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
	}
	command := append([]string(nil), r.config.Shell...)
	return append(command, text+"; exec "+strings.Join(quoted, " "))
}

// firstLine measures the time from the start call to the container's first log line.
func (r *Runner) firstLine(ctx context.Context) error {
	return r.interleave(ctx, "first log line", r.config.Rounds, seconds(WorkloadFirstLine, "line", 0), func(ctx context.Context, s Subject) error {
		return r.lines(ctx, s, r.config.Command, 1, func(took time.Duration) {
			r.record(s, WorkloadFirstLine, 0)("line", took)
		})
	})
}

// throughput measures the time until many lines, written at once, are in the log.
func (r *Runner) throughput(ctx context.Context) error {
	const line = "a line of a log, as long as lines of logs often are: eighty bytes, newline too"
	n := r.config.Lines
	command := r.script(fmt.Sprintf("yes '%s' | head -n %d", line, n))
	rounds := max(r.config.Rounds/4, min(r.config.Rounds, 3))
	title := fmt.Sprintf("%d log lines", n)
	return r.interleave(ctx, title, rounds, seconds(WorkloadThroughput, "lines", n), func(ctx context.Context, s Subject) error {
		return r.lines(ctx, s, command, n, func(took time.Duration) {
			r.record(s, WorkloadThroughput, n)("lines", took)
		})
	})
}

// lines starts a container in its own pod and waits for lines in its log.
func (r *Runner) lines(ctx context.Context, s Subject, command []string, n int, took func(time.Duration)) error {
	p, err := r.newPod(s)
	if err != nil {
		return err
	}
	if err := p.run(ctx, discard); err != nil {
		return err
	}
	if err := p.create(ctx, command, discard); err != nil {
		return err
	}
	log, err := s.OpenLog(p.Pod, p.containers[0], 0)
	if err != nil {
		return err
	}
	defer log.Close()
	began := time.Now()
	if err := s.StartContainer(ctx, p.containers[0]); err != nil {
		return err
	}
	if err := log.Wait(ctx, n); err != nil {
		return err
	}
	took(time.Since(began))
	return p.end(ctx, discard)
}

// exec measures a command in one container of each target.
func (r *Runner) exec(ctx context.Context) error {
	pods := map[string]*pod{}
	r.progress.Stage("pods to exec in", len(r.subjects))
	for _, s := range r.subjects {
		p, err := r.startPod(ctx, s, r.config.Command, discard)
		if err != nil {
			return fmt.Errorf("%s: %w", s.Name(), err)
		}
		pods[s.Name()] = p
		r.progress.Step()
	}
	err := r.interleave(ctx, "exec", r.config.Execs, seconds(WorkloadExec, "command", 0), func(ctx context.Context, s Subject) error {
		return timed(r.record(s, WorkloadExec, 0), "command", func() error {
			out, err := s.Exec(ctx, pods[s.Name()].containers[0], []string{"echo", "ok"})
			if err == nil && string(out) != "ok\n" {
				err = fmt.Errorf("exec: output %q, want ok", out)
			}
			return err
		})
	})
	if err != nil {
		return err
	}
	for _, s := range r.subjects {
		if err := pods[s.Name()].end(ctx, discard); err != nil {
			return fmt.Errorf("%s: %w", s.Name(), err)
		}
	}
	return nil
}

// pull measures the pull of images that no target has, all at once, and removes them
// again.
func (r *Runner) pull(ctx context.Context) error {
	images := r.config.PullImages
	for _, s := range r.subjects {
		for _, image := range images {
			has, err := s.HasImage(ctx, image)
			if err != nil {
				return fmt.Errorf("%s: %w", s.Name(), err)
			}
			if has {
				r.doc.Note("image pull was left out: %s already has %s, which cribench did not pull and does not remove", s.Name(), image)
				return nil
			}
		}
	}
	level := 0
	switch {
	case len(images) == 0:
		return nil
	case len(images) > 1:
		level = len(images)
	}
	rounds := max(r.config.Rounds/2, min(r.config.Rounds, 3))
	return r.interleave(ctx, "image pull", rounds, seconds(WorkloadPull, "pull", level), func(ctx context.Context, s Subject) error {
		err := timed(r.record(s, WorkloadPull, level), "pull", func() error {
			return together(len(images), func(i int) error { return s.PullImage(ctx, images[i]) })
		})
		// Remove them even after a pull that failed or timed out: it may have succeeded.
		removeCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.config.Timeout)
		defer cancel()
		for _, image := range images {
			if removeErr := s.RemoveImage(removeCtx, image); err == nil {
				err = removeErr
			}
		}
		return err
	})
}
