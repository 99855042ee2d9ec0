package app

import (
	"encoding/json"
	"runtime/debug"
	"strings"
	"testing"
)

// TestVersions: a version set at build time counts, else the module's.
func TestVersions(t *testing.T) {
	own := func(version string, settings ...debug.BuildSetting) *debug.BuildInfo {
		return &debug.BuildInfo{Main: debug.Module{Path: modulePath, Version: version}, Settings: settings}
	}
	for name, c := range map[string]struct {
		version             string
		recorded            *debug.BuildInfo
		want, commit, built string
	}{
		"set at build time":     {"v1.2.3", own("v0.0.1"), "v1.2.3", "", ""},
		"go install":            {"", own("v1.4.0"), "v1.4.0", "", ""},
		"make without git":      {"dev", own("v1.4.0"), "v1.4.0", "", ""},
		"a checkout":            {"", own("(devel)"), "dev", "", ""},
		"no record":             {"", nil, "dev", "", ""},
		"part of a program":     {"", &debug.BuildInfo{Main: debug.Module{Path: "k3s", Version: "v9.9.9"}, Deps: []*debug.Module{{Path: "x", Version: "v0.1.0"}, {Path: modulePath, Version: "v1.5.0"}}}, "v1.5.0", "", ""},
		"replaced in a program": {"", &debug.BuildInfo{Deps: []*debug.Module{{Path: modulePath, Version: "v1.5.0", Replace: &debug.Module{Path: "fork", Version: "v1.5.1"}}}}, "v1.5.1", "", ""},
		"another's revision":    {"", &debug.BuildInfo{Main: debug.Module{Path: "k3s"}, Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "abc"}}}, "dev", "", ""},
		"with git":              {"", own("v1.4.0", debug.BuildSetting{Key: "vcs.revision", Value: "abc"}, debug.BuildSetting{Key: "vcs.time", Value: "2026-01-02T03:04:05Z"}, debug.BuildSetting{Key: "vcs.modified", Value: "false"}), "v1.4.0", "abc", "2026-01-02T03:04:05Z"},
		"changed":               {"", own("v1.4.0", debug.BuildSetting{Key: "vcs.modified", Value: "true"}, debug.BuildSetting{Key: "vcs.revision", Value: "abc"}), "v1.4.0", "abc-dirty", ""},
	} {
		b := newBuildInfo(c.version, c.recorded)
		if b.Version != c.want || b.GitCommit != c.commit || b.GitTime != c.built {
			t.Errorf("%s: %+v", name, b)
		}
	}
}

// TestVersionCommands prints the version in each form.
func TestVersionCommands(t *testing.T) {
	for _, args := range []string{"version", "--buildinfo"} {
		out, err := output(t, args)
		if err != nil || !strings.HasPrefix(out, "Program: cridock\nVersion: ") || !strings.Contains(out, "\nGo version: go") {
			t.Errorf("%s: %v, %q", args, err, out)
		}
	}
	if out, err := output(t, "--version"); err != nil || !strings.HasPrefix(out, "cridock ") || strings.Count(out, "\n") != 1 {
		t.Errorf("--version: %v, %q", err, out)
	}
	out, err := output(t, "version", "-o", "json")
	var b buildInfo
	if err := json.Unmarshal([]byte(out), &b); err != nil {
		t.Fatal(err)
	}
	if err != nil || b.Version == "" || b.GoVersion == "" || b.Platform == "" || b.CRI != "v1" {
		t.Errorf("version -o json: %v, %s", err, out)
	}
	if _, err := output(t, "version", "-o", "xml"); err == nil {
		t.Error("version -o xml is taken")
	}
}
