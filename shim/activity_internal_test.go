package shim

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSessionCounts(t *testing.T) {
	var s sessions
	first, second := s.open("exec"), s.open("exec")
	s.open("attach")()
	if diff := cmp.Diff(map[string]int{"exec": 2, "attach": 0, "portforward": 0}, s.counts()); diff != "" {
		t.Errorf("sessions (-want +got):\n%s", diff)
	}
	first()
	second()
	if diff := cmp.Diff(map[string]int{"exec": 0, "attach": 0, "portforward": 0}, s.counts()); diff != "" {
		t.Errorf("afterwards (-want +got):\n%s", diff)
	}
}
