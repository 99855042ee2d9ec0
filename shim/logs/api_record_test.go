package logs

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A record that contains line feeds becomes several lines.
func TestAPIRecordOfSeveralLines(t *testing.T) {
	a := newFakeAPI()
	n := apiNode(t, a)
	a.add(recordTime, stdout, "one\ntwo\n")
	a.add(recordTime, stderr, "three\n\nfour")
	a.add(recordTime, stdout, "\n")
	a.add(recordTime, stdout, "")
	a.update(func() { a.exited = true })
	tailer := New(fastRetry)
	run(t, tailer)
	n.start(tailer)
	n.drain(tailer)
	var want strings.Builder
	for _, line := range []string{"stdout F one", "stdout F two", "stderr F three", "stderr F ", "stderr P four", "stdout F ", "stdout P "} {
		want.WriteString(recordTime.Format(time.RFC3339Nano) + " " + line + "\n")
	}
	if diff := cmp.Diff(want.String(), n.cri()); diff != "" {
		t.Error(diff)
	}
}

// criLine is what the kubelet and log agents parse.
var criLine = regexp.MustCompile(`^(\S+) (stdout|stderr) [FP] [^\n]*$`)

// FuzzAPILog: whatever the stream contains, every line written is a valid CRI line.
func FuzzAPILog(f *testing.F) {
	frame := func(stream byte, record string) []byte {
		header := [8]byte{stream}
		binary.BigEndian.PutUint32(header[4:], uint32(len(record)))
		return append(header[:], record...)
	}
	at := recordTime.Format(time.RFC3339Nano) + " "
	f.Add(frame(1, at+"one\n"), false)
	f.Add(append(frame(2, at+"one\ntwo"), frame(1, at+"\n\n")...), false)
	f.Add([]byte(at+"one\r\n"+at+"long"+at+"er\n"), true)
	f.Add(frame(1, "0000-01-01T00:00:00+01:00 year -1\n"), false)
	f.Add(frame(3, "error from the daemon"), false)
	f.Fuzz(func(t *testing.T, stream []byte, tty bool) {
		s := apiStream{r: bufio.NewReader(bytes.NewReader(stream)), tty: tty}
		var err error
		for err == nil {
			err = s.next()
		}
		if errors.Is(err, io.ErrNoProgress) {
			t.Fatal(err)
		}
		lines := bytes.Split(s.out, []byte("\n"))
		if last := lines[len(lines)-1]; len(last) > 0 {
			t.Fatalf("an unfinished line: %q", last)
		}
		for _, line := range lines[:len(lines)-1] {
			m := criLine.FindSubmatch(line)
			if m == nil {
				t.Fatalf("%q is no CRI line", line)
			}
			if _, err := time.Parse(time.RFC3339Nano, string(m[1])); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
		}
		if len(lines)-1 != s.lines {
			t.Errorf("%d lines are counted, %d are there", s.lines, len(lines)-1)
		}
	})
}
