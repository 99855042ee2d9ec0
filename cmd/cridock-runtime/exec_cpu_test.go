package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cridock/cridock/internal/needs"
)

// TestExecCPU: the real runtime gets the process with the CPU that the record names, and
// all else as it was.
func TestExecCPU(t *testing.T) {
	b := newBundle(t)
	b.limitsOnly(nil)
	cpu := 3
	b.record.ExecCPU = &cpu
	b.writeFile(t, b.record.Runtime.Path, "#!/bin/sh\nwhile [ $1 != --process ]; do shift; done\ncat $2\n", 0o755)
	b.writeRecord(t)
	file := filepath.Join(b.bundle, "process")
	b.writeFile(t, file, `{"args": ["sh", "-c", "`+strings.Repeat("x", 100)+`"], "future": 18446744073709551615, "execCPUAffinity": {"final": "0-7"}}`, 0o600)
	want := `{"args":["sh","-c","` + strings.Repeat("x", 100) + `"],"execCPUAffinity":{"initial":"3"},"future":18446744073709551615}`
	if out, message, err := b.call(t, "exec", "--process", file, "--detach", id); err != nil || out != want {
		t.Errorf("%v, %q: %s", err, message, out)
	}
	link := filepath.Join(b.bundle, "link")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	b.writeFile(t, filepath.Join(b.bundle, "bad"), "[]", 0o600)
	for name, args := range map[string][]string{
		"no file": {"exec", id, "sh"}, "a missing file": {"exec", "--process", "/nowhere", id}, "a link": {"exec", "--process", link, id},
		"no object": {"exec", "--process", filepath.Join(b.bundle, "bad"), id},
	} {
		if out, message, err := b.call(t, args...); err == nil || !strings.Contains(message, "exec: ") || out != "cridock-runtime: "+message[len("cridock-runtime: "):]+"\n" {
			t.Errorf("%s: %v, %q: %s", name, err, message, out)
		}
	}
	// Without a CPU in the record the file is left alone.
	b.record.ExecCPU = nil
	b.record.Annotations = map[string]string{"a": "b"}
	b.writeRecord(t)
	b.writeFile(t, file, `{ "args": [] }`, 0o600)
	if out, message, err := b.call(t, "exec", "--process", file, id); err != nil || out != `{ "args": [] }` {
		t.Errorf("%v, %q: %s", err, message, out)
	}
}

// TestCreateWithExecCPU: a container whose exec sessions would start anywhere does not
// start.
func TestCreateWithExecCPU(t *testing.T) {
	needs.Root(t, "makes id-mapped mounts")
	for features, want := range map[string]string{
		`echo '{"ociVersionMax": "1.2.1"}'`:     "",
		`echo '{"ociVersionMax": "1.0.2-dev"}'`: "does not know it",
		"echo unknown command >&2; exit 1":      "unknown command",
	} {
		b := newBundle(t)
		b.limitsOnly(nil)
		b.record.ExecCPU = new(int)
		b.writeFile(t, b.record.Runtime.Path, "#!/bin/sh\ncase $2 in features) "+features+"; exit;; esac\necho args: $*\n", 0o755)
		b.writeRecord(t)
		out, message, err := b.create(t)
		if executed := strings.Contains(out, "args: "); executed != (want == "") || (err == nil) != executed || !strings.Contains(message, want) {
			t.Errorf("%s: %v, %q: %s", features, err, message, out)
		}
	}
}
