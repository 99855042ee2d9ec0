package logs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// jsonCRI is appendCRI implemented with encoding/json.
func jsonCRI(line []byte, tty bool) (string, bool) {
	var rec struct{ Log, Stream, Time string }
	if json.Unmarshal(line, &rec) != nil || !plausibleTime([]byte(rec.Time)) {
		return "", false
	}
	if rec.Stream != "stderr" || tty {
		rec.Stream = "stdout"
	}
	var out strings.Builder
	pieces := strings.SplitAfter(rec.Log, "\n")
	if len(pieces) > 1 && pieces[len(pieces)-1] == "" {
		pieces = pieces[:len(pieces)-1]
	}
	for _, piece := range pieces {
		tag := "P"
		if strings.HasSuffix(piece, "\n") {
			tag = "F"
		}
		fmt.Fprintf(&out, "%s %s %s %s\n", rec.Time, rec.Stream, tag, strings.TrimSuffix(piece, "\n"))
	}
	return out.String(), true
}

var recordTime = time.Date(2024, 5, 6, 7, 8, 9, 123456789, time.UTC)

func TestAppendCRI(t *testing.T) {
	const at = "2024-05-06T07:08:09.123456789Z"
	tests := []struct {
		name string
		line string
		tty  bool
		want string // empty: no record
	}{
		{"whole line", `{"log":"hello\n","stream":"stdout","time":"` + at + `"}`, false, at + " stdout F hello\n"},
		{"stderr", `{"log":"oops\n","stream":"stderr","time":"` + at + `"}`, false, at + " stderr F oops\n"},
		{"a terminal has no stderr", `{"log":"oops\r\n","stream":"stderr","time":"` + at + `"}`, true, at + " stdout F oops\r\n"},
		{"piece without line feed", `{"log":"par","stream":"stdout","time":"` + at + `"}`, false, at + " stdout P par\n"},
		{"empty line", `{"log":"\n","stream":"stdout","time":"` + at + `"}`, false, at + " stdout F \n"},
		{"no text", `{"stream":"stdout","time":"` + at + `"}`, false, at + " stdout P \n"},
		{"attributes", `{"log":"x\n","stream":"stderr","attrs":{"tag":"a\"}","time":"no"},"time":"` + at + `"}`, false, at + " stderr F x\n"},
		{"escapes", `{"log":"\u003cb\u003e \"q\" \\n \ufffd \u0000\t\u2028\n","stream":"stdout","time":"` + at + `"}`, false,
			at + " stdout F <b> \"q\" \\n \ufffd \x00\t\u2028\n"},
		{"surrogate pair", `{"log":"\ud83d\ude00\n","stream":"stdout","time":"` + at + `"}`, false, at + " stdout F \U0001F600\n"},
		{"lone surrogate", `{"log":"\ud83dx\n","stream":"stdout","time":"` + at + `"}`, false, at + " stdout F \ufffdx\n"},
		{"raw invalid byte", "{\"log\":\"a\xffb\\n\",\"stream\":\"stdout\",\"time\":\"" + at + `"}`, false, at + " stdout F a\ufffdb\n"},
		{"line feed by number", `{"log":"a\u000a","stream":"stdout","time":"` + at + `"}`, false, at + " stdout F a\n"},
		{"line feed inside forges no line", `{"log":"a\nb","stream":"stdout","time":"` + at + `"}`, false,
			at + " stdout F a\n" + at + " stdout P b\n"},
		{"other order and spaces", ` { "time" : "` + at + `" , "log":"x\n", "stream":"stderr" } `, false, at + " stderr F x\n"},
		{"text that looks like the end", `{"log":"\",\"stream\":\"stderr\",\"time\":\"z\"}\n","stream":"stdout","time":"` + at + `"}`, false,
			at + ` stdout F ","stream":"stderr","time":"z"}` + "\n"},
		{"torn", `{"log":"hel`, false, ""},
		{"zeroes", "\x00\x00\x00", false, ""},
		{"time that would break the line", `{"log":"x\n","stream":"stdout","time":"2024-05-06 07:08:09.123456789Z"}`, false, ""},
		{"control character", "{\"log\":\"a\tb\\n\",\"stream\":\"stdout\",\"time\":\"" + at + `"}`, false, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, ok := appendCRI([]byte("before"), []byte(test.line), test.tty)
			if ok != (test.want != "") {
				t.Fatalf("record = %v", ok)
			}
			if diff := cmp.Diff("before"+test.want, string(got)); diff != "" {
				t.Error(diff)
			}
			want, _ := jsonCRI([]byte(test.line), test.tty)
			if diff := cmp.Diff(test.want, want); diff != "" {
				t.Errorf("encoding/json differs: %s", diff)
			}
		})
	}
}

func TestConvertSalvagesRecordBehindTornOne(t *testing.T) {
	torn := `{"log":"half of it, \"quoted\"{"log":"whole\n","stream":"stdout","time":"2024-05-06T07:08:09Z"}` + "\n"
	out, did := convert(nil, []byte(torn), false)
	if got, want := string(out), "2024-05-06T07:08:09Z stdout F whole\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if did.malformed != 1 || did.lines != 1 || did.consumed != len(torn) {
		t.Errorf("%+v", did)
	}
}

// FuzzDockerLine feeds what Docker writes for any text.
func FuzzDockerLine(f *testing.F) {
	f.Add([]byte("plain\n"), true, "", int64(0))
	f.Add([]byte("<&>\u2028\xff\xed\xa0\x80\\\"\x00\x7f\t\r\n"), false, `{"tag":"x\"}"}`, int64(123456789))
	f.Fuzz(func(t *testing.T, text []byte, out bool, attrs string, nanos int64) {
		// Docker has valid attributes or none, and splits at line feeds.
		if attrs != "" && (!json.Valid([]byte(attrs)) || attrs[0] != '{' || strings.Contains(attrs, "\n")) {
			attrs = `{"k":"v"}`
		}
		if at := bytes.IndexByte(text, '\n'); at >= 0 {
			text = text[:at+1]
		}
		stream := "stdout"
		if !out {
			stream = "stderr"
		}
		line := appendDocker(nil, recordTime.Add(time.Duration(nanos%1e9)), stream, text, attrs)
		compareWithJSON(t, line)
		if len(text) > 0 && attrs == "" {
			if _, ok := appendFast(nil, line, false); !ok {
				t.Errorf("Docker's own shape is not read by the fast path: %q", line)
			}
		}
	})
}

// FuzzAnyLine feeds what Docker would never write.
func FuzzAnyLine(f *testing.F) {
	f.Add([]byte(`{"log":"a\ud800\udc00\u12","stream":"stdout","time":"2024-05-06T07:08:09Z"}`))
	f.Add([]byte(`{"log":"a","stream":"stdout","attrs":{},"log":"b","time":"2024-05-06T07:08:09Z"}`))
	f.Add([]byte(`{"log":"a","stream":"stdout","attrs":{"x":[1,"time":"2024-05-06T07:08:09Z"}`))
	f.Add([]byte(`{"log":"a\\","stream":"stderr","time":"2024-05-06T07:08:09Z"}`))
	f.Add([]byte(`{"log":"a\","stream":"stderr","time":"2024-05-06T07:08:09Z"}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		if bytes.IndexByte(line, '\n') < 0 {
			compareWithJSON(t, line)
		}
		wrapped := append(append([]byte(`{"log":"`), line...), `","stream":"stdout","time":"2024-05-06T07:08:09Z"}`...)
		if bytes.IndexByte(line, '\n') < 0 {
			compareWithJSON(t, wrapped)
		}
	})
}

func compareWithJSON(t *testing.T, line []byte) {
	t.Helper()
	for _, tty := range []bool{false, true} {
		want, wantOK := jsonCRI(line, tty)
		got, ok := appendCRI(nil, line, tty)
		if ok != wantOK || ok && string(got) != want {
			t.Errorf("%q:\n got %q %v\nwant %q %v", line, got, ok, want, wantOK)
		}
	}
}

// FuzzConvertPieces cuts a log at any place: the output must not change.
func FuzzConvertPieces(f *testing.F) {
	line := appendDocker(nil, recordTime, "stdout", []byte("text\n"), "")
	f.Add(append(append(line, '\n'), line...), 20)
	f.Fuzz(func(t *testing.T, log []byte, cut int) {
		whole, _ := convert(nil, log, false)
		cut = max(0, min(cut, len(log)))
		first, did := convert(nil, log[:cut], false)
		second, _ := convert(first, log[did.consumed:], false)
		if !bytes.Equal(whole, second) {
			t.Errorf("in one piece %q, in two %q", whole, second)
		}
	})
}

func TestPlainLen(t *testing.T) {
	for b := range 256 {
		for at := range 20 {
			s := bytes.Repeat([]byte("a"), 20)
			s[at] = byte(b)
			want := 20
			if b < 0x20 || b >= 0x80 || b == '"' || b == '\\' {
				want = at
			}
			if got := plainLen(s); got != want {
				t.Fatalf("byte %#x at %d: %d, want %d", b, at, got, want)
			}
		}
	}
}

func benchLog(kind string) []byte {
	text := strings.Repeat("abcdefghi ", 10)[:99] + "\n"
	switch kind {
	case "escapes":
		text = strings.Repeat(`{"k": <v>} `, 9) + "\n"
	case "utf8":
		text = strings.Repeat("größer ", 14) + "\n"
	case "16KiB":
		text = strings.Repeat("x", 16<<10)
	}
	var log []byte
	for n := 0; len(log) < chunkSize*3/4; n++ {
		log = append(appendDocker(log, recordTime.Add(time.Duration(n)*time.Microsecond), "stdout", []byte(text), ""), '\n')
	}
	return log
}

func BenchmarkConvert(b *testing.B) {
	for _, kind := range []string{"100-byte-lines", "escapes", "utf8", "16KiB"} {
		log := benchLog(kind)
		lines := float64(bytes.Count(log, []byte("\n")))
		b.Run(kind+"/cridock", func(b *testing.B) {
			out := make([]byte, 0, len(log))
			b.SetBytes(int64(len(log)))
			b.ReportAllocs()
			for b.Loop() {
				out, _ = convert(out[:0], log, false)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/lines, "ns/line")
		})
		b.Run(kind+"/encoding-json", func(b *testing.B) {
			out := make([]byte, 0, len(log))
			b.SetBytes(int64(len(log)))
			b.ReportAllocs()
			for b.Loop() {
				out = out[:0]
				for rest := log; len(rest) > 0; {
					var line []byte
					line, rest, _ = bytes.Cut(rest, []byte("\n"))
					out, _ = appendSlow(out, line, false)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/lines, "ns/line")
			b.ReportMetric(lines, "lines/op")
		})
	}
}
