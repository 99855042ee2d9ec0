package shim

import (
	"fmt"
	"testing"
)

// TestBoundedLabels: pods name registries, so they must not make metrics grow.
func TestBoundedLabels(t *testing.T) {
	var b boundedLabels
	for i := range 2 * maxLabels {
		name := fmt.Sprintf("r%d.test", i)
		want := name
		if i >= maxLabels {
			want = otherLabel
		}
		if got := b.label(name); got != want {
			t.Errorf("registry %d is %q, want %q", i, got, want)
		}
	}
	if got := b.label("r0.test"); got != "r0.test" {
		t.Errorf("a known registry is %q", got)
	}
}
