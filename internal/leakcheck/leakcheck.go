// Package leakcheck finds goroutines and open files that a test leaves behind. It
// counts those of the whole process, so nothing else may run in parallel.
package leakcheck

import (
	"os"
	"runtime"
	"testing"
	"time"
)

// Count is a number of goroutines and of open files.
type Count struct{ Goroutines, Files int }

// Now returns the current numbers.
func Now(t testing.TB) Count {
	t.Helper()
	return Count{Goroutines: runtime.NumGoroutine(), Files: OpenFiles(t)}
}

// OpenFiles returns the number of file descriptors that the process has open.
func OpenFiles(t testing.TB) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

// Await waits until there are no more of either than c. After limit it fails the test
// with the stacks of all goroutines.
func (c Count) Await(t testing.TB, limit time.Duration) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for now := Now(t); now.Goroutines > c.Goroutines || now.Files > c.Files; now = Now(t) {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			t.Errorf("left behind: %d goroutines, %d before; %d files, %d before\n%s", now.Goroutines, c.Goroutines,
				now.Files, c.Files, stacks[:runtime.Stack(stacks, true)])
			return
		}
		time.Sleep(time.Millisecond)
	}
}
