package nodeconf

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSplitWords(t *testing.T) {
	for line, want := range map[string][]string{
		"":                     nil,
		" a  b\tc\n":           {"a", "b", "c"},
		`"A=one two" B='x "y'`: {"A=one two", `B=x "y`},
		`A="one two"b ""`:      {"A=one twob", ""},
		`a\ b \"c\" '\''`:      {"a b", `"c"`, "'"},
		`"open quote`:          {"open quote"},
	} {
		if diff := cmp.Diff(want, SplitWords(line)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", line, diff)
		}
	}
}
