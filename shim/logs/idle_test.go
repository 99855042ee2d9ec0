package logs

import (
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"syscall"
	"testing"
	"time"
)

const idleContainers = 200

// startMany follows containers that have written something and then stay idle.
func startMany(tb testing.TB, tailer *Tailer) {
	tb.Helper()
	root := tb.TempDir()
	for i := range idleContainers {
		src := sourceIn(filepath.Join(root, strconv.Itoa(i)))
		src.ID = strconv.Itoa(i)
		must(os.MkdirAll(filepath.Dir(src.DockerLog), 0o700))
		n := &node{tb: tb, src: src, docker: newDockerLog(tb, filepath.Dir(src.DockerLog), 0, 1)}
		n.numbered(0, 20)
		n.start(tailer)
	}
	eventually(tb, "all idle", func() bool {
		if tailer.Stats().Lines < 20*idleContainers {
			return false
		}
		for _, f := range tailer.all() {
			<-f.run.wait()
		}
		return true
	})
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	must(syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func TestIdleContainersCostNothing(t *testing.T) {
	tailer := New(Options{})
	run(t, tailer)
	goroutines := runtime.NumGoroutine()
	startMany(t, tailer)
	if now := runtime.NumGoroutine(); now > goroutines+2 {
		t.Errorf("%d goroutines for %d idle containers", now-goroutines, idleContainers)
	}
	debug.FreeOSMemory() // in the background, this would take time
	const span = time.Second
	var used time.Duration
	for range 5 { // of which one is without what Go's runtime does now and then
		before := cpuTime()
		time.Sleep(span) // the span that is measured
		used = cpuTime() - before
		t.Logf("%v of CPU in %v for %d idle containers", used, span, idleContainers)
		if used <= span/30 { // looking at each file fifty times would take more
			return
		}
	}
	t.Errorf("%v of CPU in %v", used, span)
}

func BenchmarkIdleMemory(b *testing.B) {
	for b.Loop() {
		tailer := New(Options{})
		stop := run(b, tailer)
		before := memory()
		startMany(b, tailer)
		b.ReportMetric(float64(memory()-before)/idleContainers, "B/container")
		stop()
	}
}

// memory returns the bytes of heap and stacks in use.
func memory() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// BenchmarkTailer copies 64 MB, from the first byte to the drained end.
func BenchmarkTailer(b *testing.B) {
	n := newNode(b, 0, 1)
	log := benchLog("100-byte-lines")
	for size := 0; size < 64<<20; size += len(log) {
		_, err := n.docker.f.Write(log)
		must(err)
	}
	info, err := n.docker.f.Stat()
	must(err)
	b.SetBytes(info.Size())
	b.ReportAllocs()
	before := cpuTime()
	for b.Loop() {
		tailer := New(Options{})
		n.start(tailer)
		n.drain(tailer)
		if err := tailer.Remove(n.src.ID, n.src.Position); err != nil {
			b.Fatal(err)
		}
		must(os.Remove(n.criPath()))
	}
	b.ReportMetric((cpuTime()-before).Seconds()/(float64(b.N)*float64(info.Size())/1e9), "cpu-s/GB")
}
