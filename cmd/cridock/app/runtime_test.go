package app

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cridock/cridock/internal/needs"
	"github.com/cridock/cridock/internal/seam"
	"github.com/cridock/cridock/shim/engine/enginetest"
)

// TestRuntimeSettings: the commands take the engine and the runtime directory from
// the files that serve reads. With another directory, install would register a
// runtime that finds no records, and remove would not see the containers that use it.
func TestRuntimeSettings(t *testing.T) {
	dir, docker := t.TempDir(), enginetest.New(t)
	runtimeDir := filepath.Join(dir, "run")
	made(t, filepath.Join(runtimeDir, seam.Records), 0o755)
	write(t, filepath.Join(runtimeDir, seam.Records, "a"), "")
	daemonJSON := filepath.Join(dir, "daemon.json")
	write(t, daemonJSON, "{}")
	settings := "docker-endpoint: " + docker.Endpoint() + "\nruntime-directory: "
	file, dropIns := filepath.Join(dir, "cridock.yaml"), filepath.Join(dir, "conf.d")
	made(t, dropIns, 0o755)
	write(t, file, settings+"/nowhere")
	write(t, filepath.Join(dropIns, "a.yaml"), "runtime-directory: "+runtimeDir)
	run := func(command string, args ...string) error {
		_, err := output(t, append([]string{"runtime", command, "--daemon-json=" + daemonJSON, "--config=" + file}, args...)...)
		return err
	}

	if err := run("remove", "--config-dir="+dropIns); err == nil || !strings.Contains(err.Error(), filepath.Join(runtimeDir, seam.Records)) {
		t.Errorf("remove: %v; want a refusal because of the record", err)
	}
	if err := run("status"); err == nil || !strings.Contains(err.Error(), "not registered") {
		t.Errorf("status: %v; want an answer of the file's engine", err)
	}
	for _, command := range []string{"install", "remove", "status"} {
		if err := run(command, "--network-plugin=kubenet"); err == nil || !strings.Contains(err.Error(), "kubenet") {
			t.Errorf("%s with an invalid setting: %v", command, err)
		}
	}

	needs.Root(t, "registers a program")
	write(t, file, settings+"'"+runtimeDir+" x'")
	binary := filepath.Join(dir, "cridock-runtime")
	if err := os.WriteFile(binary, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := run("install", "--runtime-binary="+binary); err == nil || !strings.Contains(err.Error(), runtimeDir+" x") {
		t.Errorf("install: %v; want a refusal of the file's directory", err)
	}
}
