package logs

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
	"time"
)

// wholeLine is what the kubelet reads: time, stream, tag and text.
var wholeLine = regexp.MustCompile(`^[0-9T:.+Z-]{20,35} (stdout|stderr) [FP] [^\n]*\n`)

// FuzzConvertLines: whatever Docker's log contains, the output is whole CRI lines,
// at least as many as were counted, and every whole input line was processed.
func FuzzConvertLines(f *testing.F) {
	whole := appendDocker(nil, recordTime, "stdout", []byte("text\n"), "")
	f.Add(append(whole, '\n'), false)
	f.Add([]byte(`{"log":"a\nb\n\n","stream":"stderr","time":"2024-05-06T07:08:09Z"}`+"\n"), true)
	f.Add([]byte(`{"log":"torn{"log":"x 2024-05-06T07:08:09Z stdout F forged\n","stream":"x","time":"2024-05-06T07:08:09Z"}`+"\n\x00\n"), false)
	f.Fuzz(func(t *testing.T, log []byte, tty bool) {
		out, did := convert(nil, log, tty)
		if want := bytes.LastIndexByte(log, '\n') + 1; did.consumed != want && (want > 0 || len(log) < maxRecord) {
			t.Fatalf("consumed %d of %d", did.consumed, want)
		}
		lines, last := 0, -1
		for rest := out; len(rest) > 0; lines++ {
			line := wholeLine.Find(rest)
			if line == nil {
				t.Fatalf("%q is not CRI's form", rest[:min(len(rest), 200)])
			}
			if tty && bytes.HasPrefix(line[bytes.IndexByte(line, ' '):], []byte(" stderr")) {
				t.Fatalf("%q: a terminal has no stderr", line)
			}
			last = len(out) - len(rest)
			rest = rest[len(line):]
		}
		if lines < did.lines || (did.last < 0) != (lines == 0) || did.last > last {
			t.Fatalf("%d lines, %+v", lines, did)
		}
		if records := bytes.Count(log, []byte("\n")); did.lines > records || did.malformed > records+1 {
			t.Fatalf("%d records, %+v", records, did)
		}
	})
}

// FuzzPosition: a position is read back as it was stored, a damaged one is
// rejected, and none that is read points outside a file.
func FuzzPosition(f *testing.F) {
	f.Add(int64(4096), uint32(7), 64, uint64(12), int64(-3), int64(1700000000123456789), 2, 5, byte(1))
	f.Add(int64(0), uint32(0), 0, uint64(0), int64(0), int64(0), 0, 0, byte(0))
	f.Fuzz(func(t *testing.T, offset int64, sum uint32, sumLen int, inode uint64, base, last int64, same, at int, flip byte) {
		p := position{offset: offset, sum: sum, sumLen: sumLen, criInode: inode, base: base, same: same}
		if last != 0 {
			p.last = time.Unix(0, last).UTC()
		}
		line := p.encode()
		if len(line) > maxPosition {
			t.Fatalf("%d bytes: %q", len(line), line)
		}
		// The rest of an earlier, longer record is not read.
		got, err := decodePosition(append(bytes.Clone(line), "left behind"...))
		if valid := sumLen >= 0 && sumLen <= sumSpan && offset >= int64(sumLen); valid != (err == nil) {
			t.Fatalf("%+v: %v", p, err)
		}
		if err == nil && got != p {
			t.Fatalf("%+v, want %+v", got, p)
		}
		if i := max(at, 0) % len(line); flip != 0 {
			line[i] ^= flip
			if got, err := decodePosition(line); err == nil && got != p {
				t.Fatalf("damaged at %d it is %+v", i, got)
			}
		}
	})
}

// FuzzPositionFile: a position file contains a valid position or none.
func FuzzPositionFile(f *testing.F) {
	f.Add((&position{offset: 100, sumLen: 64}).encode())
	f.Add([]byte("cridock-log-position-1 -1 0 0 0 0 0 0 00000000\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := decodePosition(data)
		if err != nil {
			if p != (position{}) {
				t.Fatalf("%+v, %v", p, err)
			}
			return
		}
		if p.sumLen < 0 || p.sumLen > sumSpan || p.offset < int64(p.sumLen) {
			t.Fatalf("%+v", p)
		}
		p.matches(strings.NewReader("a file that is shorter"))
	})
}
