package syncbuffer

import (
	"fmt"
	"strings"
	"sync"
	"testing"
)

func TestBuffer(t *testing.T) {
	var b Buffer
	var writers sync.WaitGroup
	for i := range 10 {
		writers.Go(func() {
			for range 100 {
				_, _ = fmt.Fprintf(&b, "line %d\n", i)
				if s := b.String(); s[len(s)-1] != '\n' {
					t.Errorf("half a write: %q", s)
				}
			}
		})
	}
	writers.Wait()
	if got, want := b.Lines("7"), strings.Repeat("line 7\n", 100); got != want {
		t.Errorf("lines with a 7: %q", got)
	}
	if n := len(b.String()); n != 1000*len("line 0\n") {
		t.Errorf("%d bytes", n)
	}
}
