package stat

import (
	"math"
	"math/rand/v2"
	"slices"
)

// Resamples is how often [RatioOfMedians] resamples; it makes the second digit of the
// ends of a 95 % interval stable.
const Resamples = 2000

// minForInterval is the smallest number of samples with an interval: from two
// samples, a bootstrap can draw only four times differently.
const minForInterval = 3

// Quantile returns the q-th quantile, 0 ≤ q ≤ 1, of samples in any order, with linear
// interpolation between neighbours. It returns NaN without samples.
func Quantile(samples []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(samples))
	return quantileSorted(sorted, q)
}

func quantileSorted(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	at := q * float64(len(sorted)-1)
	low := int(math.Floor(at))
	high := min(low+1, len(sorted)-1)
	return sorted[low] + (at-float64(low))*(sorted[high]-sorted[low])
}

// Median returns the median of samples in any order; NaN without samples.
func Median(samples []float64) float64 { return Quantile(samples, 0.5) }

// Ratio compares two sets of samples.
type Ratio struct {
	// Value is the ratio of the medians; NaN if there is none.
	Value float64
	// Low and High are the ends of its 95 % confidence interval. Both are NaN if
	// there are too few samples.
	Low, High float64
}

// Known reports whether there is an interval.
func (r Ratio) Known() bool { return !math.IsNaN(r.Low) && !math.IsNaN(r.High) }

// RatioOfMedians divides the median of a by that of b, with a percentile bootstrap
// (Efron 1979) for the interval: both sets are resampled with replacement
// [Resamples] times. The generator has a fixed seed.
func RatioOfMedians(a, b []float64) Ratio {
	r := Ratio{Value: Median(a) / Median(b), Low: math.NaN(), High: math.NaN()}
	if len(a) < minForInterval || len(b) < minForInterval {
		return r
	}
	rng := rand.New(rand.NewPCG(1, 2))
	ratios := make([]float64, 0, Resamples)
	drawA, drawB := make([]float64, len(a)), make([]float64, len(b))
	for range Resamples {
		if v := resampledMedian(rng, drawA, a) / resampledMedian(rng, drawB, b); !math.IsNaN(v) {
			ratios = append(ratios, v)
		}
	}
	if len(ratios) == 0 {
		return r
	}
	slices.Sort(ratios)
	r.Low, r.High = quantileSorted(ratios, 0.025), quantileSorted(ratios, 0.975)
	return r
}

// resampledMedian fills draw from samples, sorts it and returns its median.
func resampledMedian(rng *rand.Rand, draw, samples []float64) float64 {
	for i := range draw {
		draw[i] = samples[rng.IntN(len(samples))]
	}
	slices.Sort(draw)
	return quantileSorted(draw, 0.5)
}
