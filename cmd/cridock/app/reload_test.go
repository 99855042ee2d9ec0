package app

import (
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/internal/syncbuffer"
)

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// captureLog redirects klog until the test ends.
func captureLog(t *testing.T) *syncbuffer.Buffer {
	t.Helper()
	log, state := &syncbuffer.Buffer{}, klog.CaptureState()
	t.Cleanup(state.Restore)
	klog.LogToStderr(false)
	klog.SetOutput(log)
	return log
}

// logged waits for a line of the log.
func logged(t *testing.T, log *syncbuffer.Buffer, words ...string) {
	t.Helper()
	await(t, strings.Join(words, " ")+" in the log", func() bool {
		klog.Flush()
		lines := log.String()
		for _, w := range words {
			lines = linesWith(lines, w)
		}
		return lines != ""
	})
}

func linesWith(text, word string) string {
	var found strings.Builder
	for line := range strings.Lines(text) {
		if strings.Contains(line, word) {
			found.WriteString(line)
		}
	}
	return found.String()
}

// TestSIGHUP: the process reads its files again, applies what it can, says what it
// cannot, survives a file that is invalid, and tells systemd.
func TestSIGHUP(t *testing.T) {
	log, systemd := captureLog(t), notifySocket(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "cridock.yaml")
	write(t, file, "v: 1\ndocker-log-max-file: 7\n")
	n := startProcess(t, "--config="+file)
	systemd.told(t, "READY=1")
	hangUp := func() {
		t.Helper()
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	write(t, file, "v: 3\ndocker-log-max-file: 8\n")
	hangUp()
	logged(t, log, "Configuration reloaded", `changed=["v"]`, `needRestart=["docker-log-max-file"]`)
	if !klog.V(3).Enabled() {
		t.Error("the verbosity is not the file's")
	}
	systemd.told(t, "RELOADING=1\nMONOTONIC_USEC=")
	systemd.told(t, "READY=1")

	write(t, file, "v: 5\nno-such-key: 1\n")
	hangUp()
	logged(t, log, "Configuration not reloaded", "no-such-key")
	systemd.told(t, "READY=1")
	if klog.V(5).Enabled() {
		t.Error("an invalid file changed the verbosity")
	}
	if _, err := n.client.Version(t.Context(), &runtimeapi.VersionRequest{}); err != nil {
		t.Error(err)
	}
}

// loaded returns the options of a process with these files and flags.
func loaded(t *testing.T, args ...string) *Options {
	t.Helper()
	o, f := NewOptions(), pflag.NewFlagSet("cridock", pflag.ContinueOnError)
	o.configDir = ""
	o.AddFlags(f)
	if err := f.Parse(args); err != nil {
		t.Fatal(err)
	}
	if err := o.Complete(f); err != nil {
		t.Fatal(err)
	}
	return o
}

// TestReread compares files with what is in force.
func TestReread(t *testing.T) {
	defer klog.CaptureState().Restore()
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a.yaml"), filepath.Join(dir, "b.yaml")
	write(t, a, "docker-log-max-file: 7\ncni-bin-dir: [/a]\npod-annotations: [x]\nv: 2")
	o := loaded(t, "--config-dir="+dir, "--docker-log-max-size=1m")
	m := newMetricsServer(http.NotFoundHandler(), nil)
	reread := func(wantChanged, wantRestart string) {
		t.Helper()
		changed, restart, err := o.reread(t.Context(), m)
		if err != nil || strings.Join(changed, " ") != wantChanged || strings.Join(restart, " ") != wantRestart {
			t.Errorf("changed %q, restart %q, %v; want %q, %q", changed, restart, err, wantChanged, wantRestart)
		}
	}
	reread("", "")
	write(t, b, "docker-log-max-file: 9\ndocker-log-max-size: 2m\nroot-directory: /other\n") // one is the command line's
	reread("", "docker-log-max-file root-directory")
	reread("", "docker-log-max-file root-directory") // still
	if o.LogMaxFile != 7 || o.RootDir != "/var/lib/cridock" {
		t.Errorf("in force are %d and %s", o.LogMaxFile, o.RootDir)
	}
	write(t, a, "docker-log-max-file: 7\ncni-bin-dir: [/a]\npod-annotations: [x]")
	write(t, b, "")
	reread("v", "") // back to the default
	if klog.V(1).Enabled() {
		t.Error("a verbosity that is in no file is not the default")
	}
	write(t, a, "cni-bin-dir: [/b, /c]\npod-annotations: []")
	reread("", "cni-bin-dir docker-log-max-file pod-annotations")

	for content, want := range map[string]string{"docker-log-max-file: 1": "docker-log-max-file", "v: loud": "v", "profiling: true": "metrics-bind-address", "x: 1": "unknown key", "\t": "b.yaml"} {
		write(t, b, content)
		if _, _, err := o.reread(t.Context(), m); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want an error about %s", content, err, want)
		}
	}
}

// TestRereadFails: a failed reload changes nothing, whatever it fails on.
func TestRereadFails(t *testing.T) {
	defer klog.CaptureState().Restore()
	dir := t.TempDir()
	file := filepath.Join(dir, "a.yaml")
	const before = "v: 2\nvmodule: server=3\n"
	write(t, file, before)
	o := loaded(t, "--config-dir="+dir)
	m := newMetricsServer(http.NotFoundHandler(), nil)
	defer m.stop(t.Context())
	port := freePort(t)
	type state struct{ V, VModule, Metrics string }
	now := func() state {
		return state{o.settings.Lookup("v").Value.String(), o.settings.Lookup("vmodule").Value.String(), o.MetricsAddr + m.at.addr}
	}
	for wrong, want := range map[string]string{
		"v: 5\nvmodule: loud": file + ": vmodule", "v: loud\nvmodule: x=9": file + ": v:", "v: 5\nvmodule: x=9\nprofiling: true": "profiling",
		"v: 5\nvmodule: x=9\nmetrics-bind-address: 192.0.2.1:1":                         "metrics-bind-address",
		"v: 5\nvmodule: loud\nmetrics-bind-address: '" + port + "'":                     file + ": vmodule",
		"v: 5\nvmodule: x=9\nmetrics-bind-address: 192.0.2.1:1\ndocker-log-max-file: 9": "metrics-bind-address",
	} {
		write(t, file, wrong)
		if _, _, err := o.reread(t.Context(), m); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want an error about %s", wrong, err, want)
		}
		if diff := cmp.Diff(state{"2", "server=3", ""}, now()); diff != "" {
			t.Errorf("after %q (-want +got):\n%s", wrong, diff)
		}
		write(t, file, before)
		if changed, restart, err := o.reread(t.Context(), m); err != nil || len(changed)+len(restart) > 0 {
			t.Errorf("after %q, as before: changed %q, restart %q, %v", wrong, changed, restart, err)
		}
	}
	write(t, file, "v: 5\nvmodule: x=9\nmetrics-bind-address: '"+port+"'\nprofiling: true")
	if changed, _, err := o.reread(t.Context(), m); err != nil || strings.Join(changed, " ") != "v vmodule metrics-bind-address profiling" {
		t.Errorf("changed %q, %v", changed, err)
	}
	if diff := cmp.Diff(state{"5", "x=9", port + "127.0.0.1:" + port}, now()); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
	write(t, file, "v: 5\nvmodule: x=9\nmetrics-bind-address: '"+port+"'")
	if changed, _, err := o.reread(t.Context(), m); err != nil || strings.Join(changed, " ") != "profiling" {
		t.Errorf("only profiling has changed: %q, %v", changed, err)
	}
}

// TestReloadWithoutSystemd: a message to systemd that fails does not fail the reload.
func TestReloadWithoutSystemd(t *testing.T) {
	log := captureLog(t)
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "none"))
	o := loaded(t)
	o.reload(t.Context(), true, newMetricsServer(http.NotFoundHandler(), nil))
	logged(t, log, "Cannot notify systemd", "RELOADING=1")
	logged(t, log, "Configuration reloaded")
	logged(t, log, "Cannot notify systemd", "READY=1")
}

// TestMetricsReread moves the metrics server, and keeps it if it cannot move.
func TestMetricsReread(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a.yaml")
	write(t, file, "")
	o := loaded(t, "--config-dir="+dir)
	m := newMetricsServer(http.NotFoundHandler(), nil)
	defer m.stop(t.Context())
	first, second := freePort(t), freePort(t)
	status := func(port, path string) int {
		resp, err := http.Get("http://127.0.0.1:" + port + path)
		if err != nil {
			return 0
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	type state struct{ First, Second, Profile int }
	check := func(content, wantErr string, want state) {
		t.Helper()
		write(t, file, content)
		_, _, err := o.reread(t.Context(), m)
		if (err != nil) != (wantErr != "") || err != nil && !strings.Contains(err.Error(), wantErr) {
			t.Errorf("%q: %v", content, err)
		}
		port := second
		if want.First != 0 {
			port = first
		}
		got := state{status(first, "/healthz"), status(second, "/healthz"), status(port, "/debug/pprof/symbol")}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", content, diff)
		}
	}
	check("metrics-bind-address: '"+first+"'", "", state{200, 0, 404})
	check("metrics-bind-address: '"+first+"'\nprofiling: true", "", state{200, 0, 200})
	check("metrics-bind-address: 192.0.2.1:1\nprofiling: false", "metrics-bind-address", state{200, 0, 200})
	running := m.server
	check("metrics-bind-address: 127.0.0.1:"+first+"\nprofiling: true", "", state{200, 0, 200}) // the same address
	if m.server != running {
		t.Error("the server restarted for the same address")
	}
	check("metrics-bind-address: localhost:"+first, "", state{200, 0, 404}) // another host on the same port
	if m.server == running {
		t.Error("the server did not move")
	}
	other, err := net.Listen("tcp", "127.0.0.2:"+first)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	check("metrics-bind-address: 0.0.0.0:"+first+"\nprofiling: true", "metrics-bind-address", state{200, 0, 404}) // in use by another process, too
	check("metrics-bind-address: localhost:"+first, "", state{200, 0, 404})
	check("metrics-bind-address: '"+second+"'", "", state{0, 200, 404})
	check("", "", state{0, 0, 0})
}

// freePort returns a free port that the kernel gives to no client: they get higher ones.
func freePort(t *testing.T) string {
	t.Helper()
	for range 100 {
		port := strconv.Itoa(10_000 + rand.IntN(20_000))
		if l, err := net.Listen("tcp", "127.0.0.1:"+port); err == nil {
			_ = l.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return ""
}
