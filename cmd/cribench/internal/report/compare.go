package report

import (
	"fmt"
	"io"
	"math"
	"text/tabwriter"

	"github.com/cridock/cridock/cmd/cribench/internal/result"
	"github.com/cridock/cridock/cmd/cribench/internal/stat"
)

// Change is the difference of one key of one target between two runs.
type Change struct {
	result.Key
	Target   string
	Old, New float64 // medians
	Ratio    stat.Ratio
}

// Worse reports whether the new run is worse by more than threshold (0.05 is 5 %),
// with the whole interval beyond it.
func (c Change) Worse(threshold float64) bool { return c.Ratio.Low > 1+threshold }

// Better is the opposite of Worse.
func (c Change) Better(threshold float64) bool { return c.Ratio.High < 1/(1+threshold) }

// Compare pairs the series that both runs have. If reference is not empty, each
// run is first divided by that target's medians in the same run, which removes what
// affects all targets alike; series that the reference lacks are left out.
func Compare(older, newer *result.Document, reference string) []Change {
	var changes []Change
	for _, key := range newer.Keys() {
		for _, name := range newer.Names() {
			o, n := older.Find(name, key), newer.Find(name, key)
			if o == nil || n == nil || name == reference {
				continue
			}
			oldSamples, newSamples := relative(older, o, reference), relative(newer, n, reference)
			if len(oldSamples) == 0 || len(newSamples) == 0 {
				continue
			}
			changes = append(changes, Change{
				Key: key, Target: name, Old: stat.Median(o.Samples), New: stat.Median(n.Samples),
				Ratio: stat.RatioOfMedians(newSamples, oldSamples),
			})
		}
	}
	return changes
}

// relative returns a series' samples, divided by the reference's median if there is a
// reference; nil if the reference has no such series.
func relative(d *result.Document, s *result.Series, reference string) []float64 {
	if reference == "" {
		return s.Samples
	}
	ref := d.Find(reference, s.Key)
	if ref == nil {
		return nil
	}
	by := stat.Median(ref.Samples)
	if math.IsNaN(by) || by == 0 {
		return nil
	}
	scaled := make([]float64, len(s.Samples))
	for i, v := range s.Samples {
		scaled[i] = v / by
	}
	return scaled
}

// CompareTable writes changes as text, only those beyond the threshold unless all is
// true, and returns how many are worse.
func CompareTable(w io.Writer, changes []Change, threshold float64, all bool) (worse int, err error) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\tWORKLOAD\tSTEP\tTARGET\tOLD\tNEW\tNEW BY OLD")
	better := 0
	for _, c := range changes {
		mark := ""
		switch {
		case c.Worse(threshold):
			mark = "worse"
			worse++
		case c.Better(threshold):
			mark = "better"
			better++
		}
		if mark != "" || all {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", mark, c.Workload, describe(c.Key), c.Target,
				format(c.Old, c.Unit), format(c.New, c.Unit), ratioText(c.Ratio))
		}
	}
	fmt.Fprintf(t, "%d compared: %d worse, %d better, by more than %.0f %%\n", len(changes), worse, better, threshold*100)
	return worse, t.Flush()
}
