package needs_test

import (
	"testing"

	"github.com/cridock/cridock/internal/needs"
)

// verdict is a test that only notes how it ended.
type verdict struct {
	testing.TB
	got string
}

func (v *verdict) Helper()      {}
func (v *verdict) Fatal(...any) { v.end("failed") }
func (v *verdict) Skip(...any)  { v.end("skipped") }

// end keeps the first end: a real test goes no further.
func (v *verdict) end(how string) {
	if v.got == "" {
		v.got = how
	}
}

func TestThat(t *testing.T) {
	for _, tc := range []struct {
		ci   string
		ok   bool
		want string
	}{
		{"", true, ""}, {"1", true, ""}, {"", false, "skipped"}, {"0", false, "skipped"}, {"1", false, "failed"},
	} {
		t.Setenv("CRIDOCK_CI", tc.ci)
		v := &verdict{TB: t}
		if needs.That(v, tc.ok, "a %s", "thing"); v.got != tc.want {
			t.Errorf("CRIDOCK_CI=%q, ok %v: %q, want %q", tc.ci, tc.ok, v.got, tc.want)
		}
	}
}
