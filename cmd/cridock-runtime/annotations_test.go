package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAnnotate(t *testing.T) {
	for before, want := range map[string]string{
		`{}`:                                  `{"annotations": {"a": "1"}}`,
		`{"annotations": null}`:               `{"annotations": {"a": "1"}}`,
		`{"annotations": {"a": 0, "b": "2"}}`: `{"annotations": {"a": "1", "b": "2"}}`,
	} {
		s, bundle := parseSpec(t, before)
		if err := s.annotate(map[string]string{"a": "1"}); err != nil {
			t.Fatal(err)
		}
		_, out := changedSpec(t, s, bundle)
		if diff := cmp.Diff(parsed(t, want), out); diff != "" {
			t.Errorf("%s: %s", before, diff)
		}
	}
	s, _ := parseSpec(t, `{"annotations": []}`)
	if err := s.annotate(map[string]string{"a": "1"}); err == nil {
		t.Error("a list is accepted")
	}
	if err := s.annotate(nil); err != nil {
		t.Error(err)
	}
}
