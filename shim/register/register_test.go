package register

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
	"github.com/google/go-cmp/cmp"

	"github.com/cridock/cridock/internal/needs"
	"github.com/cridock/cridock/shim/engine"
)

// daemon stands for dockerd: it reads its configuration on SIGHUP, which the test's
// own process receives.
type daemon struct {
	Registration
	t        *testing.T
	messages chan events.Message

	mu       sync.Mutex
	refuse   func() // if set, it is called instead of reading the configuration
	runtimes map[string]engine.Runtime
	reloads  int
}

func newDaemon(t *testing.T, config string) *daemon {
	t.Helper()
	needs.Root(t, "registered binaries must be root's")
	dir := t.TempDir()
	d := &daemon{t: t, messages: make(chan events.Message, 9), runtimes: map[string]engine.Runtime{"runc": {Path: "runc"}}}
	d.Registration = Registration{Engine: d, ConfigFile: filepath.Join(dir, "docker", "daemon.json"), PIDFile: filepath.Join(dir, "pid"),
		Binary: filepath.Join(dir, "cridock-runtime"), RuntimeDir: "/run/cridock"}
	write(t, d.PIDFile, strconv.Itoa(os.Getpid())+"\n", 0o644)
	write(t, d.Binary, "", 0o755)
	if config != "" {
		write(t, d.ConfigFile, config, 0o640)
	}
	before, err := os.ReadFile("/proc/self/comm")
	if err != nil {
		t.Fatal(err)
	}
	write(t, "/proc/self/comm", "dockerd", 0)
	hups, done := make(chan os.Signal, 9), make(chan struct{})
	signal.Notify(hups, syscall.SIGHUP)
	go func() {
		defer close(done)
		for range hups {
			d.reload()
		}
	}()
	t.Cleanup(func() {
		signal.Stop(hups)
		close(hups)
		<-done
		write(t, "/proc/self/comm", strings.TrimSpace(string(before)), 0)
	})
	return d
}

func write(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
}

func (d *daemon) reload() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reloads++
	if d.refuse != nil {
		d.refuse()
		return
	}
	var config struct{ Runtimes map[string]entry }
	if b, err := os.ReadFile(d.ConfigFile); err == nil {
		if err := json.Unmarshal(b, &config); err != nil {
			d.t.Error(err)
		}
	}
	if config.Runtimes != nil { // else dockerd keeps what it has
		d.runtimes = map[string]engine.Runtime{"runc": {Path: "runc"}}
	}
	for name, r := range config.Runtimes {
		d.runtimes[name] = engine.Runtime{Path: r.Path, Args: r.Args}
	}
	d.messages <- events.Message{}
}

// awaitReloads waits for a number of signals: one that arrives after the test would end
// this process.
func (d *daemon) awaitReloads(count int) {
	d.t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		if d.count() >= count {
			return
		}
		if time.Now().After(end) {
			d.t.Fatalf("dockerd has had %d signals; want %d", d.count(), count)
		}
	}
}

func (d *daemon) Events(context.Context, filters.Args) (<-chan events.Message, <-chan error) {
	return d.messages, make(chan error)
}

func (d *daemon) Refresh(context.Context) (*engine.Capabilities, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return &engine.Capabilities{Runtimes: d.runtimes}, nil
}

func (d *daemon) config() (text string, parsed map[string]any) {
	d.t.Helper()
	b, err := os.ReadFile(d.ConfigFile)
	if err != nil {
		d.t.Fatal(err)
	}
	if err := json.Unmarshal(b, &parsed); err != nil {
		d.t.Fatal(err)
	}
	return string(b), parsed
}

func (d *daemon) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.reloads
}

const others = `{"log-opts": {"max-size": "9m"}, "runtimes": {"crun": {"path": "/usr/bin/crun"}}, "max-concurrent-downloads": 12345678901234567890}`

func TestInstallAndRemove(t *testing.T) {
	for name, config := range map[string]string{"no file": "", "empty file": "\n", "empty settings": "{}", "other settings": others} {
		t.Run(name, func(t *testing.T) {
			d := newDaemon(t, config)
			for range 2 {
				if err := d.Install(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if n := d.count(); n != 1 {
				t.Errorf("%d reloads", n)
			}
			text, parsed := d.config()
			if got := parsed["runtimes"].(map[string]any)["cridock"]; cmp.Diff(any(map[string]any{"path": d.Binary}), got) != "" {
				t.Errorf("the entry is %v", got)
			}
			if config == others && (!strings.Contains(text, "12345678901234567890") || !strings.Contains(text, "/usr/bin/crun") || !strings.Contains(text, `"max-size": "9m"`)) {
				t.Errorf("other settings were lost: %s", text)
			}
			if s, err := d.Status(t.Context()); err != nil || s != (Status{InFile: d.Binary, Active: d.Binary}) {
				t.Errorf("status %+v, %v", s, err)
			}
			for range 2 {
				if err := d.Remove(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			_, parsed = d.config()
			before := map[string]any{"runtimes": map[string]any{}}
			if strings.TrimSpace(config) != "" {
				if err := json.Unmarshal([]byte(config), &before); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(before, parsed); diff != "" {
				t.Errorf("after the removal (-before +after): %s", diff)
			}
			if s, err := d.Status(t.Context()); err != nil || !strings.Contains(s.Wrong, "not registered") {
				t.Errorf("status %+v, %v", s, err)
			}
		})
	}
}

// TestInstallKeeps: the file's mode, a link to it, and a backup.
func TestInstallKeeps(t *testing.T) {
	d := newDaemon(t, "")
	target := filepath.Join(filepath.Dir(d.PIDFile), "elsewhere.json")
	write(t, target, others, 0o600)
	if err := errors.Join(os.Mkdir(filepath.Dir(d.ConfigFile), 0o755), os.Symlink(target, d.ConfigFile)); err != nil {
		t.Fatal(err)
	}
	d.RuntimeDir = "/run/other/"
	if err := d.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(d.ConfigFile)
	if err != nil || info.Mode().Type() != os.ModeSymlink {
		t.Errorf("the link was replaced: %v, %v", info, err)
	}
	if info, err := os.Stat(target); err != nil || info.Mode() != 0o600 {
		t.Errorf("its mode is %v, %v", info.Mode(), err)
	}
	if b, err := os.ReadFile(target + ".before-cridock"); err != nil || string(b) != others {
		t.Errorf("the backup is %q, %v", b, err)
	}
	if text, _ := d.config(); !strings.Contains(text, "--cridock-dir=/run/other") {
		t.Errorf("another runtime directory is not passed: %s", text)
	}
	d.RuntimeDir = "/run/cridock"
	if s, err := d.Status(t.Context()); err != nil || !strings.Contains(s.Wrong, "--cridock-dir=/run/other") {
		t.Errorf("status for another directory: %+v, %v", s, err)
	}
}

// TestInstallUndone: a configuration that dockerd does not take is taken back.
func TestInstallUndone(t *testing.T) {
	for name, config := range map[string]string{"no file": "", "other settings": others} {
		t.Run(name, func(t *testing.T) {
			d := newDaemon(t, config)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			d.mu.Lock()
			d.refuse = cancel
			d.mu.Unlock()
			if err := d.Install(ctx); err == nil || !strings.Contains(err.Error(), "as before") {
				t.Errorf("%v", err)
			}
			b, err := os.ReadFile(d.ConfigFile)
			if config == "" && !errors.Is(err, os.ErrNotExist) || string(b) != config {
				t.Errorf("the file is %q, %v", b, err)
			}
			d.awaitReloads(2) // the second is for the former configuration
		})
	}
}

func TestInstallRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		config string
		change func(*testing.T, *daemon)
		want   string
	}{
		"no JSON":            {`{"a":`, func(*testing.T, *daemon) {}, "unexpected end"},
		"runtimes not JSON":  {`{"runtimes": []}`, func(*testing.T, *daemon) {}, "runtimes"},
		"a relative binary":  {"{}", func(_ *testing.T, d *daemon) { d.Binary = "cridock-runtime" }, "absolute"},
		"no binary":          {"{}", func(_ *testing.T, d *daemon) { d.Binary += "x" }, "no such file"},
		"no program":         {"{}", func(t *testing.T, d *daemon) { chmod(t, d.Binary, 0o644) }, "not a program"},
		"a public binary":    {"{}", func(t *testing.T, d *daemon) { chmod(t, d.Binary, 0o757) }, "other than root"},
		"a public directory": {"{}", func(t *testing.T, d *daemon) { chmod(t, filepath.Dir(d.Binary), 0o777) }, "other than root"},
		"somebody's binary":  {"{}", func(t *testing.T, d *daemon) { chown(t, d.Binary) }, "other than root"},
		"somebody's link": {"{}", func(t *testing.T, d *daemon) {
			link := filepath.Join(filepath.Dir(d.Binary), "link")
			if err := os.Symlink(d.Binary, link); err != nil {
				t.Fatal(err)
			}
			chown(t, link)
			d.Binary = link
		}, "other than root"},
		"a link in a public directory": {"{}", func(t *testing.T, d *daemon) {
			dir := filepath.Join(filepath.Dir(d.Binary), "public")
			if err := errors.Join(os.Mkdir(dir, 0o755), os.Symlink(d.Binary, filepath.Join(dir, "link"))); err != nil {
				t.Fatal(err)
			}
			chmod(t, dir, 0o777)
			d.Binary = filepath.Join(dir, "link")
		}, "other than root"},
		"a shell's words": {"{}", func(_ *testing.T, d *daemon) { d.RuntimeDir = "/run/$(id)" }, "shell"},
		"not dockerd":     {"{}", func(t *testing.T, d *daemon) { write(t, d.PIDFile, strconv.Itoa(os.Getppid()), 0o644) }, "no dockerd"},
		"runtimes as flags": {"{}", func(t *testing.T, d *daemon) {
			path := filepath.Join(filepath.Dir(d.Binary), "dockerd")
			write(t, path, "#!/bin/sh\necho\nread line\n", 0o755)
			cmd := exec.Command(path, "--add-runtime", "other=/bin/other")
			stdin, inErr := cmd.StdinPipe()
			stdout, outErr := cmd.StdoutPipe()
			if err := errors.Join(inErr, outErr, cmd.Start()); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _, _ = stdin.Close(), cmd.Wait() })
			// Start returns before the kernel has set the process's name and arguments.
			if _, err := stdout.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			write(t, d.PIDFile, strconv.Itoa(cmd.Process.Pid), 0o644)
		}, "--add-runtime"},
		"no PID": {"{}", func(t *testing.T, d *daemon) { write(t, d.PIDFile, "-1", 0o644) }, "PID file"},
		"refused by dockerd": {"{}", func(t *testing.T, d *daemon) {
			d.Dockerd = filepath.Join(filepath.Dir(d.Binary), "dockerd")
			write(t, d.Dockerd, "#!/bin/sh\n[ \"$1\" = --help ] && echo '  --validate' && exit\necho bad; exit 1\n", 0o755)
		}, "bad"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDaemon(t, tc.config)
			tc.change(t, d)
			if err := d.Install(t.Context()); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v; want %q", err, tc.want)
			}
			if b, err := os.ReadFile(d.ConfigFile); err != nil || string(b) != tc.config {
				t.Errorf("the file is %q, %v", b, err)
			}
		})
	}
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func chown(t *testing.T, path string) {
	t.Helper()
	if err := os.Lchown(path, 1000, 1000); err != nil {
		t.Fatal(err)
	}
}

// TestValidates: a dockerd that can, checks the new content.
func TestValidates(t *testing.T) {
	for name, script := range map[string]string{
		"can":    "#!/bin/sh\n[ \"$1\" = --help ] && echo '  --validate' && exit\n[ \"$1 $2\" = '--validate --config-file' ] && grep -q cridock-runtime \"$3\"\n",
		"cannot": "#!/bin/sh\n[ \"$1\" = --help ]\n",
	} {
		t.Run(name, func(t *testing.T) {
			d := newDaemon(t, "{}")
			d.Dockerd = filepath.Join(filepath.Dir(d.Binary), "dockerd")
			write(t, d.Dockerd, script, 0o755)
			if err := d.Install(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestRemoveWaitsForContainers: Docker needs the runtime to remove them.
func TestRemoveWaitsForContainers(t *testing.T) {
	d := newDaemon(t, "")
	d.RuntimeDir = t.TempDir()
	if err := d.Install(t.Context()); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(d.RuntimeDir, "oci", strings.Repeat("a", 64)+".json"), "", 0o600)
	if err := d.Remove(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("%v", err)
	}
}
