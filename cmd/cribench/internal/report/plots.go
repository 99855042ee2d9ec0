package report

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cridock/cridock/cmd/cribench/internal/bench"
	"github.com/cridock/cridock/cmd/cribench/internal/result"
	"github.com/cridock/cridock/cmd/cribench/internal/target"
)

// Plot is one drawing.
type Plot struct {
	// Name can be a file name; Alt is the text for readers who cannot see the plot.
	Name, Alt string
	// SVG has its colours as attributes, for viewers without CSS; classes such as
	// fill-ink let a style sheet change them.
	SVG string
	// Wide is true for a plot that needs the page's whole width.
	Wide bool
}

// Plots draws every plot for which the document has data.
func Plots(d *result.Document) ([]Plot, error) {
	b := &book{doc: d}
	for _, t := range d.Timelines {
		b.plots = append(b.plots, timelinePlot(t))
	}
	b.steps(bench.WorkloadStart, "Pod start, step by step")
	b.steps(bench.WorkloadStop, "Pod stop and remove, step by step")
	b.levels(bench.WorkloadStart, "sum", "Start of a pod among others", "pods at a time", false)
	b.levels(bench.WorkloadStart, "all of them", "Start of all pods at a time", "pods at a time", false)
	b.processes(bench.WorkloadStartCPU, "", "CPU time of a pod start, by process, with the most pods at a time")
	b.single(bench.WorkloadFirstLine, "From start to first log line")
	b.single(bench.WorkloadExec, "Command in a container (ExecSync)")
	b.single(bench.WorkloadThroughput, "Many log lines, until all are in the file")
	b.single(bench.WorkloadPull, "Image pull")
	b.single(bench.WorkloadChurn, "A pod's whole life, four at a time")
	for _, read := range target.Reads {
		b.levels(bench.WorkloadRead, string(read), capital(string(read)), "containers", true)
	}
	b.levels(bench.WorkloadMemory, bench.StepTotal, "Memory of the runtime's processes", "containers", false)
	b.levels(bench.WorkloadMemory, bench.StepPerPod, "Memory per pod", "containers", false)
	b.processes(bench.WorkloadMemory, "", "Memory by process, with the most containers")
	b.processes(bench.WorkloadNode, "CPU: ", "CPU time of a node with probes, by process")
	b.node(bench.StepProbe, "Probes of a node (ExecSync)")
	b.levels(bench.WorkloadCPU, bench.StepRest, "CPU time at rest", "containers", false)
	b.processes(bench.WorkloadCPU, bench.StepRest+": ", "CPU time at rest, by process")
	for _, read := range target.Reads {
		b.levels(bench.WorkloadCPU, string(read), "CPU time of: "+string(read), "containers", true)
	}
	return b.plots, b.err
}

// book collects plots until the first error.
type book struct {
	doc   *result.Document
	plots []Plot
	err   error
}

func (b *book) keys(match func(result.Key) bool) []result.Key {
	return slices.DeleteFunc(b.doc.Keys(), func(k result.Key) bool { return !match(k) })
}

// samples returns the samples by key and target.
func (b *book) samples(keys []result.Key) [][][]float64 {
	out := make([][][]float64, len(keys))
	for i, k := range keys {
		for _, name := range b.doc.Names() {
			var values []float64
			if s := b.doc.Find(name, k); s != nil {
				values = s.Samples
			}
			out[i] = append(out[i], values)
		}
	}
	return out
}

func (b *book) add(title string, svg string, err error) {
	if err != nil {
		if b.err == nil {
			b.err = fmt.Errorf("plot %q: %w", title, err)
		}
		return
	}
	b.plots = append(b.plots, Plot{Name: plotName(title), Alt: title, SVG: svg})
}

// plotName returns a title as the name of a file.
func plotName(title string) string {
	other := func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') }
	return strings.Join(strings.FieldsFunc(strings.ToLower(title), other), "-")
}

// steps draws the distributions of a workload's steps, at the lowest number of pods
// that was measured.
func (b *book) steps(workload, title string) {
	keys := b.keys(func(k result.Key) bool { return k.Workload == workload })
	if len(keys) == 0 {
		return
	}
	lowest := keys[0].Level
	for _, k := range keys {
		lowest = min(lowest, k.Level)
	}
	keys = slices.DeleteFunc(keys, func(k result.Key) bool { return k.Level != lowest })
	slices.SortStableFunc(keys, func(x, y result.Key) int { return sumLast(x) - sumLast(y) })
	groups := make([]string, len(keys))
	for i, k := range keys {
		groups[i] = strings.ReplaceAll(k.Step, " ", "\n")
	}
	svg, err := boxes(title, keys[0].Unit, groups, b.doc.Names(), b.samples(keys))
	b.add(title, svg, err)
}

func sumLast(k result.Key) int {
	if k.Step == "sum" {
		return 1
	}
	return 0
}

// single draws the distribution of a workload of one step.
func (b *book) single(workload, title string) {
	keys := b.keys(func(k result.Key) bool { return k.Workload == workload })
	if len(keys) == 0 {
		return
	}
	svg, err := boxes(title, keys[0].Unit, []string{describe(keys[0])}, b.doc.Names(), b.samples(keys[:1]))
	b.add(title, svg, err)
}

// processes draws a workload's steps that have a prefix and then the name of a
// process, at the highest level.
func (b *book) processes(workload, prefix, title string) {
	keys := b.keys(func(k result.Key) bool {
		return k.Workload == workload && strings.HasPrefix(k.Step, prefix) && k.Step != bench.StepPerPod
	})
	if len(keys) == 0 {
		return
	}
	highest := 0
	for _, k := range keys {
		highest = max(highest, k.Level)
	}
	keys = slices.DeleteFunc(keys, func(k result.Key) bool { return k.Level != highest })
	groups := make([]string, len(keys))
	for i, k := range keys {
		groups[i] = strings.NewReplacer("-", "-\n", " ", "\n").Replace(strings.TrimPrefix(k.Step, prefix))
	}
	svg, err := boxes(title, keys[0].Unit, groups, b.doc.Names(), b.samples(keys))
	b.add(title, svg, err)
}

// node draws the distribution of one step of a node's load.
func (b *book) node(step, title string) {
	keys := b.keys(func(k result.Key) bool { return k.Workload == bench.WorkloadNode && k.Step == step })
	if len(keys) == 0 {
		return
	}
	svg, err := boxes(title, keys[0].Unit, []string{describe(keys[0])}, b.doc.Names(), b.samples(keys[:1]))
	b.add(title, svg, err)
}

// levels draws a step against its level, if there is more than one.
func (b *book) levels(workload, step, title, x string, logarithmic bool) {
	keys := b.keys(func(k result.Key) bool { return k.Workload == workload && k.Step == step })
	if len(keys) < 2 {
		return
	}
	levels := make([]int, len(keys))
	for i, k := range keys {
		levels[i] = k.Level
	}
	svg, err := curves{title, x, keys[0].Unit, levels, b.doc.Names(), b.samples(keys), logarithmic}.draw()
	b.add(title, svg, err)
}

func capital(s string) string { return strings.ToUpper(s[:1]) + s[1:] }
