package timeline

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cridock/cridock/cmd/cribench/internal/target"
)

func TestEventsOfSomeObjectsByTime(t *testing.T) {
	at := func(seconds int64) time.Time { return time.Unix(seconds, 0) }
	var e Events
	e.Add("Docker")(target.Event{ID: "s", Name: "start", At: at(2)})
	e.Add("Docker")(target.Event{ID: "other", Name: "start", At: at(1)})
	e.Add("CRI")(target.Event{ID: "c", Name: "created", At: at(1)})
	want := []Moment{{"CRI: created container", at(1)}, {"Docker: start sandbox", at(2)}}
	if diff := cmp.Diff(want, e.Of(map[string]string{"s": "sandbox", "c": "container"})); diff != "" {
		t.Error(diff)
	}
}
