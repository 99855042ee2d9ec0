package logs

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// fakeAPI streams records as the Engine's GET /containers/ID/logs does with
// follow, timestamps and since.
type fakeAPI struct {
	tty bool

	mu      sync.Mutex
	records []apiRecord
	changed chan struct{}
	exited  bool
	opened  int
	// cut ends every stream after that many bytes, in the middle of a record.
	cut int
}

type apiRecord struct {
	time         time.Time
	stream, text string
}

func newFakeAPI() *fakeAPI { return &fakeAPI{changed: make(chan struct{})} }

func (a *fakeAPI) add(t time.Time, stream, text string) {
	a.update(func() { a.records = append(a.records, apiRecord{t, stream, text}) })
}

func (a *fakeAPI) update(change func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change()
	close(a.changed)
	a.changed = make(chan struct{})
}

// after returns the records from index on, whether there will be more, and a
// channel that is closed at the next change.
func (a *fakeAPI) after(index int) ([]apiRecord, bool, <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.records[index:], !a.exited, a.changed
}

func (a *fakeAPI) follow(ctx context.Context, since time.Time) (io.ReadCloser, error) {
	a.mu.Lock()
	a.opened++
	limit := a.cut
	a.mu.Unlock()
	r, w := io.Pipe()
	go func() {
		sent := 0
		for index := 0; ; {
			records, running, changed := a.after(index)
			for _, rec := range records {
				index++
				if rec.time.Before(since) {
					continue
				}
				frame := a.frame(rec)
				if limit > 0 && sent+len(frame) > limit {
					_, _ = w.Write(frame[:limit-sent])
					_ = w.CloseWithError(io.ErrUnexpectedEOF)
					return
				}
				if _, err := w.Write(frame); err != nil {
					return
				}
				sent += len(frame)
			}
			if len(records) > 0 {
				continue
			}
			if !running {
				_ = w.Close()
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				_ = w.CloseWithError(ctx.Err())
				return
			}
		}
	}()
	return r, nil
}

func (a *fakeAPI) frame(rec apiRecord) []byte {
	text := rec.time.Format("2006-01-02T15:04:05.000000000Z07:00") + " " + rec.text
	if a.tty {
		return []byte(text)
	}
	header := [8]byte{1}
	if rec.stream == stderr {
		header[0] = 2
	}
	binary.BigEndian.PutUint32(header[4:], uint32(len(text)))
	return append(header[:], text...)
}

func apiNode(t *testing.T, a *fakeAPI) *node {
	src := sourceIn(t.TempDir())
	src.Follow, src.TTY = a.follow, a.tty // Docker's directory is missing
	return &node{tb: t, src: src}
}

var fastRetry = Options{RetryMin: time.Millisecond, RetryMax: 5 * time.Millisecond}

func TestAPIFallback(t *testing.T) {
	a := newFakeAPI()
	n := apiNode(t, a)
	tailer := New(fastRetry)
	stop := run(t, tailer)
	n.start(tailer)
	a.add(recordTime, stdout, "one\n")
	n.eventuallyHas("one")
	a.add(recordTime, stderr, "same time\n")
	a.add(recordTime, stdout, "half")
	n.eventuallyHas("half")
	must(os.Rename(n.criPath(), n.criPath()+".20240506-070809"))
	n.reopen(tailer)
	stop()
	a.add(recordTime, stdout, "same time, later\n")
	a.add(recordTime.Add(time.Second), stdout, "two\n")
	a.update(func() { a.cut = 300 })

	tailer = New(fastRetry)
	run(t, tailer)
	n.start(tailer)
	for i := range 20 {
		a.add(recordTime.Add(2*time.Second), stdout, "equal "+strconv.Itoa(i)+"\n")
	}
	n.eventuallyHas("equal 0")
	a.update(func() { a.cut = 0; a.exited = true })
	n.drain(tailer)
	want := []string{"one", "same time", "half", "same time, later", "two"}
	for i := range 20 {
		want = append(want, "equal "+strconv.Itoa(i))
	}
	if diff := cmp.Diff(want, texts(n.cri())); diff != "" {
		t.Error(diff)
	}
	if got := n.cri(); !strings.Contains(got, "Z stderr F same time\n") || !strings.Contains(got, "Z stdout P half\n") {
		t.Error(got)
	}
	if a.opened < 3 {
		t.Errorf("%d streams", a.opened)
	}
}

func TestAPIRecoveryAtEveryByte(t *testing.T) {
	a := newFakeAPI()
	n := apiNode(t, a)
	carry := func() {
		t.Helper()
		tailer := New(fastRetry)
		stop := run(t, tailer)
		n.start(tailer)
		n.drain(tailer)
		stop()
	}
	for i := range 3 {
		a.add(recordTime, stdout, "line "+strconv.Itoa(i)+"\n")
	}
	a.exited = true
	carry()
	behind, err := os.ReadFile(n.src.Position)
	must(err)
	before := len(n.cri())
	for i := range 3 {
		a.add(recordTime.Add(time.Duration(i)), stdout, "line "+strconv.Itoa(i+3)+"\n")
	}
	carry()
	whole := n.cri()
	n.wantNumbered(6)
	for size := before; size <= len(whole); size++ {
		must(os.Truncate(n.criPath(), int64(size)))
		must(os.WriteFile(n.src.Position, behind, 0o600))
		carry()
		if diff := cmp.Diff(whole, n.cri()); diff != "" {
			t.Fatalf("%d bytes were there: %s", size, diff)
		}
	}
}

func TestAPITerminal(t *testing.T) {
	a := newFakeAPI()
	a.tty = true
	n := apiNode(t, a)
	tailer := New(fastRetry)
	run(t, tailer)
	n.start(tailer)
	long := strings.Repeat("x", 16<<10)
	a.add(recordTime, stdout, "$ ls\r\n")
	a.add(recordTime.Add(1), stdout, long)
	a.add(recordTime.Add(1), stdout, long)
	a.add(recordTime.Add(1), stdout, "end\r\n")
	a.add(recordTime.Add(2), stdout, "$ ")
	a.update(func() { a.exited = true })
	n.drain(tailer)
	var want bytes.Buffer
	for i, line := range []string{"F $ ls\r", "P " + long, "P " + long, "F end\r", "P $ "} {
		at := recordTime.Add([]time.Duration{0, 1, 1, 1, 2}[i])
		want.WriteString(at.Format(time.RFC3339Nano) + " stdout " + line + "\n")
	}
	if diff := cmp.Diff(want.String(), n.cri()); diff != "" {
		t.Error(diff)
	}
}

// If a stream breaks within a line, that line has not been delivered.
func TestAPITerminalStreamBreaks(t *testing.T) {
	a := newFakeAPI()
	a.tty, a.exited = true, true
	n := apiNode(t, a)
	for i := range 4 {
		a.add(recordTime.Add(time.Duration(i)), stdout, "line "+strconv.Itoa(i)+"\n")
	}
	a.cut = 60
	n.src.Follow = func(ctx context.Context, since time.Time) (io.ReadCloser, error) {
		stream, err := a.follow(ctx, since)
		a.update(func() { a.cut += 7 })
		return stream, err
	}
	tailer := New(fastRetry)
	run(t, tailer)
	n.start(tailer)
	n.drain(tailer)
	n.wantNumbered(4)
}

// Docker's files appear and disappear between restarts of cridock.
func TestSourceChanges(t *testing.T) {
	a := newFakeAPI()
	a.exited = true
	n := newNode(t, 0, 1)
	n.src.Follow = a.follow
	clock := recordTime
	dir := filepath.Dir(n.src.DockerLog)
	n.docker.now = func() time.Time { clock = clock.Add(100); return clock }
	for round := range 4 {
		n.numbered(round*10, round*10+10)
		for i := range 10 {
			a.add(recordTime.Add(time.Duration(100*(round*10+i+1))), stdout, "line "+strconv.Itoa(round*10+i)+"\n")
		}
		if round%2 == 1 {
			must(os.Rename(dir, dir+".away"))
		}
		tailer := New(fastRetry)
		stop := run(t, tailer)
		n.start(tailer)
		n.drain(tailer)
		stop()
		if round%2 == 1 {
			must(os.Rename(dir+".away", dir))
		}
		n.wantNumbered(round*10 + 10)
	}
	if a.opened == 0 {
		t.Error("API was not used")
	}
}

func TestAPIErrorsAreRetried(t *testing.T) {
	a := newFakeAPI()
	a.exited = true
	a.add(recordTime, stdout, "line 0\n")
	n := apiNode(t, a)
	failures := 5
	n.src.Follow = func(ctx context.Context, since time.Time) (io.ReadCloser, error) {
		if failures > 0 {
			failures--
			return nil, errors.New("daemon is away")
		}
		return a.follow(ctx, since)
	}
	tailer := New(fastRetry)
	run(t, tailer)
	n.start(tailer)
	n.drain(tailer)
	n.wantNumbered(1)
	if s := tailer.Stats(); s.Errors != 5 || s.APIStreams == 0 {
		t.Errorf("%+v", s)
	}
}
