package timeline

import (
	"cmp"
	"slices"
	"sync"

	"github.com/cridock/cridock/cmd/cribench/internal/target"
)

// Events keeps the events about containers. Its methods are safe for concurrent use;
// the zero value is ready.
type Events struct {
	mu  sync.Mutex
	all []sourced
}

type sourced struct {
	source string
	target.Event
}

// Add returns a function that keeps the events of a source.
func (e *Events) Add(source string) func(target.Event) {
	return func(event target.Event) {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.all = append(e.all, sourced{source, event})
	}
}

// Of returns the events so far about some objects, whose names are by ID, in the order
// of their times.
func (e *Events) Of(objects map[string]string) []Moment {
	e.mu.Lock()
	defer e.mu.Unlock()
	var moments []Moment
	for _, event := range e.all {
		if object, ours := objects[event.ID]; ours {
			moments = append(moments, Moment{Name: event.source + ": " + event.Name + " " + object, At: event.At})
		}
	}
	slices.SortStableFunc(moments, func(a, b Moment) int { return cmp.Compare(a.At.UnixNano(), b.At.UnixNano()) })
	return moments
}
