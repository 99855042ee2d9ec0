package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cridock/cridock/cmd/cribench/internal/fakecri"
	"github.com/cridock/cridock/cmd/cribench/internal/result"
)

func execute(ctx context.Context, args ...string) (string, error) {
	cmd := newCommand()
	var out strings.Builder
	cmd.SetOut(&out)
	cmd.SetErr(io.Discard)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(ctx)
	return out.String(), err
}

func TestRunReportCompare(t *testing.T) {
	_, a := fakecri.Start(t)
	_, b := fakecri.Start(t)
	dir := t.TempDir()
	report := filepath.Join(dir, "report")
	logs := filepath.Join(dir, "logs")
	if err := os.Mkdir(logs, 0o700); err != nil {
		t.Fatal(err)
	}
	out, err := execute(t.Context(), "run", "--target", "one="+a, "--target", "two="+b, "--image", "busybox", "-o", report,
		"--rounds", "3", "--parallel", "1,2", "--workloads", "pods,exec", "--log-dir", logs)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"WORKLOAD", "pod start", "two", "BY one"} {
		if !strings.Contains(out, want) {
			t.Errorf("the output lacks %q:\n%s", want, out)
		}
	}
	if left, err := os.ReadDir(logs); err != nil || len(left) > 0 {
		t.Errorf("logs left: %v, %v", left, err)
	}
	results := filepath.Join(report, "results.json")
	doc, err := result.Read(results)
	if err != nil {
		t.Fatal(err)
	}
	if doc.Targets[1].Runtime != "fake" || len(doc.Targets[1].Processes) == 0 || doc.Settings["rounds"] != "3" {
		t.Errorf("targets %+v, settings %v", doc.Targets, doc.Settings)
	}
	if _, err := os.Stat(filepath.Join(report, "index.html")); err != nil {
		t.Error(err)
	}
	if out, err := execute(t.Context(), "report", results, "--baseline", "two"); err != nil || !strings.Contains(out, "BY two") {
		t.Errorf("report: %v\n%s", err, out)
	}
	if out, err := execute(t.Context(), "compare", results, results); err != nil || !strings.Contains(out, "0 worse") {
		t.Errorf("a run against itself: %v\n%s", err, out)
	}
}

func TestInterruptRemovesPodsAndKeepsResults(t *testing.T) {
	server, endpoint := fakecri.Start(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	started := 0
	server.SetHook(func(method string) error {
		if method == "StartContainer" {
			if started++; started == 3 { // the second pod after the one of the warm-up
				cancel(errInterrupted)
			}
		}
		return nil
	})
	dir := t.TempDir()
	_, err := execute(ctx, "run", "--target", "one="+endpoint, "--image", "busybox", "-o", dir, "--workloads", "pods", "--parallel", "1", "--log-dir", t.TempDir())
	if !errors.Is(err, errInterrupted) {
		t.Errorf("got %v, want interrupted", err)
	}
	if left := server.Sandboxes(); len(left) > 0 {
		t.Errorf("sandboxes left: %v", left)
	}
	if _, err := result.Read(filepath.Join(dir, "results.json")); err != nil {
		t.Error(err)
	}
}

func TestCompareFailsIfWorse(t *testing.T) {
	dir := t.TempDir()
	path := func(name string, value float64) string {
		d := &result.Document{Schema: result.Schema, Targets: []result.Target{{Name: "a"}}}
		for range 5 {
			d.Add("a", result.Key{Workload: "exec", Step: "command", Unit: result.Seconds}, value)
		}
		p := filepath.Join(dir, name)
		if err := d.Write(p); err != nil {
			t.Fatal(err)
		}
		return p
	}
	older, newer := path("old.json", 1), path("new.json", 2)
	if out, err := execute(t.Context(), "compare", older, newer); err == nil || !strings.Contains(out, "worse") {
		t.Errorf("twice as slow: %v\n%s", err, out)
	}
	if _, err := execute(t.Context(), "compare", newer, older); err != nil {
		t.Errorf("twice as fast: %v", err)
	}
}

func TestCleanRemovesWhatKilledRunsLeft(t *testing.T) {
	server, endpoint := fakecri.Start(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	server.SetHook(func(method string) error {
		if method == "StopPodSandbox" || method == "StopContainer" {
			return errors.New("not now")
		}
		return nil
	})
	if _, err := execute(ctx, "run", "--target", "one="+endpoint, "--image", "busybox", "-o", t.TempDir(), "--log-dir", t.TempDir()); err == nil {
		t.Error("a run that cannot remove its pods succeeds")
	}
	if len(server.Sandboxes()) == 0 {
		t.Fatal("nothing left to clean")
	}
	server.SetHook(nil)
	if _, err := execute(t.Context(), "clean", "--target", "one="+endpoint); err != nil {
		t.Error(err)
	}
	if left := server.Sandboxes(); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestBadFlags(t *testing.T) {
	_, endpoint := fakecri.Start(t)
	for name, args := range map[string][]string{
		"no target":       {"run", "--image", "x"},
		"no image":        {"run", "--target", "a=" + endpoint},
		"bad target":      {"run", "--image", "x", "--target", endpoint},
		"same name":       {"run", "--image", "x", "--target", "a=" + endpoint, "--target", "a=" + endpoint},
		"unknown backend": {"run", "--image", "x", "--target", "a=" + endpoint, "--backend", "b=" + endpoint},
		"bad pattern":     {"run", "--image", "x", "--target", "a=" + endpoint, "--process", "a=("},
		"bad baseline":    {"run", "--image", "x", "--target", "a=" + endpoint, "--baseline", "b"},
		"trace no target": {"trace", "--image", "x"},
		"trace no pods":   {"trace", "--image", "x", "--target", "a=" + endpoint, "--pods", "0"},
		"trace bad port":  {"trace", "--image", "x", "--target", "a=" + endpoint, "--collect", "127.0.0.1:x"},
		"no CNI conf":     {"run", "--image", "x", "--docker", endpoint, "--docker-cni-conf", "/nonexistent"},
		"bad workload":    {"run", "--image", "x", "--target", "a=" + endpoint, "--workloads", "b"},
	} {
		if _, err := execute(t.Context(), append(args, "--log-dir", t.TempDir(), "-o", t.TempDir())...); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
