package report

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/cridock/cridock/cmd/cribench/internal/result"
)

// Table writes a document as text. The ratio is each target's median divided by the
// baseline's, with its 95 % interval.
func Table(w io.Writer, d *result.Document, baseline string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "WORKLOAD\tSTEP\tTARGET\tN\tMEDIAN\tP99\tBY %s\n", baseline)
	var last result.Key
	for _, r := range Rows(d, baseline) {
		workload, what := r.Workload, r.What()
		if r.Workload == last.Workload {
			workload = ""
		}
		if r.Key == last {
			what = ""
		}
		last = r.Key
		fmt.Fprintf(t, "%s\t%s\t%s\t%d%s\t%s\t%s\t%s\n", workload, what, r.Target, r.N, failures(r), r.MedianText(), r.P99Text(), r.RatioText())
	}
	for _, n := range d.Notes {
		fmt.Fprintf(t, "note: %s\n", n)
	}
	for _, s := range d.Series {
		if s.Failures > 0 {
			fmt.Fprintf(t, "failed: %s, %s, %s: %d times, last: %s\n", s.Target, s.Workload, describe(s.Key), s.Failures, s.LastError)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, timeline := range d.Timelines {
		if _, err := fmt.Fprintln(w); err != nil {
			return err
		}
		if err := TimelineTable(w, timeline); err != nil {
			return err
		}
	}
	return nil
}

func failures(r Row) string {
	if r.Failures == 0 {
		return ""
	}
	return fmt.Sprintf(" (%d failed)", r.Failures)
}
