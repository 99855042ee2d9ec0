package progress

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func TestLinesAreOnePerStage(t *testing.T) {
	var b strings.Builder
	r := Lines(&b)
	r.Stage("pod start", 2)
	r.Step()
	r.Step()
	r.Stage("exec", 3)
	r.Step()
	r.Close()
	r.Close()
	want := regexp.MustCompile(`^pod start: 2 of 2 in \d+\.\ds\nexec: 1 of 3 in \d+\.\ds\n$`)
	if !want.MatchString(b.String()) {
		t.Errorf("got %q", b.String())
	}
}

func TestFileGetsLines(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, ok := New(f).(*lines); !ok {
		t.Error("a file gets a bar")
	}
}

func TestBarDraws(t *testing.T) {
	var b strings.Builder
	r := &bar{w: &b}
	r.Stage("pod start", 2)
	r.Step()
	r.Close()
	if got := b.String(); !strings.Contains(got, "pod start") || !strings.Contains(got, "2") {
		t.Errorf("got %q", got)
	}
}
