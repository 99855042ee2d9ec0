package index

import (
	"strings"
	"testing"
	"time"
)

func TestSweepForgetsTombstones(t *testing.T) {
	ix := New(nil, Options{})
	old, fresh := strings.Repeat("a", 64), strings.Repeat("b", 64)
	for _, id := range []string{old, fresh, "not an id"} {
		ix.Removed(id)
	}
	ix.records[old].gone = time.Now().Add(-tombstoneAge - time.Second)
	ix.sweep()
	if len(ix.records) != 1 || ix.records[fresh] == nil {
		t.Errorf("records after the sweep: %v", ix.records)
	}
}
