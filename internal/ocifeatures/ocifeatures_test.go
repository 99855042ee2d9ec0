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
		f, err := ocifeatures.Ask(t.Context(), path, []string{"--own"})
		if diff := cmp.Diff(tc.want, f.MountOptions); diff != "" || (err == nil) != (tc.want != nil) {
			t.Errorf("%s: %v, %v", name, f, err)
		}
	}
	if _, err := ocifeatures.Ask(t.Context(), "/nowhere/runc", nil); err == nil {
		t.Error("a missing runtime is no error")
	}
}

// TestFeatures: the features are, in short, what these runtimes print.
func TestFeatures(t *testing.T) {
	for name, tc := range map[string]struct {
		text          string
		rdt, affinity bool
	}{
		"runc 1.1.5": {`{"ociVersionMax": "1.0.2-dev", "linux": {"cgroup": {"v1": true}}, "annotations": {"org.opencontainers.runc.version": "1.1.5+ds1"}}`, false, false},
		"runc 1.3.0": {`{"ociVersionMax": "1.2.1", "linux": {"intelRdt": {"enabled": true}}, "annotations": {"org.opencontainers.runc.version": "1.3.0"}}`, true, true},
		"crun 1.29":  {`{"ociVersionMax": "1.1.0+dev", "linux": {"intelRdt": {"enabled": true}}, "annotations": {"run.oci.crun.version": "1.29"}}`, true, true},
		"without":    {`{"ociVersionMax": "1.3.0", "linux": {"intelRdt": {"enabled": false}}}`, false, true},
		"runc 1.2.7": {`{"ociVersionMax": "1.2.0", "linux": {"intelRdt": {"enabled": true}}, "annotations": {"org.opencontainers.runc.version": "1.2.7"}}`, true, false},
		"crun 1.18":  {`{"ociVersionMax": "1.1.0+dev", "linux": {"intelRdt": {"enabled": true}}, "annotations": {"run.oci.crun.version": "1.18.2"}}`, true, false},
	} {
		path := filepath.Join(t.TempDir(), "runtime")
		if err := os.WriteFile(path, []byte("#!/bin/sh\necho '"+tc.text+"'\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		f, err := ocifeatures.Ask(t.Context(), path, nil)
		if err != nil || f.RDT() != tc.rdt || f.ExecCPUAffinity() != tc.affinity {
			t.Errorf("%s: %+v, %v", name, f, err)
		}
	}
}

func TestAtLeast(t *testing.T) {
	for _, tc := range []struct {
		have, want string
		at         bool
	}{
		{"1.2.0", "1.2.0", true}, {"1.10", "1.2", true}, {"1.2.0-rc.1", "1.2.0", true}, {"1.0.2-dev", "1.2.0", false}, {"1.1.0+dev", "1.2.1", false},
		{"", "1", false}, {"x", "1", false},
	} {
		if got := ocifeatures.AtLeast(tc.have, tc.want); got != tc.at {
			t.Errorf("%s, %s: %t", tc.have, tc.want, got)
		}
	}
}
