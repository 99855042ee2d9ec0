package report

import (
	"encoding/xml"
	"errors"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/cridock/cridock/cmd/cribench/internal/bench"
	"github.com/cridock/cridock/cmd/cribench/internal/result"
	"github.com/cridock/cridock/cmd/cribench/internal/stat"
	"github.com/cridock/cridock/cmd/cribench/internal/target"
)

// document has something for every plot; b takes twice as long as a.
func document() *result.Document {
	d := &result.Document{Schema: result.Schema, Targets: []result.Target{{Name: "a<b>", Runtime: "x"}, {Name: "b"}}, Settings: map[string]string{"image": "busybox"}}
	add := func(k result.Key, base float64) {
		for i := range 10 {
			v := base * (1 + float64(i)/100)
			d.Add("a<b>", k, v)
			d.Add("b", k, 2*v)
		}
	}
	for _, step := range []string{"sum", "run sandbox", "create container", "start container"} {
		for _, n := range []int{1, 2} {
			add(result.Key{Workload: bench.WorkloadStart, Step: step, Level: n, Unit: result.Seconds}, 0.25)
		}
	}
	for _, w := range []string{bench.WorkloadExec, bench.WorkloadPull} {
		add(result.Key{Workload: w, Step: "command", Unit: result.Seconds}, 3)
	}
	for _, n := range []int{10, 220} {
		for _, read := range target.Reads {
			add(result.Key{Workload: bench.WorkloadRead, Step: string(read), Level: n, Unit: result.Seconds}, 0.0002*float64(n))
		}
		add(result.Key{Workload: bench.WorkloadMemory, Step: bench.StepPerPod, Level: n, Unit: result.MiB}, 12)
		add(result.Key{Workload: bench.WorkloadMemory, Step: "containerd-shim-runc-v2", Level: n, Unit: result.MiB}, 10)
		add(result.Key{Workload: bench.WorkloadCPU, Step: bench.StepRest, Level: n, Unit: result.CPUPerSecond}, 0)
	}
	add(result.Key{Workload: bench.WorkloadCPU, Step: bench.StepRest + ": dockerd", Level: 220, Unit: result.CPUPerSecond}, 30)
	add(result.Key{Workload: bench.WorkloadStartCPU, Step: "dockerd", Level: 8, Unit: result.CPUPerPod}, 40)
	add(result.Key{Workload: bench.WorkloadNode, Step: bench.StepNodeCPU, Level: 220, Unit: result.CPUPerSecond}, 300)
	add(result.Key{Workload: bench.WorkloadNode, Step: "CPU: dockerd", Level: 220, Unit: result.CPUPerSecond}, 200)
	add(result.Key{Workload: bench.WorkloadNode, Step: bench.StepProbe, Level: 220, Unit: result.Seconds}, 0.06)
	d.Fail("b", result.Key{Workload: bench.WorkloadExec, Step: "command", Unit: result.Seconds}, errors.New("no <way>"))
	d.Note("a note")
	d.SetTimeline(timeline())
	return d
}

func timeline() result.Timeline {
	const call = "RunPodSandbox"
	return result.Timeline{Target: "a<b>", Pods: 30, Spans: []result.Span{
		{Call: call, Kind: result.KindCall, Name: call, Pods: 30, Duration: 0.25, DurationP99: 0.4},
		{Call: call, Kind: result.KindDocker, Name: "POST /containers/create", Pods: 30, Start: 0.004, Duration: 0.015},
		{Call: call, Kind: result.KindDocker, Name: "POST /containers/…/start", Pods: 30, Start: 0.02, Duration: 0.18},
		{Call: call, Kind: result.KindEvent, Name: "Docker: start <sandbox>", Pods: 30, Start: 0.19},
		{Call: call, Kind: result.KindCNI, Name: "CNI ADD", Pods: 30, Start: 0.205, Duration: 0.04},
	}, Shares: []result.Share{{Call: call, Total: 0.25, Docker: 0.195, CNI: 0.04, Rest: 0.015}}}
}

func TestPageIsWholeAndSelfContained(t *testing.T) {
	var b strings.Builder
	if err := HTML(&b, document(), "a<b>"); err != nil {
		t.Fatal(err)
	}
	page := b.String()
	for _, want := range []string{"a&lt;b&gt;", "Pod start, step by step", "Memory by process", "CPU time of a node", "Probes of a node", "CPU time at rest, by process", "CPU time of a pod start", "2.00 [1.9", "a note", "no &lt;way&gt;", "prefers-color-scheme: dark", "width=device-width"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	// The SVG namespaces are names, not addresses to load from.
	rest := strings.NewReplacer("http://www.w3.org/2000/svg", "", "http://www.w3.org/1999/xlink", "").Replace(page)
	if m := regexp.MustCompile(`(https?:|src=|<script|@import|url\()`).FindString(rest); m != "" {
		t.Errorf("the page loads something: %s", m)
	}
	if n := strings.Count(page, "<svg"); n < 12 {
		t.Errorf("%d plots", n)
	}
}

func TestPlotsAreXMLWithoutStandInColours(t *testing.T) {
	plots, err := Plots(document())
	if err != nil {
		t.Fatal(err)
	}
	colours := regexp.MustCompile(`(fill|stroke)="(#[0-9A-Fa-f]{6})"( class="[^"]*")?`)
	for _, p := range plots {
		for decoder := xml.NewDecoder(strings.NewReader(standalone(p))); ; {
			if _, err := decoder.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", p.Name, err)
			}
		}
		// Without style sheets, attributes alone must show it.
		if m := regexp.MustCompile(`\sstyle=|var\(`).FindString(p.SVG); m != "" {
			t.Errorf("%s needs CSS: %s", p.Name, m)
		}
		for _, m := range colours.FindAllStringSubmatch(p.SVG, -1) {
			if !slices.Contains(slices.Collect(maps.Values(light)), m[2]) {
				t.Errorf("%s has a colour that is not the page's: %s", p.Name, m[0])
			}
		}
		if p.Wide {
			continue // its colours are those of kinds, not targets
		}
		for _, v := range []string{light["ink"], light["hue0"], light["hue1"], `fill-hue0`, `stroke-ink`} {
			if !strings.Contains(p.SVG, v) {
				t.Errorf("%s lacks %s", p.Name, v)
			}
		}
	}
}

func TestPlotsOfLittle(t *testing.T) {
	d := &result.Document{Targets: []result.Target{{Name: "a"}, {Name: "b"}}}
	d.Add("b", result.Key{Workload: bench.WorkloadExec, Step: "command", Unit: result.Seconds}, 1)
	d.Fail("a", result.Key{Workload: bench.WorkloadPull, Step: "pull", Unit: result.Seconds}, errors.New("no"))
	plots, err := Plots(d)
	if err != nil {
		t.Fatal(err)
	}
	if len(plots) != 2 {
		t.Errorf("%d plots, want 2", len(plots))
	}
	var b strings.Builder
	if err := HTML(&b, &result.Document{Targets: d.Targets}, "a"); err != nil {
		t.Errorf("a page of nothing: %v", err)
	}
}

func TestTimeline(t *testing.T) {
	svg := timelinePlot(timeline()).SVG
	for _, want := range []string{
		"Start of a pod on a&lt;b&gt;: medians of 30", "205 ms + 40.0 ms", "at 190 ms", "Docker: start &lt;sandbox&gt;",
		"250 ms: Docker 195 ms, CNI 40.0 ms, neither of them 15.0 ms",
		// From 205 to 245 ms of 250.
		`<rect x="565.3" y="133" width="66.4" height="10" fill="` + light["hue1"] + `" class="fill-hue1"/>`,
	} {
		if !strings.Contains(svg, want) {
			t.Errorf("the drawing lacks %s:\n%s", want, svg)
		}
	}
	var b strings.Builder
	if err := TimelineTable(&b, timeline()); err != nil {
		t.Fatal(err)
	}
	if want := regexp.MustCompile(`(?m)^  CNI ADD +CNI +205 ms +40\.0 ms`); !want.MatchString(b.String()) {
		t.Errorf("the table lacks %s:\n%s", want, b.String())
	}
}

func TestTickStep(t *testing.T) {
	for length, want := range map[float64]float64{8: 1, 95: 10, 101: 20, 380: 50, 999: 100, 1000: 100} {
		if got := tickStep(length); got != want {
			t.Errorf("step of %g: %g, want %g", length, got, want)
		}
	}
}

func TestTable(t *testing.T) {
	var b strings.Builder
	if err := Table(&b, document(), "a<b>"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`(?m)^pod start +sum +a<b> +10 +261 ms +272 ms *$`, `(?m)^ +b +10 +522 ms +545 ms +2\.00 \[`, `note: a note`, `failed: b, exec, command: 1 times, last: no <way>`} {
		if !regexp.MustCompile(want).MatchString(b.String()) {
			t.Errorf("the table lacks %s:\n%s", want, b.String())
		}
	}
}

func TestCompareFindsWhatIsWorse(t *testing.T) {
	older, newer := document(), document()
	for _, s := range newer.Series {
		if s.Workload == bench.WorkloadExec && s.Target == "b" {
			for i := range s.Samples {
				s.Samples[i] *= 1.5
			}
		}
	}
	var b strings.Builder
	worse, err := CompareTable(&b, Compare(older, newer, ""), 0.05, false)
	if err != nil || worse != 1 {
		t.Errorf("%d worse, %v, want 1:\n%s", worse, err, b.String())
	}
	if worse, _ := CompareTable(io.Discard, Compare(newer, older, ""), 0.05, false); worse != 0 {
		t.Errorf("%d worse the other way round", worse)
	}
}

func TestCompareRelativeToAReference(t *testing.T) {
	older, newer := document(), document()
	for _, s := range newer.Series { // the whole machine at half its speed
		for i := range s.Samples {
			s.Samples[i] *= 2
		}
	}
	if worse, _ := CompareTable(io.Discard, Compare(older, newer, "a<b>"), 0.05, true); worse != 0 {
		t.Errorf("%d worse, want none: the reference is as slow", worse)
	}
	if worse, _ := CompareTable(io.Discard, Compare(older, newer, ""), 0.05, true); worse == 0 {
		t.Error("nothing is worse without a reference")
	}
}

func TestWriteAll(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "report")
	if err := WriteAll(dir, document(), "b"); err != nil {
		t.Fatal(err)
	}
	svg, err := os.ReadFile(filepath.Join(dir, "plots", "pod-start-step-by-step.svg"))
	if err != nil {
		t.Fatal(err)
	}
	if s := string(svg); !strings.HasPrefix(s, "<svg ") || !strings.Contains(s, "prefers-color-scheme") {
		t.Errorf("not a drawing with style: %.200s", s)
	}
}

func TestFormat(t *testing.T) {
	for _, c := range []struct {
		v    float64
		unit string
		want string
	}{
		{0.000_123_4, "s", "123 µs"}, {0.012_34, "s", "12.3 ms"}, {1.234, "s", "1.23 s"}, {0.999_9, "s", "1000 ms"},
		{12.34, "MiB", "12.3 MiB"}, {1234, "MiB", "1234 MiB"}, {0, "ms/s", "0 ms/s"}, {math.NaN(), "s", "–"},
	} {
		if got := format(c.v, c.unit); got != c.want {
			t.Errorf("format(%v, %s) = %q, want %q", c.v, c.unit, got, c.want)
		}
	}
}

func TestVerdictNeedsAnInterval(t *testing.T) {
	nan := math.NaN()
	for want, r := range map[string]stat.Ratio{
		"less": {Value: 0.5, Low: 0.4, High: 0.9},
		"more": {Value: 2, Low: 1.1, High: 3},
		"":     {Value: 2, Low: nan, High: nan},
	} {
		if got := (Row{Ratio: r}).Verdict(); got != want {
			t.Errorf("verdict of %v: %q, want %q", r, got, want)
		}
	}
}
