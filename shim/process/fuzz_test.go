package process

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
	"testing/iotest"
)

// FuzzDemultiplex: the frames of a stream go to the right output, in order, up
// to the end or the first invalid frame.
func FuzzDemultiplex(f *testing.F) {
	f.Add([]byte("\x01\x00\x00\x00\x00\x00\x00\x02ab\x02\x00\x00\x00\x00\x00\x00\x01c"))
	f.Add([]byte("\x03\x00\x00\x00\x00\x00\x00\x04oops"))
	f.Add([]byte("\x01\x00\x00\x00\xff\xff\xff\xffab"))
	f.Add([]byte("\x04\x00\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		var stdout, stderr, wantOut, wantErr bytes.Buffer
		err := demultiplex(iotest.OneByteReader(bytes.NewReader(stream)), &stdout, &stderr)
		whole := frames(stream, &wantOut, &wantErr)
		if whole != (err == nil) {
			t.Fatalf("whole: %v, error: %v", whole, err)
		}
		if !bytes.Equal(stdout.Bytes(), wantOut.Bytes()) || !bytes.Equal(stderr.Bytes(), wantErr.Bytes()) {
			t.Fatalf("stdout %q, want %q; stderr %q, want %q", stdout.Bytes(), wantOut.Bytes(), stderr.Bytes(), wantErr.Bytes())
		}
		if err != nil && len(err.Error()) > maxMessage+256 {
			t.Fatalf("an error of %d bytes", len(err.Error()))
		}
	})
}

// frames parses a stream according to Docker's documentation, and reports
// whether it consists of complete output frames.
func frames(stream []byte, stdout, stderr *bytes.Buffer) bool {
	for len(stream) > 0 {
		if len(stream) < 8 || stream[0] > 2 {
			return false
		}
		size, to := uint64(binary.BigEndian.Uint32(stream[4:8])), stdout
		if stream[0] == 2 {
			to = stderr
		}
		content := stream[8:]
		to.Write(content[:min(size, uint64(len(content)))])
		if uint64(len(content)) < size {
			return false
		}
		stream = content[size:]
	}
	return true
}

// FuzzHoldBack: a process's output arrives complete and in order; only output
// that starts like Docker's message about a failed start may be held back, up
// to a limit.
func FuzzHoldBack(f *testing.F) {
	f.Add([]byte("OCI runtime exec failed: no such file"), 5, 1)
	f.Add([]byte("OCI runtime is what I write about"), 3, 1)
	f.Add([]byte("OCI runtime exec failed"), 23, 4000)
	f.Fuzz(func(t *testing.T, text []byte, piece, repeat int) {
		all := bytes.Repeat(text, max(1, min(repeat, (2*maxMessage)/max(1, len(text)))))
		var to bytes.Buffer
		h := &holdBack{to: &to}
		b := &beginning{to: h}
		for rest := all; len(rest) > 0; {
			n := min(len(rest), max(1, min(piece, 1<<20)))
			if wrote, err := b.Write(rest[:n]); err != nil || wrote != n {
				t.Fatalf("wrote %d of %d: %v", wrote, n, err)
			}
			rest = rest[n:]
		}
		if got := to.String() + h.message(); got != string(all) {
			t.Fatalf("%d bytes arrived, %d were kept, of %d", to.Len(), len(h.message()), len(all))
		}
		kept := h.message()
		if len(kept) > maxMessage || kept != "" && !strings.HasPrefix(kept, string(startFailure)[:min(len(kept), len(startFailure))]) {
			t.Fatalf("%q is kept", kept[:min(len(kept), 100)])
		}
		if want := all[:min(len(all), maxMessage)]; b.message() != string(want) {
			t.Fatalf("the beginning has %d bytes, want %d", len(b.message()), len(want))
		}
	})
}
