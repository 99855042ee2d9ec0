package bench

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cridock/cridock/cmd/cribench/internal/fakecri"
	"github.com/cridock/cridock/cmd/cribench/internal/proc"
	"github.com/cridock/cridock/cmd/cribench/internal/progress"
	"github.com/cridock/cridock/cmd/cribench/internal/result"
	"github.com/cridock/cridock/cmd/cribench/internal/target"
)

func config(t *testing.T) Config {
	return Config{
		Workloads: Workloads, Rounds: 3, Execs: 4, Load: 50 * time.Millisecond, Relist: 20 * time.Millisecond, Probes: 3, ProbePeriod: 10 * time.Millisecond, Parallel: []int{1, 2}, Levels: []int{2, 5}, ContainersPerPod: 2, Reads: 2,
		Rest: time.Millisecond, Burst: 20 * time.Millisecond, Lines: 7, Command: []string{"idle"}, Shell: []string{"sh", "-c"}, Image: "busybox",
		PullImages: []string{"pull"}, LogRoot: t.TempDir(), Run: "r", Timeout: time.Minute,
	}
}

func subject(t *testing.T, name string) (*fakecri.Server, Subject) {
	t.Helper()
	server, endpoint := fakecri.Start(t)
	c, err := target.NewCRI(name, endpoint, target.Options{Run: "r", Image: "busybox"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return server, Subject{Target: c, Processes: proc.Set{Sockets: c.Sockets()}}
}

func runner(t *testing.T, c Config, subjects ...Subject) (*Runner, *result.Document) {
	t.Helper()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	doc := &result.Document{}
	for _, s := range subjects {
		doc.Targets = append(doc.Targets, result.Target{Name: s.Name()})
	}
	return New(c, subjects, doc, progress.Lines(io.Discard)), doc
}

func TestRunMeasuresAllAndLeavesNothing(t *testing.T) {
	serverA, a := subject(t, "a")
	serverB, b := subject(t, "b")
	serverA.LogLines, serverB.LogLines = 7, 7
	c := config(t)
	r, doc := runner(t, c, a, b)
	if err := r.WarmUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, s := range doc.Series {
		if s.Failures > 0 {
			t.Errorf("%s, %v: %s", s.Target, s.Key, s.LastError)
		}
	}
	comm, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	self := strings.TrimSpace(string(comm)) // the servers are in this process
	for key, n := range map[result.Key]int{
		seconds(WorkloadStart, "run sandbox", 1):                                                   3,
		seconds(WorkloadStart, "sum", 2):                                                           6,
		seconds(WorkloadStart, "all of them", 2):                                                   3,
		seconds(WorkloadStop, "remove sandbox", 1):                                                 3,
		seconds(WorkloadFirstLine, "line", 0):                                                      3,
		seconds(WorkloadExec, "command", 0):                                                        4,
		seconds(WorkloadThroughput, "lines", 7):                                                    3,
		seconds(WorkloadPull, "pull", 0):                                                           3,
		seconds(WorkloadChurn, "pod", churnParallel):                                               3,
		seconds(WorkloadRead, "list containers", 5):                                                2,
		{Workload: WorkloadMemory, Step: StepTotal, Level: 0, Unit: result.MiB}:                    memoryReadings,
		{Workload: WorkloadMemory, Step: StepPerPod, Level: 5, Unit: result.MiB}:                   memoryReadings,
		{Workload: WorkloadCPU, Step: StepRest, Level: 2, Unit: result.CPUPerSecond}:               1,
		{Workload: WorkloadCPU, Step: StepRest + ": " + self, Level: 2, Unit: result.CPUPerSecond}: 1,
		{Workload: WorkloadStartCPU, Step: StepTotal, Level: 2, Unit: result.CPUPerPod}:            3,
		{Workload: WorkloadStartCPU, Step: self, Level: 2, Unit: result.CPUPerPod}:                 3,
		{Workload: WorkloadNode, Step: StepNodeCPU, Level: 5, Unit: result.CPUPerSecond}:           1,
		{Workload: WorkloadNode, Step: StepLate, Level: 5, Unit: result.Percent}:                   1,
		{Workload: WorkloadCPU, Step: string(target.ListContainers), Level: 5, Unit: "ms/call"}:    1,
	} {
		for _, name := range []string{"a", "b"} {
			if s := doc.Find(name, key); s == nil || len(s.Samples) != n {
				t.Errorf("%s, %v: %v, want %d samples", name, key, s, n)
			}
		}
	}
	for _, server := range []*fakecri.Server{serverA, serverB} {
		if left := server.Sandboxes(); len(left) > 0 {
			t.Errorf("sandboxes left: %v", left)
		}
	}
	if left, err := os.ReadDir(c.LogRoot); err != nil || len(left) > 0 {
		t.Errorf("logs left: %v, %v", left, err)
	}
	if !slices.ContainsFunc(doc.Notes, func(n string) bool { return strings.HasPrefix(n, "a and b share ") }) {
		t.Errorf("notes %q, want one that both are this process", doc.Notes)
	}
}

func TestTurnsAlternate(t *testing.T) {
	_, a := subject(t, "a")
	_, b := subject(t, "b")
	r, _ := runner(t, config(t), a, b)
	var turns []string
	err := r.interleave(t.Context(), "", 3, result.Key{}, func(_ context.Context, s Subject) error {
		turns = append(turns, s.Name())
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a", "b", "a", "b", "a", "b"}, turns); diff != "" {
		t.Error(diff)
	}
}

func TestFailuresAreCountedAndUnsupportedIsNotAskedAgain(t *testing.T) {
	_, a := subject(t, "a")
	_, b := subject(t, "b")
	r, doc := runner(t, config(t), a, b)
	asked := map[string]int{}
	key := result.Key{Workload: "w"}
	err := r.interleave(t.Context(), "", 3, key, func(_ context.Context, s Subject) error {
		asked[s.Name()]++
		if s.Name() == "a" {
			return target.ErrUnsupported
		}
		return errors.New("broken")
	})
	if err != nil {
		t.Fatal(err)
	}
	if asked["a"] != 1 || asked["b"] != 3 {
		t.Errorf("asked %v, want a once, b three times", asked)
	}
	if doc.Find("a", key) != nil || doc.Find("b", key).Failures != 3 {
		t.Errorf("series %v, %v", doc.Find("a", key), doc.Find("b", key))
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	server, a := subject(t, "a")
	c := config(t)
	c.Workloads = []Workload{Pods}
	r, doc := runner(t, c, a)
	cause := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(t.Context())
	server.SetHook(func(method string) error {
		if method == "StartContainer" {
			cancel(cause)
		}
		return nil
	})
	if err := r.Run(ctx); !errors.Is(err, cause) {
		t.Errorf("got %v, want the cause", err)
	}
	for _, s := range doc.Series {
		if s.Failures > 0 {
			t.Errorf("the end counts as a failure of %v", s.Key)
		}
	}
}

func TestPullLeavesImagesOfOthersAlone(t *testing.T) {
	_, a := subject(t, "a")
	if err := a.PullImage(t.Context(), "pull"); err != nil {
		t.Fatal(err)
	}
	c := config(t)
	c.Workloads = []Workload{Pull}
	r, doc := runner(t, c, a)
	if err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if has, err := a.HasImage(t.Context(), "pull"); !has || err != nil {
		t.Errorf("the image is gone: %v, %v", has, err)
	}
	if len(doc.Notes) != 1 || len(doc.Series) != 0 {
		t.Errorf("notes %q, series %v, want a note only", doc.Notes, doc.Series)
	}
}

func TestPullsAtOnce(t *testing.T) {
	_, a := subject(t, "a")
	c := config(t)
	c.Workloads, c.PullImages = []Workload{Pull}, []string{"one", "two", "three"}
	r, doc := runner(t, c, a)
	if err := r.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(doc.Series) != 1 || doc.Series[0].Key != seconds(WorkloadPull, "pull", 3) || doc.Series[0].Failures > 0 {
		t.Errorf("series %v, notes %q", doc.Series, doc.Notes)
	}
	for _, image := range c.PullImages {
		if has, err := a.HasImage(t.Context(), image); has || err != nil {
			t.Errorf("image %s is left: %v, %v", image, has, err)
		}
	}
}

func TestScriptQuotesTheCommand(t *testing.T) {
	r := New(Config{Shell: []string{"sh", "-c"}, Command: []string{"sh", "-c", "trap 'exit 0' TERM"}}, nil, nil, nil)
	want := []string{"sh", "-c", `echo ready; exec 'sh' '-c' 'trap '\''exit 0'\'' TERM'`}
	if diff := cmp.Diff(want, r.script("echo ready")); diff != "" {
		t.Error(diff)
	}
}

func TestValidate(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"workload": func(c *Config) { c.Workloads = []Workload{"nonsense"} },
		"image":    func(c *Config) { c.Image = "" },
		"rounds":   func(c *Config) { c.Rounds = 0 },
		"parallel": func(c *Config) { c.Parallel = []int{0} },
		"levels":   func(c *Config) { c.Levels = []int{5, 2} },
		"execs":    func(c *Config) { c.Execs = 0 },
		"probes":   func(c *Config) { c.Probes = 0 },
		"relist":   func(c *Config) { c.Relist = 0 },
	} {
		c := config(t)
		change(&c)
		if c.Validate() == nil {
			t.Errorf("%s: a wrong value was taken", name)
		}
	}
}
