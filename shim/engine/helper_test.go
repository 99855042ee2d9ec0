package engine

import (
	"context"
	"errors"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/google/go-cmp/cmp"
)

// list is an engine with containers of these names, which are their IDs too. Each
// has a second name, as a container that is linked to has.
type list []string

func (l list) ContainerList(_ context.Context, f filters.Args) (found []container.Summary, _ error) {
	for _, name := range l {
		if f.Match("name", "/"+name) {
			found = append(found, container.Summary{ID: name, Names: []string{"/other/" + name, "/" + name}})
		}
	}
	if found == nil {
		return nil, errors.New("no answer")
	}
	return found, nil
}

// TestNamed: a prefix is text, not a pattern, and stands at the beginning.
func TestNamed(t *testing.T) {
	l := list{"a.b_1", "a.b_", "axb_2", "x_a.b_3", "a.b"}
	got, err := Named(t.Context(), l, "a.b_")
	if diff := cmp.Diff(map[string]string{"a.b_1": "1", "a.b_": ""}, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if got, err := Named(t.Context(), l, "nothing"); err == nil {
		t.Errorf("the engine's error is lost: %v", got)
	}
}
