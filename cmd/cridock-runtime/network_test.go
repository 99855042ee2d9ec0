package main

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cridock/cridock/internal/seam"
)

const sandboxID = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

// dockerSetKey is the engine's hook as Docker 20.10 to 27 write it.
const dockerSetKey = `{"path": "/proc/7/exe", "args": ["libnetwork-setkey", "-exec-root=/var/run/docker", "` + sandboxID + `", "012345678901"]}`

func TestSetNetwork(t *testing.T) {
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	ours := `{"path": "` + self + `", "args": ["cridock-setkey", "/proc/7/exe", "libnetwork-setkey", "-exec-root=/var/run/docker", "` + sandboxID + `", "012345678901"]}`
	const joined = `{"namespaces": [{"type": "ipc"}, {"type": "network", "path": "/run/ns"}]}`
	for name, tc := range map[string]struct{ namespace, before, after, fails string }{
		"joins": {
			"/run/ns", `{"linux": {"namespaces": [{"type": "ipc"}, {"type": "network"}]}}`, `{"linux": ` + joined + `}`, "",
		},
		"tells the engine": {
			"", `{"hooks": {"prestart": [` + dockerSetKey + `, {"path": "/x"}]}}`, `{"hooks": {"prestart": [` + ours + `, {"path": "/x"}]}}`, "",
		},
		"unknown hooks stay": {
			"",
			`{"hooks": {"prestart": [{"path": "/x", "args": ["libnetwork-setkey"]}, {"args": ["libnetwork-setkey", "-exec-root=/a", "` + sandboxID + `", "0"]}, {"path": "/x", "args": ["libnetwork-setkey", "-exec-root=/a", "` + sandboxID + `", "../0"]}]}}`,
			`{"hooks": {"prestart": [{"path": "/x", "args": ["libnetwork-setkey"]}, {"args": ["libnetwork-setkey", "-exec-root=/a", "` + sandboxID + `", "0"]}, {"path": "/x", "args": ["libnetwork-setkey", "-exec-root=/a", "` + sandboxID + `", "../0"]}]}}`,
			"",
		},
		"host network":     {"/run/ns", `{"linux": {"namespaces": [{"type": "ipc"}]}}`, "", "host's network"},
		"another's":        {"/run/ns", `{"linux": {"namespaces": [{"type": "network", "path": "/other"}]}}`, "", "/other"},
		"no namespaces":    {"/run/ns", `{}`, "", "host's network"},
		"hooks of no list": {"", `{"hooks": {"prestart": {}}}`, "", "not a list"},
	} {
		t.Run(name, func(t *testing.T) {
			s, bundle := parseSpec(t, tc.before)
			err := s.setNetwork(&seam.Network{Namespace: tc.namespace})
			if tc.fails != "" {
				if err == nil || !strings.Contains(err.Error(), tc.fails) {
					t.Errorf("%v, want %q", err, tc.fails)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			_, out := changedSpec(t, s, bundle)
			if diff := cmp.Diff(parsed(t, tc.after), out); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestSetNetworkDuringUpgrade: the path of a file that is gone is no hook.
func TestSetNetworkDuringUpgrade(t *testing.T) {
	const before = `{"hooks": {"prestart": [` + dockerSetKey + `]}}`
	s, bundle := parseSpec(t, before)
	if err := s.replaceSetKey("/usr/bin/cridock-runtime (deleted)"); err != nil {
		t.Fatal(err)
	}
	_, out := changedSpec(t, s, bundle)
	if diff := cmp.Diff(parsed(t, before), out); diff != "" {
		t.Error(diff)
	}
}

// TestSetKey runs the hook as a runtime does, against an engine that replies.
func TestSetKey(t *testing.T) {
	const state = `{"id": "x", "pid": 123}`
	for name, tc := range map[string]struct{ reply, state, fails string }{
		"success":       {"success", state, ""},
		"failure":       {"no such sandbox", state, "the engine says: no such sandbox"},
		"no reply":      {"", state, "reply"},
		"no process":    {"success", `{}`, "no process"},
		"no state":      {"success", ``, "state of the container"},
		"another state": {"success", `{"pid": "1"}`, "state of the container"},
	} {
		t.Run(name, func(t *testing.T) {
			execRoot := t.TempDir()
			heard := listen(t, execRoot, tc.reply)
			out, err := runSetKey(t, "/bin/false", execRoot, tc.state)
			if tc.fails != "" {
				if err == nil || !strings.Contains(out, tc.fails) {
					t.Errorf("%v: %s; want %q", err, out, tc.fails)
				}
				return
			}
			if err != nil || out != "" {
				t.Fatalf("%v: %s", err, out)
			}
			if diff := cmp.Diff(map[string]any{"ContainerID": sandboxID, "Key": "/proc/123/ns/net"}, <-heard); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestSetKeyWithoutEngine: if the engine is not where it is expected, its own hook is
// executed with what it would have got.
func TestSetKeyWithoutEngine(t *testing.T) {
	dir := t.TempDir()
	original := filepath.Join(dir, "hook")
	if err := os.WriteFile(original, []byte("#!/bin/sh\necho \"$@\"; cat; exit 3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := runSetKey(t, original, dir, `{"pid": 123}`)
	var status *exec.ExitError
	if !errors.As(err, &status) || status.ExitCode() != 3 {
		t.Fatalf("%v: %s", err, out)
	}
	if want := "-exec-root=" + dir + " " + sandboxID + " 012345678901\n" + `{"pid": 123}`; out != want {
		t.Errorf("the original got %q, want %q", out, want)
	}
	for _, args := range [][]string{nil, {"/bin/true"}, {"/bin/true", "libnetwork-setkey", "-exec-root=x", sandboxID, "0"}} {
		if err := setKey(args, strings.NewReader("{}")); err == nil || !strings.Contains(err.Error(), "arguments") {
			t.Errorf("arguments %q: %v", args, err)
		}
	}
}

// runSetKey runs the hook with a state and returns its output.
func runSetKey(t *testing.T, original, execRoot, state string) (string, error) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{setKeyName, original, setKeyCommand, execRootFlag + execRoot, sandboxID, "012345678901"}
	cmd.Env = append(os.Environ(), "CRIDOCK_RUNTIME_TEST=1")
	cmd.Stdin = strings.NewReader(state)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// listen is an engine that replies to one message, and closes the connection without a
// reply if that is "".
func listen(t *testing.T, execRoot, reply string) <-chan map[string]any {
	t.Helper()
	dir := filepath.Join(execRoot, "libnetwork")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "012345678901.sock"))
	if err != nil {
		t.Fatal(err)
	}
	heard, done := make(chan map[string]any, 1), make(chan struct{})
	t.Cleanup(func() { _ = l.Close(); <-done })
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return // the hook did not connect
		}
		defer func() { _ = conn.Close() }()
		var message map[string]any
		if err := json.NewDecoder(conn).Decode(&message); err != nil {
			return
		}
		heard <- message
		_, _ = conn.Write([]byte(reply))
	}()
	return heard
}
