package logs

import "bytes"

// maxRecord limits one of Docker's records: 16 KiB of text can take six times that
// in escapes, and attributes are extra. Longer data without a line feed is damage,
// such as the zeroes left by a power failure.
const maxRecord = 1 << 20

// batch describes the result of converting a piece of Docker's log.
type batch struct {
	consumed  int // bytes of whole records
	lines     int // records converted
	malformed int // lines, or damaged pieces, without a record
	last      int // index of the last line in the output, -1 if none
}

// convert appends the CRI form of all whole records at the start of src. The
// output depends only on the log, not on how it is cut into pieces: crash recovery
// relies on that.
func convert(dst, src []byte, tty bool) ([]byte, batch) {
	b := batch{last: -1}
	for {
		n := bytes.IndexByte(src[b.consumed:], '\n')
		if n < 0 {
			break
		}
		line := src[b.consumed : b.consumed+n]
		b.consumed += n + 1
		mark := len(dst)
		out, ok := appendCRI(dst, line, tty)
		if !ok {
			b.malformed++
			out, ok = appendSalvaged(out, line, tty)
		}
		dst = out
		if ok {
			b.lines++
			b.last = mark
		}
	}
	if b.consumed == 0 && len(src) >= maxRecord {
		b.malformed++
		b.consumed = len(src)
	}
	return dst, b
}

// appendSalvaged finds the whole record after a torn one: a dockerd that died
// during a write appends to the torn line after its restart. A record's start has
// unescaped quotes, so it cannot be part of a text.
func appendSalvaged(dst, line []byte, tty bool) ([]byte, bool) {
	at := bytes.LastIndex(line, []byte(logKey))
	if at <= 0 {
		return dst, false
	}
	return appendCRI(dst, line[at:], tty)
}

// lineTime returns the time field of the CRI line at the start of out.
func lineTime(out []byte) []byte {
	t, _, _ := bytes.Cut(out[:min(len(out), 64)], []byte(" "))
	return t
}
