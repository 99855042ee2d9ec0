package logs

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cridock/cridock/internal/beneath"
)

// TestBegin: the log of a restored container begins with the old one's lines, and goes
// on with all of Docker's.
func TestBegin(t *testing.T) {
	dir := t.TempDir()
	s := Source{ID: "id", CRIRoot: beneath.Root(dir), CRILog: "pod/main.log", Position: filepath.Join(dir, "position"), DockerLog: filepath.Join(dir, "docker.log")}
	const kept = "2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:00.5Z stderr P two \n9999-01-01T00:00:00Z stdout F later\n"
	long := "2026-01-01T00:00:00Z stdout F " + strings.Repeat("a", maxBeginLine) + "\n"
	for _, content := range []string{kept, "\n\x00\n" + kept + "2026-01-01 stdout F no time\n", "{}\n" + long + kept + "2026-01-01T00:00:00Z stdin F x\n2026-01-01T00:00:00Z stdout X x\n2026-01-01T00:00:00Z stdout F torn"} {
		if err := s.Begin(strings.NewReader(content)); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(filepath.Join(dir, "pod/main.log")); err != nil || string(b) != kept {
			t.Errorf("the log is %q, %v", b, err)
		}
	}
	if err := os.WriteFile(s.DockerLog, []byte(`{"log":"new\n","stream":"stdout","time":"2026-02-01T00:00:00Z"}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tailer := New(Options{})
	done := make(chan error)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- tailer.Run(ctx) }()
	if err := tailer.Start(s); err != nil {
		t.Fatal(err)
	}
	if err := tailer.Drain(ctx, "id"); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "pod/main.log")); err != nil || string(b) != kept+"2026-02-01T00:00:00Z stdout F new\n" {
		t.Errorf("the log is %q, %v", b, err)
	}
}

// TestBeginElsewhere: a pod may have left a link in place of its log.
func TestBeginElsewhere(t *testing.T) {
	dir, victim := t.TempDir(), filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, []byte("v"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, filepath.Join(dir, "main.log")); err != nil {
		t.Fatal(err)
	}
	s := Source{ID: "id", CRIRoot: beneath.Root(dir), CRILog: "main.log", Position: filepath.Join(dir, "position"), DockerLog: filepath.Join(dir, "docker.log")}
	if err := s.Begin(strings.NewReader("")); !beneath.IsRefused(err) {
		t.Errorf("error = %v, want a refusal", err)
	}
	if b, err := os.ReadFile(victim); err != nil || string(b) != "v" {
		t.Errorf("the other file has %q, %v", b, err)
	}
}
