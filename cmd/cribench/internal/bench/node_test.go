package bench

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cridock/cridock/cmd/cribench/internal/result"
	"github.com/cridock/cridock/cmd/cribench/internal/target"
)

func TestNodeAloneProbesEachPodAndReadsAll(t *testing.T) {
	server, s := subject(t, "a")
	c := config(t)
	c.Workloads = []Workload{Node}
	var doc *result.Document
	var probes *result.Series
	// Three pods of at most two containers have nine probes, each due at least once.
	// Each must get its turn, on a slow machine too.
	for c.Load = time.Second; c.Load < time.Minute && (probes == nil || len(probes.Samples) < 9); c.Load *= 2 {
		var r *Runner
		r, doc = runner(t, c, s)
		if err := r.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		probes = doc.Find("a", seconds(WorkloadNode, StepProbe, 5))
	}
	for _, s := range doc.Series {
		if s.Failures > 0 || s.Workload != WorkloadNode {
			t.Errorf("%v: %s", s.Key, s.LastError)
		}
	}
	if probes == nil || len(probes.Samples) < 9 {
		t.Errorf("probes %v, want one of each at least", probes)
	}
	for _, read := range []target.Read{target.ListSandboxes, target.ListContainers, target.ContainerStats} {
		if doc.Find("a", seconds(WorkloadNode, "list: "+string(read), 5)) == nil {
			t.Errorf("no %s", read)
		}
	}
	if doc.Find("a", result.Key{Workload: WorkloadNode, Step: StepNodeCPU, Level: 5, Unit: result.CPUPerSecond}) == nil {
		t.Error("no CPU time")
	}
	if left := server.Sandboxes(); len(left) > 0 {
		t.Errorf("sandboxes left: %v", left)
	}
}

func TestNodeWithAFailingProbe(t *testing.T) {
	server, s := subject(t, "a")
	server.SetHook(func(method string) error {
		if method == "ExecSync" {
			return errors.New("broken")
		}
		return nil
	})
	c := config(t)
	c.Workloads = []Workload{Node}
	c.Load = time.Minute // the first failure ends it
	r, doc := runner(t, c, s)
	if err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if f := doc.Find("a", seconds(WorkloadNode, StepProbe, 5)); f == nil || f.Failures != 1 || !strings.Contains(f.LastError, "broken") {
		t.Errorf("got %v, want one failure", f)
	}
}

func TestProbesOfAPodAreOfItsContainersInTurn(t *testing.T) {
	f := &filled{pods: []*pod{{containers: []string{"a", "b"}}, {containers: []string{"c"}}}}
	if got, want := f.probed(3), []string{"a", "c", "b", "c", "a", "c"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestEveryCountsWhatIsLate(t *testing.T) {
	began := time.Now()
	calls := 0
	// The end has come before the first call: none is made, and all are late.
	p, err := every(t.Context(), time.Second, began.Add(-3*time.Second), began, func(context.Context) error {
		calls++
		return nil
	})
	if err != nil || calls != 0 || p != (punctuality{due: 3, late: 3}) {
		t.Errorf("%d calls, %+v, %v, want 3 late", calls, p, err)
	}
	// The first two were due long ago, the third just now.
	p, err = every(t.Context(), time.Hour, time.Now().Add(-2*time.Hour), time.Now().Add(time.Minute), func(context.Context) error {
		calls++
		return nil
	})
	if err != nil || calls != 3 || p != (punctuality{due: 3, late: 2}) {
		t.Errorf("%d calls, %+v, %v, want 3 and 2 late", calls, p, err)
	}
}
