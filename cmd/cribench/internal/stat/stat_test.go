package stat

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestQuantile(t *testing.T) {
	for _, c := range []struct {
		samples []float64
		q, want float64
	}{
		{[]float64{3, 1, 2}, 0.5, 2},
		{[]float64{4, 1, 2, 3}, 0.5, 2.5},
		{[]float64{7}, 0.99, 7},
		{[]float64{0, 100}, 0.99, 99},
		{[]float64{1, 2, 3}, 1, 3},
	} {
		if got := Quantile(c.samples, c.q); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("Quantile(%v, %v) = %v, want %v", c.samples, c.q, got, c.want)
		}
	}
	if got := Median(nil); !math.IsNaN(got) {
		t.Errorf("Median of nothing = %v, want NaN", got)
	}
	unsorted := []float64{2, 1}
	Median(unsorted)
	if unsorted[0] != 2 {
		t.Error("Median reorders its argument")
	}
}

func TestRatioOfMediansCoversTheTruth(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	covered := 0
	const trials = 100
	for range trials {
		a, b := make([]float64, 30), make([]float64, 30)
		for i := range a {
			a[i] = 2 * math.Exp(0.3*rng.NormFloat64())
			b[i] = math.Exp(0.3 * rng.NormFloat64())
		}
		if r := RatioOfMedians(a, b); r.Low <= 2 && 2 <= r.High {
			covered++
		}
	}
	// 95 are expected; a bootstrap of medians deviates a little in either
	// direction.
	if covered < 86 {
		t.Errorf("the interval holds the true ratio in %d of %d trials", covered, trials)
	}
}

func TestRatioOfMediansIsReproducible(t *testing.T) {
	a, b := []float64{1, 2, 3, 4, 9}, []float64{2, 2, 4, 5, 7}
	if x, y := RatioOfMedians(a, b), RatioOfMedians(a, b); x != y {
		t.Errorf("two calls differ: %v and %v", x, y)
	}
}

func TestRatioOfMediansWithFewSamples(t *testing.T) {
	r := RatioOfMedians([]float64{4, 4}, []float64{2})
	if r.Value != 2 || r.Known() {
		t.Errorf("got %+v, want 2 and no interval", r)
	}
	if r := RatioOfMedians(nil, []float64{1}); !math.IsNaN(r.Value) {
		t.Errorf("ratio of nothing = %v, want NaN", r.Value)
	}
}
