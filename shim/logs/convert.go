package logs

import "bytes"

// maxRecord bounds one record of Docker's: 16 KiB of text can take six times
// that in escapes, attributes come on top. What is longer without a line feed
// is damage, such as the zeroes a power failure leaves behind.
const maxRecord = 1 << 20

// batch describes what convert made of a piece of Docker's log.
type batch struct {
	consumed  int // bytes of whole records
	lines     int // records converted
	malformed int // lines, or pieces of damage, that held no record
	last      int // index in the output of the last line, -1 if none
}

// convert appends the CRI form of all whole records at the start of src. The
// output depends on nothing but src, wherever src was cut into pieces: recovery
// after a crash relies on that.
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

// appendSalvaged finds the whole record behind a torn one: a dockerd that died
// in mid-write appends to the torn line when it is back. A record's start has
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
