package ocifeatures_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cridock/cridock/internal/ocifeatures"
)

func TestMountOptions(t *testing.T) {
	for name, tc := range map[string]struct {
		script string
		want   []string // nil: an error
	}{
		"options":          {`test "$*" = "--own features" && echo '{"mountOptions": ["ro", "rro"], "other": 1}'`, []string{"ro", "rro"}},
		"no options":       {`echo '{"mountOptions": []}'`, []string{}},
		"no such command":  {"echo '{\"mountOptions\": [\"rro\"]}'; echo unknown command >&2; exit 1", nil},
		"something else":   {"echo usage: rro", nil},
		"no such features": {"exit 0", nil},
	} {
		path := filepath.Join(t.TempDir(), "runtime")
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+tc.script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		got, err := ocifeatures.MountOptions(t.Context(), path, []string{"--own"})
		if diff := cmp.Diff(tc.want, got); diff != "" || (err == nil) != (tc.want != nil) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if _, err := ocifeatures.MountOptions(t.Context(), "/nowhere/runc", nil); err == nil {
		t.Error("a missing runtime is no error")
	}
}
