package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDescribed(t *testing.T) {
	for line, want := range map[string]string{
		"--root /r --log /l create --bundle /b --pid-file /p id": "/b/config.json",
		"create -b /b id":             "/b/config.json",
		"create --bundle=/b id":       "/b/config.json",
		"create id":                   "config.json",
		"--root /r start id":          "",
		"--root /r exec --process /p": "/p",
		"exec --detach -p /p id":      "/p",
		"exec --process=/p id":        "/p",
		"exec id sh":                  "",
	} {
		if got, _ := described(strings.Fields(line)); got != want {
			t.Errorf("%s: %q, want %q", line, got, want)
		}
	}
}

func TestOnlyWhatCannotRunChanges(t *testing.T) {
	for config, want := range map[string]string{
		`{"process":{"oomScoreAdj":-998,"x":9007199254740993},"a":[1,2.50]}`: `{"a":[1,2.50],"process":{"oomScoreAdj":0,"x":9007199254740993}}`,
		`{"process": {"oomScoreAdj": 100}}`:                                  `{"process": {"oomScoreAdj": 100}}`,
		`{"process": {"oomScoreAdj": null}}`:                                 `{"process": {"oomScoreAdj": null}}`,
		`{"process": {}}`:                                                    `{"process": {}}`,
		`{"process":{"capabilities":{"bounding":["CAP_CHOWN","CAP_SYS_RESOURCE","CAP_KILL"],"ambient":["CAP_KILL"]},"y":1}}`: `{"process":{"capabilities":{"ambient":["CAP_KILL"],"bounding":["CAP_CHOWN","CAP_KILL"]},"y":1}}`,
		`{"process": {"capabilities": {"bounding": ["CAP_KILL"]}}}`:                                                          `{"process": {"capabilities": {"bounding": ["CAP_KILL"]}}}`,
		`{"process": {"capabilities": null}}`:                                                                                `{"process": {"capabilities": null}}`,
		`{"root": {}}`:                                                                                                       `{"root": {}}`,
	} {
		got, err := boundConfig([]byte(config))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, string(got)); diff != "" {
			t.Errorf("%s: %s", config, diff)
		}
	}
	for _, bad := range []string{``, `{`, `{"process":[]}`, `{"process":{"oomScoreAdj":"x"}}`, `{"process":{"capabilities":["CAP_KILL"]}}`} {
		if _, err := boundConfig([]byte(bad)); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

// TestRunsRunc builds the command and runs it with a runc that prints its arguments
// and the bundle's configuration.
func TestRunsRunc(t *testing.T) {
	dir := t.TempDir()
	wrapper := filepath.Join(dir, "wrapper")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", wrapper, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	config := filepath.Join(dir, "config.json")
	if err := os.WriteFile(config, []byte(`{"process":{"oomScoreAdj":-1}}`), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "runc"), []byte("#!/bin/sh\necho \"$@\"; cat "+config+"; exit 7\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), wrapper, args...)
		cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != 7 {
			t.Errorf("%v: %v, want runc's exit code 7\n%s", args, err, out)
		}
		return string(out)
	}
	if got, want := run("delete", "--force", "id"), "delete --force id\n{\"process\":{\"oomScoreAdj\":-1}}"; got != want {
		t.Errorf("delete: %q, want %q", got, want)
	}
	if got, want := run("create", "--bundle", dir, "id"), "create --bundle "+dir+" id\n{\"process\":{\"oomScoreAdj\":0}}"; got != want {
		t.Errorf("create: %q, want %q", got, want)
	}
	process := filepath.Join(dir, "process")
	if err := os.WriteFile(process, []byte(`{"capabilities":{"bounding":["CAP_KILL","CAP_SYS_RESOURCE"]}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	run("exec", "--process", process, "id")
	if got, err := os.ReadFile(process); err != nil || string(got) != `{"capabilities":{"bounding":["CAP_KILL"]}}` {
		t.Errorf("exec: %s, %v", got, err)
	}
	if info, err := os.Stat(config); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("%v, %v, want the mode kept", info, err)
	}
}
