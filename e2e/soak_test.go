package e2e

import (
	"bytes"
	"context"
	"encoding/csv"
	"fmt"
	"image/color"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	soakAtOnce = 10
	// plotted is the maximum number of samples in a plot.
	plotted = 400
)

// sample is what cridock holds at one moment.
type sample struct {
	at         time.Duration
	pods       int     // pods that have been removed
	memory     float64 // resident, MiB
	fds        float64
	goroutines float64
}

// TestSoak runs and removes many pods, twenty at a time: each is probed and its
// log is read. None may fail, and what cridock holds must not grow with their
// number. CRIDOCK_E2E_SOAK is the number of pods; CRIDOCK_E2E_SOAK_CSV and
// CRIDOCK_E2E_SOAK_SVG name files for the samples and a plot of them. To
// measure a release build, run it without the race detector, with
// CGO_ENABLED=0.
func TestSoak(t *testing.T) {
	t.Parallel()
	pods := 40
	if v := os.Getenv("CRIDOCK_E2E_SOAK"); v != "" {
		var err error
		if pods, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	}
	c := newCridock(t, newNode(t), "cni", metricsFlags...)
	before := c.warmUp(t)
	c.soak(t, soakAtOnce, nil) // from here on, buffers and pools are full
	heap := c.heap(t)

	var gone atomic.Int64
	start := time.Now()
	var samples []sample
	sampled := make(chan struct{})
	ctx, stop := context.WithCancel(t.Context())
	go func() {
		defer close(sampled)
		for tick := time.NewTicker(500 * time.Millisecond); ctx.Err() == nil; {
			s := c.sample(t)
			s.at, s.pods = time.Since(start), int(gone.Load())
			samples = append(samples, s)
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	}()
	failures := c.soak(t, pods, &gone)
	took := time.Since(start)
	stop()
	<-sampled
	after := c.heap(t)

	c.checkNothingLeft(t, before)
	// A kilobyte per pod may remain for a minute: IDs of removed objects.
	if grown := after - heap; grown > 4<<20+float64(pods)*1024 {
		t.Errorf("%.1f MiB are in use after %d pods, before it were %.1f", after/(1<<20), pods, heap/(1<<20))
	}
	early, late := span(samples, 0.25, 0.5), span(samples, 0.75, 1)
	t.Logf("%d pods, %d failures, %v; resident %.1f then %.1f MiB, descriptors %.0f then %.0f, goroutines %.0f then %.0f (medians of the second and the last quarter, %d samples); heap after collection %.1f then %.1f MiB",
		pods, failures, took.Round(time.Second), early.memory, late.memory, early.fds, late.fds, early.goroutines, late.goroutines, len(samples), heap/(1<<20), after/(1<<20))
	if late.memory > 1.2*early.memory+8 || late.fds > 1.2*early.fds+20 || late.goroutines > 1.2*early.goroutines+50 {
		t.Error("what cridock holds grows with the pods that have gone")
	}
	writeSamples(t, samples)
	plotSamples(t, pods, samples)
}

// soak runs pods, several at a time, and counts the failures.
func (c *cridock) soak(t *testing.T, pods int, gone *atomic.Int64) (failures int64) {
	t.Helper()
	var workers sync.WaitGroup
	var failed, next atomic.Int64
	for range soakAtOnce {
		workers.Go(func() {
			for next.Add(1) <= int64(pods) {
				if err := c.soakPod(t); err != nil {
					failed.Add(1)
					t.Error(err)
				}
				if gone != nil {
					gone.Add(1)
				}
			}
		})
	}
	workers.Wait()
	return failed.Load()
}

// soakPod runs one pod from creation to removal.
func (c *cridock) soakPod(t *testing.T) error {
	p := &pod{cridock: c, t: t, cfg: c.podConfig(t)}
	defer func() { _ = os.RemoveAll(p.cfg.LogDirectory) }() // done by the kubelet
	r, err := try(c.runtime.RunPodSandbox, &runtimeapi.RunPodSandboxRequest{Config: p.cfg})
	if err != nil {
		return fmt.Errorf("RunPodSandbox: %w", err)
	}
	p.id = r.PodSandboxId
	m := &ctr{pod: p, cfg: p.ctrConfig("main", "echo started; exec sleep 100000")}
	if m.id, err = p.tryCreate(m.cfg); err != nil {
		return fmt.Errorf("CreateContainer: %w", err)
	}
	if _, err := try(c.runtime.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: m.id}); err != nil {
		return fmt.Errorf("StartContainer: %w", err)
	}
	for range 2 {
		probe, err := m.exec(longTimeout, "echo", "alive")
		if err != nil || probe.ExitCode != 0 || string(probe.Stdout) != "alive\n" {
			return fmt.Errorf("probe: %v, %w", probe, err)
		}
	}
	if s, err := try(c.runtime.ContainerStatus, &runtimeapi.ContainerStatusRequest{ContainerId: m.id}); err != nil || s.Status.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return fmt.Errorf("status: %v, %w", s, err)
	}
	if err := m.awaitStarted(); err != nil {
		return err
	}
	if _, err := try(c.runtime.StopPodSandbox, &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.id}); err != nil {
		return fmt.Errorf("StopPodSandbox: %w", err)
	}
	if _, err := try(c.runtime.RemovePodSandbox, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.id}); err != nil {
		return fmt.Errorf("RemovePodSandbox: %w", err)
	}
	return nil
}

// awaitStarted waits for the log's only line.
func (m *ctr) awaitStarted() error {
	var b []byte
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		b, _ = os.ReadFile(m.logPath())
		if strings.HasSuffix(string(b), " stdout F started\n") && bytes.Count(b, []byte("\n")) == 1 {
			return nil
		}
	}
	return fmt.Errorf("log is %q", b)
}

func (c *cridock) sample(t testing.TB) (s sample) {
	t.Helper()
	pid, err := c.process()
	if err != nil {
		t.Error(err)
		return s
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Error(err)
		return s
	}
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); f[0] == "VmRSS:" {
			kib, _ := strconv.ParseFloat(f[1], 64)
			s.memory = kib / 1024
		}
	}
	for _, n := range openFiles(pid) {
		s.fds += float64(n)
	}
	s.goroutines, err = c.metric("go_goroutines")
	if err != nil {
		t.Error(err)
	}
	return s
}

// metric returns the value of one of cridock's metrics.
func (c *cridock) metric(name string) (float64, error) {
	b, err := c.observe("/metrics")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, fmt.Errorf("no metric %s", name)
}

// observe reads a page from cridock's metrics address.
func (c *cridock) observe(path string) ([]byte, error) {
	resp, err := c.http().Get("http://127.0.0.1:9911" + path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", path, resp.Status)
	}
	return b, err
}

// heap returns the bytes in use right after a garbage collection.
func (c *cridock) heap(t testing.TB) float64 {
	t.Helper()
	least := 0.0
	for range 3 {
		if _, err := c.observe("/debug/pprof/heap?gc=1"); err != nil {
			t.Fatal(err)
		}
		used, err := c.metric("go_memstats_heap_alloc_bytes")
		if err != nil {
			t.Fatal(err)
		}
		if least == 0 || used < least {
			least = used
		}
	}
	return least
}

// span returns the median of the samples between two fractions of the run.
func span(samples []sample, from, to float64) sample {
	part := samples[int(from*float64(len(samples))):max(1, int(to*float64(len(samples))))]
	median := func(value func(sample) float64) float64 {
		var values []float64
		for _, s := range part {
			values = append(values, value(s))
		}
		slices.Sort(values)
		return values[len(values)/2]
	}
	return sample{
		memory:     median(func(s sample) float64 { return s.memory }),
		fds:        median(func(s sample) float64 { return s.fds }),
		goroutines: median(func(s sample) float64 { return s.goroutines }),
	}
}

func writeSamples(t *testing.T, samples []sample) {
	t.Helper()
	path := os.Getenv("CRIDOCK_E2E_SOAK_CSV")
	if path == "" {
		return
	}
	var b bytes.Buffer
	w := csv.NewWriter(&b)
	rows := [][]string{{"seconds", "pods", "resident_mib", "descriptors", "goroutines"}}
	for _, s := range samples {
		rows = append(rows, []string{fmt.Sprintf("%.1f", s.at.Seconds()), strconv.Itoa(s.pods), fmt.Sprintf("%.1f", s.memory), fmt.Sprint(s.fds), fmt.Sprint(s.goroutines)})
	}
	if err := w.WriteAll(rows); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// plotSamples plots what is held over the number of removed pods.
func plotSamples(t *testing.T, pods int, samples []sample) {
	t.Helper()
	path := os.Getenv("CRIDOCK_E2E_SOAK_SVG")
	if path == "" {
		return
	}
	const width, height = 720, 240
	canvas := vgsvg.New(vg.Points(width), vg.Points(height))
	area := draw.New(canvas)
	area.FillPolygon(color.White, []vg.Point{{}, {X: vg.Points(width)}, {X: vg.Points(width), Y: vg.Points(height)}, {Y: vg.Points(height)}})
	var panels []*plot.Plot
	for _, panel := range []struct {
		title string
		value func(sample) float64
	}{
		{"resident memory, MiB", func(s sample) float64 { return s.memory }},
		{"file descriptors", func(s sample) float64 { return s.fds }},
		{"goroutines", func(s sample) float64 { return s.goroutines }},
	} {
		p := plot.New()
		p.Title.Text, p.X.Label.Text = panel.title, fmt.Sprintf("pods gone, %d at a time", soakAtOnce)
		p.X.Min, p.X.Max, p.Y.Min = 0, float64(pods), 0
		var points plotter.XYs
		for i, s := range samples {
			p.Y.Max = max(p.Y.Max, 1.15*panel.value(s))
			if i%(len(samples)/plotted+1) == 0 {
				points = append(points, plotter.XY{X: float64(s.pods), Y: panel.value(s)})
			}
		}
		cloud, err := plotter.NewScatter(points)
		if err != nil {
			t.Fatal(err)
		}
		cloud.GlyphStyle = draw.GlyphStyle{Color: color.RGBA{R: 0x1f, G: 0x6f, B: 0xb4, A: 0xff}, Radius: vg.Points(1), Shape: draw.CircleGlyph{}}
		grid := plotter.NewGrid()
		grid.Vertical.Color = nil
		p.Add(grid, cloud)
		panels = append(panels, p)
	}
	tiles := draw.Tiles{Rows: 1, Cols: len(panels), PadX: vg.Points(10), PadTop: vg.Points(6), PadBottom: vg.Points(6), PadLeft: vg.Points(6), PadRight: vg.Points(12)}
	for i, tile := range plot.Align([][]*plot.Plot{panels}, tiles, area)[0] {
		panels[i].Draw(tile)
	}
	var b bytes.Buffer
	if _, err := canvas.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}
