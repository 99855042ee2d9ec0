package logs

import (
	"bufio"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestStates follows every transition of the state machine.
func TestStates(t *testing.T) {
	n := newNode(t, 0, 1)
	tailer := New(Options{})
	n.start(tailer)
	f, err := tailer.find(n.src.ID)
	must(err)
	in := func(want state) {
		t.Helper()
		if f.state != want {
			t.Fatalf("state %d, want %d", f.state, want)
		}
		opened := f.out.criFile != nil && f.pos.file != nil
		if opened != want.open() || !opened && (f.out.criFile != nil || f.pos.file != nil || f.in.cur != nil) {
			t.Fatalf("state %d: output %v, position %v, input %v", want, f.out.criFile, f.pos.file, f.in.cur)
		}
	}
	step := func() {
		t.Helper()
		if _, err := f.step(getBuffers()); err != nil {
			t.Fatal(err)
		}
	}
	in(following)
	n.numbered(0, 3)
	step()

	f.release()
	in(closed)
	must(os.Rename(n.criPath(), n.criPath()+".20240506-070809"))
	n.start(tailer)
	in(renamed)
	step()
	in(following)
	n.numbered(3, 6)
	step()

	f.release()
	must(os.WriteFile(n.src.Position, nil, 0o600))
	n.start(tailer)
	in(searching)
	step()
	in(following)

	n.numbered(6, 9)
	for range 2 {
		n.drain(tailer)
		in(drained)
	}
	f.release()
	in(drained)
	n.start(tailer)
	in(following)
	n.wantNumbered(9)

	must(tailer.Remove(n.src.ID, n.src.Position))
	in(removed)
	for _, s := range []state{closed, following, drained} {
		f.enter(s)
		in(removed)
	}
}

// TestRemovedDuringStream removes a container between two records of its stream,
// and before a stream is opened: nothing is written or opened.
func TestRemovedDuringStream(t *testing.T) {
	a := newFakeAPI()
	n := apiNode(t, a)
	tailer := New(fastRetry)
	n.start(tailer)
	f, err := tailer.find(n.src.ID)
	must(err)
	must(tailer.Remove(n.src.ID, n.src.Position))
	must(os.RemoveAll(filepath.Dir(n.criPath())))

	s := apiStream{r: bufio.NewReader(strings.NewReader("")), out: []byte("a line\n"), lines: 1}
	if err := tailer.deliver(t.Context(), f, &s); !errors.Is(err, errFinished) {
		t.Errorf("deliver: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tailer.serveAPI(ctx, f)
	if ctx.Err() != nil {
		t.Error("a removed container was served until the timeout")
	}
	for _, path := range []string{n.src.Position, filepath.Dir(n.criPath())} {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s was created for a removed container: %v", path, err)
		}
	}
	if a.opened != 0 {
		t.Errorf("%d streams were opened", a.opened)
	}
}

// TestDrainedStreamIsNotReopened wakes a drained container.
func TestDrainedStreamIsNotReopened(t *testing.T) {
	a := newFakeAPI()
	n := apiNode(t, a)
	tailer := New(fastRetry)
	run(t, tailer)
	n.start(tailer)
	a.add(recordTime, stdout, "one\n")
	a.update(func() { a.exited = true })
	n.drain(tailer)
	f, err := tailer.find(n.src.ID)
	must(err)
	<-f.run.wait()
	before := tailer.Stats().APIStreams
	if err := tailer.Reopen(t.Context(), n.src.ID); err == nil {
		t.Error("a drained log was reopened")
	}
	<-f.run.wait()
	if now := tailer.Stats().APIStreams; now != before {
		t.Errorf("%d streams, %d before", now, before)
	}
}
