package nodeconf

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// spans returns an assignment's name, value, and words as the file has them.
func spans(text string, a Assignment) []string {
	all := []string{a.Name, a.Value}
	for _, w := range a.Words {
		all = append(all, text[w.Start:w.End])
	}
	return all
}

func TestEnvFile(t *testing.T) {
	for text, want := range map[string][][]string{
		"":                                 nil,
		"# A=1\n; B=2\n\nno assignment\n":  nil,
		"A=--x --y=1  \nB=2":               {{"A", "--x --y=1", "--x", "--y=1"}, {"B", "2", "2"}},
		"A=\"--x --y='a b'\"\nB=":          {{"A", "--x --y='a b'", "--x", "--y='a b'"}, {"B", ""}},
		"A='--x \"y z\"'\n":                {{"A", `--x "y z"`, "--x", `"y z"`}},
		"A=\"--x \\\n  --y\"\nB=1\n":       {{"A", "--x   --y", "--x", "--y"}, {"B", "1", "1"}},
		"A=\"--x\n--y\"\nB=1\n":            {{"A", "--x\n--y", "--x", "--y"}, {"B", "1", "1"}},
		"A=--x=\"y z\"\n":                  {{"A", `--x="y z"`, `--x="y z"`}},
		"A=\"--x=\\\"y z\\\" --v\"\nB=1\n": {{"A", `--x="y z" --v`, `--x=\"y z\"`, "--v"}, {"B", "1", "1"}},
		" A = --x\r\nB=1\n":                {{"A", "--x", "--x"}, {"B", "1", "1"}},
	} {
		var got [][]string
		for _, a := range EnvFile(text) {
			got = append(got, spans(text, a))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
}

func TestUnitSettings(t *testing.T) {
	const text = `[Unit]
ExecStart=/bin/wrong
[Service]
Environment="A=--one --two" B=--three 'C=--four="x y"' \
  D=5
# Environment=E=1
ExecStart=
ExecStart=/usr/bin/kubelet $A \
  --five \
# --six
  "--seven=8 9"
`
	var got [][]string
	for _, a := range UnitSettings(text) {
		got = append(got, spans(text, a))
	}
	if diff := cmp.Diff([][]string{
		{"A", "--one --two", "--one", "--two"}, {"B", "--three", "--three"}, {"C", `--four="x y"`, `--four="x y"`}, {"D", "5", "5"},
		{"ExecStart", ""},
		{"ExecStart", `/usr/bin/kubelet $A    --five    "--seven=8 9"`, "/usr/bin/kubelet", "$A", "--five", `"--seven=8 9"`},
	}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestAssignmentEnd: a word inserted there belongs to the value.
func TestAssignmentEnd(t *testing.T) {
	for _, text := range []string{"A=\n", "A=\"\"\n", "A=\"--x\"\n", "A='--x ' \n", "A=--x \\\n  --y\n", "A=\"--x \\\n  --y \\\n\"\nB=1\n"} {
		a := EnvFile(text)[0]
		next := text[:a.End] + " --new=1" + text[a.End:]
		got := EnvFile(next)
		if words := SplitWords(got[0].Value); len(words) != len(a.Words)+1 || words[len(a.Words)] != "--new=1" {
			t.Errorf("%q became %q, with %q", text, next, words)
		}
		if len(got) != len(EnvFile(text)) {
			t.Errorf("%q became %q", text, next)
		}
	}
}

// FuzzEnvFile: words lie within the text, in order, and have their text there unless
// quotes or escapes are in it.
func FuzzEnvFile(f *testing.F) {
	for _, seed := range []string{"A=--x --y=1\n", "A=\"--x \\\n 'y'\"\nB=1", "[Service]\nExecStart=/a \\\n# b\n 'c'\nEnvironment=\"A=1 2\" B=\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, list := range [][]Assignment{EnvFile(text), UnitSettings(text)} {
			last := 0
			for _, a := range list {
				for _, w := range a.Words {
					if w.Start < last || w.End < w.Start || w.End > len(text) {
						t.Fatalf("%q: word %+v after %d", text, w, last)
					}
					if raw := text[w.Start:w.End]; raw != w.Text && !strings.ContainsAny(raw, "\"'\\") {
						t.Fatalf("%q: word %+v is %q", text, w, raw)
					}
					last = w.End
				}
				if a.End < 0 || a.End > len(text) {
					t.Fatalf("%q: %+v", text, a)
				}
			}
		}
	})
}
