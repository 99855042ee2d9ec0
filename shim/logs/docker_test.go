package logs

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
	"unicode/utf8"
)

// dockerLog writes a json-file log the way Docker's driver does: one write per
// record, and when a record comes after the file has reached its size, close,
// shift the names, make a new file without O_APPEND.
type dockerLog struct {
	path    string
	maxSize int64
	maxFile int

	mu        sync.Mutex
	f         *os.File
	size      int64
	rotations int
	now       func() time.Time
	buf       []byte
}

func newDockerLog(tb testing.TB, dir string, maxSize int64, maxFile int) *dockerLog {
	tb.Helper()
	d := &dockerLog{path: filepath.Join(dir, "id-json.log"), maxSize: maxSize, maxFile: maxFile, now: time.Now}
	var err error
	if d.f, err = os.OpenFile(d.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o640); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = d.f.Close() })
	return d
}

// write logs text, which ends in a line feed unless it is a piece of a longer line.
func (d *dockerLog) write(stream, text string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.writeAt(d.now(), stream, text)
}

func (d *dockerLog) writeAt(t time.Time, stream, text string) {
	if d.maxSize > 0 && d.size >= d.maxSize {
		d.rotate()
	}
	d.buf = append(appendDocker(d.buf[:0], t, stream, []byte(text), ""), '\n')
	n, err := d.f.Write(d.buf)
	if err != nil {
		panic(err)
	}
	d.size += int64(n)
}

func (d *dockerLog) rotate() {
	d.rotations++
	must(d.f.Close())
	if d.maxFile < 2 {
		must(os.Remove(d.path))
	} else {
		_ = os.Remove(rotatedPath(d.path, d.maxFile-1))
		for n := d.maxFile - 1; n > 1; n-- {
			_ = os.Rename(rotatedPath(d.path, n-1), rotatedPath(d.path, n))
		}
		must(os.Rename(d.path, rotatedPath(d.path, 1)))
	}
	f, err := os.OpenFile(d.path, os.O_WRONLY|os.O_TRUNC|os.O_CREATE, 0o640)
	must(err)
	d.f, d.size = f, 0
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// appendDocker encodes a record as Docker does: HTML characters, U+2028 and U+2029
// escaped, invalid bytes as \ufffd, an empty text or stream left out.
func appendDocker(dst []byte, t time.Time, stream string, text []byte, attrs string) []byte {
	dst = append(dst, '{')
	sep := ""
	if len(text) > 0 {
		dst = append(dst, `"log":`...)
		dst = appendQuoted(dst, text)
		sep = ","
	}
	if stream != "" {
		dst = append(append(dst, sep...), `"stream":`...)
		dst = appendQuoted(dst, []byte(stream))
		sep = ","
	}
	if attrs != "" {
		dst = append(append(append(dst, sep...), `"attrs":`...), attrs...)
		sep = ","
	}
	dst = append(append(dst, sep...), `"time":"`...)
	dst = t.UTC().AppendFormat(dst, time.RFC3339Nano)
	return append(dst, `"}`...)
}

func appendQuoted(dst, text []byte) []byte {
	dst = append(dst, '"')
	for len(text) > 0 {
		r, size := utf8.DecodeRune(text)
		switch {
		case r == utf8.RuneError && size == 1:
			dst = append(dst, `\ufffd`...)
		case r == '\n':
			dst = append(dst, `\n`...)
		case r == '\r':
			dst = append(dst, `\r`...)
		case r == '"' || r == '\\':
			dst = append(dst, '\\', byte(r))
		case r < 0x20 || bytes.ContainsRune([]byte("<>&\u2028\u2029"), r):
			dst = fmt.Appendf(dst, `\u%04x`, r)
		default:
			dst = append(dst, text[:size]...)
		}
		text = text[size:]
	}
	return append(dst, '"')
}
