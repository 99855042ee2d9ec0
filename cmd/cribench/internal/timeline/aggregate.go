package timeline

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/cridock/cridock/cmd/cribench/internal/result"
	"github.com/cridock/cridock/cmd/cribench/internal/stat"
)

// Traced is a finished pod start with the events about its containers.
type Traced struct {
	*Start
	Moments []Moment
}

// Aggregate waits for the spans of all starts and returns the timeline of a target. A
// span that fewer than half of the pods have is left out.
func Aggregate(ctx context.Context, target string, c *Collector, starts []Traced) (result.Timeline, error) {
	t := result.Timeline{Target: target, Pods: len(starts)}
	var all [][]part
	for _, s := range starts {
		parts, err := s.parts(ctx, c, s.Moments)
		if err != nil {
			return t, err
		}
		all = append(all, parts)
	}
	t.Spans, t.Shares = spans(all), shares(all)
	return t, nil
}

// key identifies a span in all pods.
type key struct {
	call, kind, name string
	number           int // of those with the same name in one call
}

type samples struct{ starts, durations []float64 }

// spans returns the medians of each span, by start.
func spans(pods [][]part) []result.Span {
	found := map[key]*samples{}
	for _, parts := range pods {
		numbers := map[key]int{}
		for _, p := range parts {
			k := key{call: p.call, kind: p.kind, name: p.name}
			numbers[k]++
			k.number = numbers[k]
			if found[k] == nil {
				found[k] = &samples{}
			}
			found[k].starts = append(found[k].starts, p.start.Seconds())
			found[k].durations = append(found[k].durations, (p.end - p.start).Seconds())
		}
	}
	var out []result.Span
	for k, s := range found {
		if 2*len(s.starts) < len(pods) {
			continue
		}
		name := k.name
		if k.number > 1 {
			name = fmt.Sprintf("%s (%d)", name, k.number)
		}
		out = append(out, result.Span{
			Call: k.call, Kind: k.kind, Name: name, Pods: len(s.starts),
			Start: stat.Median(s.starts), Duration: stat.Median(s.durations), DurationP99: stat.Quantile(s.durations, 0.99),
		})
	}
	slices.SortFunc(out, func(a, b result.Span) int {
		return cmp.Or(cmp.Compare(a.Start, b.Start), slices.Index(result.Kinds, a.Kind)-slices.Index(result.Kinds, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// shares returns the medians of each call's division and, last, of all calls together.
func shares(pods [][]part) []result.Share {
	var order []string
	divided := map[string][]division{}
	for _, parts := range pods {
		var sum division
		for _, p := range parts {
			if p.kind != result.KindCall {
				continue
			}
			d := divide(p, parts)
			sum.add(d)
			divided[p.name] = append(divided[p.name], d)
			if !slices.Contains(order, p.name) {
				order = append(order, p.name)
			}
		}
		divided[allCalls] = append(divided[allCalls], sum)
	}
	var out []result.Share
	for _, call := range append(order, allCalls) {
		all := divided[call]
		median := func(value func(division) time.Duration) float64 {
			values := make([]float64, len(all))
			for i, d := range all {
				values[i] = value(d).Seconds()
			}
			return stat.Median(values)
		}
		out = append(out, result.Share{
			Call: call, Total: median(func(d division) time.Duration { return d.total }),
			Docker: median(func(d division) time.Duration { return d.docker }),
			CNI:    median(func(d division) time.Duration { return d.cni }),
			Rest:   median(func(d division) time.Duration { return d.rest }),
		})
	}
	return out
}

// allCalls is the name of the sum.
const allCalls = "pod start"

// division is how the time of one call is divided.
type division struct{ total, docker, cni, rest time.Duration }

func (d *division) add(other division) {
	d.total += other.total
	d.docker += other.docker
	d.cni += other.cni
	d.rest += other.rest
}

func divide(c part, parts []part) division {
	within := func(kinds ...string) time.Duration {
		return covered(c, slices.DeleteFunc(slices.Clone(parts), func(p part) bool {
			return p.call != c.name || !slices.Contains(kinds, p.kind)
		}))
	}
	d := division{total: c.end - c.start, docker: within(result.KindDocker), cni: within(result.KindCNI)}
	d.rest = d.total - within(result.KindDocker, result.KindCNI)
	return d
}

// covered returns how much of c the parts cover together. The parts are by start.
func covered(c part, parts []part) time.Duration {
	var sum time.Duration
	reached := c.start
	for _, p := range parts {
		from, to := max(p.start, reached), min(p.end, c.end)
		if to > from {
			sum += to - from
			reached = to
		}
	}
	return sum
}
