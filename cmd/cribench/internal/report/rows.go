package report

import (
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/cridock/cridock/cmd/cribench/internal/bench"
	"github.com/cridock/cridock/cmd/cribench/internal/result"
	"github.com/cridock/cridock/cmd/cribench/internal/stat"
)

// Row is one line of a table: one key at one target.
type Row struct {
	result.Key
	Target      string
	N, Failures int
	Median, P99 float64
	// Ratio is to the baseline's median. Not meaningful if Baseline.
	Ratio    stat.Ratio
	Baseline bool
}

// Rows returns all lines of a document, in its order, compared to the target
// baseline.
func Rows(d *result.Document, baseline string) []Row {
	var rows []Row
	for _, key := range d.Keys() {
		base := d.Find(baseline, key)
		for _, name := range d.Names() {
			s := d.Find(name, key)
			if s == nil {
				continue
			}
			row := Row{
				Key: key, Target: name, N: len(s.Samples), Failures: s.Failures, Baseline: name == baseline,
				Median: stat.Median(s.Samples), P99: stat.Quantile(s.Samples, 0.99),
				Ratio: stat.Ratio{Value: math.NaN(), Low: math.NaN(), High: math.NaN()},
			}
			if base != nil && !row.Baseline {
				row.Ratio = stat.RatioOfMedians(s.Samples, base.Samples)
			}
			rows = append(rows, row)
		}
	}
	return rows
}

// What returns the row's step with its level, in words.
func (r Row) What() string { return describe(r.Key) }

func describe(k result.Key) string {
	step := k.Step
	switch k.Workload {
	case bench.WorkloadStart, bench.WorkloadStartCPU, bench.WorkloadStop, bench.WorkloadChurn, bench.WorkloadPull:
		if k.Level > 1 {
			return fmt.Sprintf("%s, %d at a time", step, k.Level)
		}
	case bench.WorkloadThroughput:
		return fmt.Sprintf("%d %s", k.Level, step)
	case bench.WorkloadRead, bench.WorkloadCPU, bench.WorkloadMemory, bench.WorkloadNode:
		return fmt.Sprintf("%s, %d containers", step, k.Level)
	}
	return step
}

// MedianText returns the median with its unit.
func (r Row) MedianText() string { return format(r.Median, r.Unit) }

// P99Text returns the 99th percentile with its unit.
func (r Row) P99Text() string { return format(r.P99, r.Unit) }

// RatioText returns the ratio with its interval; "" for the baseline itself.
func (r Row) RatioText() string {
	if r.Baseline {
		return ""
	}
	return ratioText(r.Ratio)
}

// Verdict returns "less" or "more"; "" if the interval contains 1 or is unknown.
func (r Row) Verdict() string {
	switch {
	case !r.Ratio.Known():
		return ""
	case r.Ratio.High < 1:
		return "less"
	case r.Ratio.Low > 1:
		return "more"
	}
	return ""
}

func ratioText(r stat.Ratio) string {
	switch {
	case math.IsNaN(r.Value) || math.IsInf(r.Value, 0):
		return ""
	case !r.Known():
		return fmt.Sprintf("%.2f", r.Value)
	}
	return fmt.Sprintf("%.2f [%.2f, %.2f]", r.Value, r.Low, r.High)
}

// format returns a value with its unit, with three significant digits.
func format(v float64, unit string) string {
	if math.IsNaN(v) {
		return "–"
	}
	if unit != result.Seconds {
		return significant(v) + " " + unit
	}
	switch d := time.Duration(v * float64(time.Second)); {
	case d >= time.Second:
		return significant(v) + " s"
	case d >= time.Millisecond:
		return significant(v*1e3) + " ms"
	default:
		return significant(v*1e6) + " µs"
	}
}

func significant(v float64) string {
	if math.Abs(v) >= 100 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	if math.Abs(v) < 0.005 {
		return "0"
	}
	digits := 2 - int(math.Floor(math.Log10(math.Abs(v))))
	return strconv.FormatFloat(v, 'f', min(max(digits, 0), 2), 64)
}
