package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cridock/cridock/internal/seam"
)

func TestAddHooks(t *testing.T) {
	s, bundle := parseSpec(t, `{"hooks": {"prestart": [{"path": "/docker"}], "other": 1}}`)
	err := s.addHooks([]seam.Hook{{Name: "prestart", Path: "/own"}, {Name: "poststop", Path: "/a", Args: []string{"a", "b"}, Env: []string{"A=1"}, Timeout: 3}, {Name: "poststop", Path: "/b"}})
	if err != nil {
		t.Fatal(err)
	}
	_, out := changedSpec(t, s, bundle)
	want := parsed(t, `{"hooks": {"prestart": [{"path": "/docker"}, {"path": "/own"}], "other": 1,
		"poststop": [{"path": "/a", "args": ["a", "b"], "env": ["A=1"], "timeout": 3}, {"path": "/b"}]}}`)
	if diff := cmp.Diff(want, out); diff != "" {
		t.Error(diff)
	}
	for _, text := range []string{`{"hooks": []}`, `{"hooks": {"prestart": {}}}`} {
		s, _ := parseSpec(t, text)
		if err := s.addHooks([]seam.Hook{{Name: "prestart", Path: "/own"}}); err == nil {
			t.Errorf("%s is accepted", text)
		}
	}
}

func TestCreateWithHooks(t *testing.T) {
	b := newBundle(t)
	b.limitsOnly(nil)
	b.record.Hooks = []seam.Hook{{Name: "createRuntime", Path: "/bin/hook"}}
	b.writeFile(t, b.record.Runtime.Path, "#!/bin/sh\necho args: $*\n", 0o755)
	b.writeRecord(t)
	out, message, err := b.create(t)
	if err != nil || !strings.Contains(out, "args: ") {
		t.Fatal(err, message, out)
	}
	s, err := readSpec(b.bundle)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]any{"createRuntime": []any{map[string]any{"path": "/bin/hook"}}}, object(s, "hooks")); diff != "" {
		t.Error(diff)
	}
}
