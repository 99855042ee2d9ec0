package leakcheck

import (
	"os"
	"testing"
	"time"
)

func TestCount(t *testing.T) {
	before := Now(t)
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	end := make(chan struct{})
	go func() { <-end }()
	if now := Now(t); now.Goroutines != before.Goroutines+1 || now.Files != before.Files+1 {
		t.Errorf("%+v, before: %+v", now, before)
	}
	time.AfterFunc(50*time.Millisecond, func() {
		_ = f.Close()
		close(end)
	})
	before.Await(t, time.Minute)
	if now := Now(t); now.Goroutines > before.Goroutines || now.Files > before.Files {
		t.Errorf("%+v remain, before: %+v", now, before)
	}
}
