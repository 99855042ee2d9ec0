package logs

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"math/bits"
	"unicode/utf16"
	"unicode/utf8"
)

// Docker's json-file driver writes one object per line, always with these keys
// in this order, "attrs" only when log options ask for labels, env or a tag:
//
//	{"log":"text\n","stream":"stdout","attrs":{"k":"v"},"time":"2006-01-02T15:04:05.999999999Z"}
const (
	logKey    = `{"log":"`
	stdoutKey = `,"stream":"stdout"`
	stderrKey = `,"stream":"stderr"`
	attrsKey  = `,"attrs":`
	timeKey   = `,"time":"`

	stdout = "stdout"
	stderr = "stderr"
)

// appendCRI appends the CRI form of one Docker record (without its line feed)
// to dst: "TIME STREAM F TEXT\n", or P in place of F when the record's text
// does not end a line. For a malformed record it leaves dst as it was and reports
// false. The result is the same as with encoding/json on every line.
func appendCRI(dst, line []byte, tty bool) ([]byte, bool) {
	mark := len(dst)
	if dst, ok := appendFast(dst, line, tty); ok {
		return dst, true
	}
	return appendSlow(dst[:mark], line, tty)
}

// appendFast handles the one form that Docker writes and leaves everything else,
// valid or not, to appendSlow.
func appendFast(dst, line []byte, tty bool) ([]byte, bool) {
	if !bytes.HasPrefix(line, []byte(logKey)) || !bytes.HasSuffix(line, []byte(`"}`)) {
		return dst, false
	}
	// The time is last in Docker's record and first in the CRI line, so it is taken
	// from the end before the text is decoded directly into its final place.
	end := len(line) - len(`"}`)
	start := bytes.LastIndexByte(line[:end], '"') + 1
	if start < len(timeKey) || !bytes.HasSuffix(line[:start], []byte(timeKey)) || !plausibleTime(line[start:end]) {
		return dst, false
	}
	dst = append(dst, line[start:end]...)
	dst = append(dst, " stdout P "...)
	text := len(dst)
	dst, n, feeds, ok := appendUnquoted(dst, line[len(logKey):start-len(timeKey)])
	if !ok {
		return dst, false
	}
	rest := line[len(logKey)+n : start-len(timeKey)]
	switch {
	case bytes.HasPrefix(rest, []byte(stdoutKey)):
	case bytes.HasPrefix(rest, []byte(stderrKey)):
		if !tty {
			copy(dst[text-len("stdout P "):], stderr)
		}
	default:
		return dst, false
	}
	if rest = rest[len(stdoutKey):]; len(rest) > 0 && !validAttrs(rest) {
		return dst, false
	}
	return finishLine(dst, text, feeds)
}

// finishLine turns the text at dst[text:] into a finished CRI line. Docker
// splits at line feeds, so text with more than one is left to appendSlow.
func finishLine(dst []byte, text, feeds int) ([]byte, bool) {
	switch {
	case feeds == 0:
		return append(dst, '\n'), true
	case feeds == 1 && dst[len(dst)-1] == '\n':
		dst[text-len("P ")] = 'F'
		return dst, true
	}
	return dst, false
}

func validAttrs(rest []byte) bool {
	attrs, ok := bytes.CutPrefix(rest, []byte(attrsKey))
	return ok && json.Valid(attrs)
}

// plausibleTime accepts anything that can be an RFC 3339 time, but no byte that
// would break a CRI line.
func plausibleTime(b []byte) bool {
	if len(b) < len("2006-01-02T15:04:05Z") || len(b) > len("2006-01-02T15:04:05.999999999+00:00") {
		return false
	}
	for _, c := range b {
		if (c < '0' || c > '9') && c != '-' && c != ':' && c != '.' && c != '+' && c != 'T' && c != 'Z' {
			return false
		}
	}
	return true
}

// appendSlow handles everything encoding/json accepts as a record.
func appendSlow(dst, line []byte, tty bool) ([]byte, bool) {
	var rec struct {
		Log    string `json:"log"`
		Stream string `json:"stream"`
		Time   string `json:"time"`
	}
	if json.Unmarshal(line, &rec) != nil || !plausibleTime([]byte(rec.Time)) {
		return dst, false
	}
	if tty || rec.Stream != stderr {
		rec.Stream = stdout
	}
	text := []byte(rec.Log)
	for {
		piece, rest, whole := bytes.Cut(text, []byte("\n"))
		dst = appendLine(dst, rec.Time, rec.Stream, whole, piece)
		if len(rest) == 0 {
			return dst, true
		}
		text = rest
	}
}

// appendLine appends one CRI line; whole means that text ends a line.
func appendLine[T string | []byte](dst []byte, time T, stream string, whole bool, text []byte) []byte {
	dst = append(dst, time...)
	dst = append(dst, ' ')
	dst = append(dst, stream...)
	if whole {
		dst = append(dst, " F "...)
	} else {
		dst = append(dst, " P "...)
	}
	dst = append(dst, text...)
	return append(dst, '\n')
}

// appendUnquoted appends the decoded JSON string whose opening quote precedes s,
// and returns the number of bytes of s used, closing quote included, and the
// number of line feeds decoded.
func appendUnquoted(dst, s []byte) (_ []byte, n, feeds int, ok bool) {
	for {
		if run := plainLen(s[n:]); run > 0 {
			dst = append(dst, s[n:n+run]...)
			n += run
		}
		if n == len(s) {
			return dst, n, feeds, false
		}
		switch c := s[n]; {
		case c == '"':
			return dst, n + 1, feeds, true
		case c == '\\':
			if n+1 < len(s) && simpleEscape[s[n+1]] != 0 {
				dst = append(dst, simpleEscape[s[n+1]])
				n += 2
			} else {
				var used int
				if dst, used = appendUnicodeEscape(dst, s[n:]); used == 0 {
					return dst, n, feeds, false
				}
				n += used
			}
			if dst[len(dst)-1] == '\n' {
				feeds++
			}
		case c < 0x20:
			return dst, n, feeds, false
		default:
			r, size := utf8.DecodeRune(s[n:])
			if r == utf8.RuneError && size == 1 {
				dst = append(dst, "\ufffd"...)
			} else {
				dst = append(dst, s[n:n+size]...)
			}
			n += size
		}
	}
}

// simpleEscape maps the byte after a backslash to its meaning, 0 if it has none.
var simpleEscape = [256]byte{
	'"': '"', '\\': '\\', '/': '/', 'n': '\n', 'r': '\r', 't': '\t', 'b': '\b', 'f': '\f',
}

// appendUnicodeEscape decodes \uXXXX, or a surrogate pair of them; an unpaired
// surrogate becomes U+FFFD, as in encoding/json.
func appendUnicodeEscape(dst, s []byte) ([]byte, int) {
	r := hex4(s)
	if r < 0 {
		return dst, 0
	}
	if !utf16.IsSurrogate(r) {
		return utf8.AppendRune(dst, r), 6
	}
	if pair := utf16.DecodeRune(r, hex4(s[6:])); pair != utf8.RuneError {
		return utf8.AppendRune(dst, pair), 12
	}
	return utf8.AppendRune(dst, utf8.RuneError), 6
}

// hex4 returns the value of \uXXXX at the start of s, -1 if there is none.
func hex4(s []byte) rune {
	if len(s) < 6 || s[0] != '\\' || s[1] != 'u' {
		return -1
	}
	var r rune
	for _, c := range s[2:6] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return -1
		}
		r = r<<4 | rune(c)
	}
	return r
}

const (
	ones  = 0x0101010101010101
	highs = 0x80 * ones
)

// plainLen returns how many bytes at the start of s stand for themselves in a
// JSON string: ASCII, no control character, quote or backslash. It checks eight
// bytes at a time; the lowest bit found is exact, since borrows propagate only
// upwards from a match.
func plainLen(s []byte) int {
	n := 0
	for ; len(s)-n >= 8; n += 8 {
		x := binary.LittleEndian.Uint64(s[n:])
		quote := x ^ '"'*ones
		slash := x ^ '\\'*ones
		hit := (x | (x-0x20*ones)&^x | (quote-ones)&^quote | (slash-ones)&^slash) & highs
		if hit != 0 {
			return n + bits.TrailingZeros64(hit)/8
		}
	}
	for ; n < len(s); n++ {
		if c := s[n]; c < 0x20 || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			break
		}
	}
	return n
}
