package streaming

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// fakeRuntime is a Runtime of functions.
type fakeRuntime struct {
	exec   func(context.Context, string, []string, Streams) error
	attach func(context.Context, string, Streams) error
	netns  func(context.Context, string) (*os.File, error)
}

func (f *fakeRuntime) Exec(ctx context.Context, id string, cmd []string, s Streams) error {
	return f.exec(ctx, id, cmd, s)
}
func (f *fakeRuntime) Attach(ctx context.Context, id string, s Streams) error {
	return f.attach(ctx, id, s)
}
func (f *fakeRuntime) NetNS(ctx context.Context, id string) (*os.File, error) {
	return f.netns(ctx, id)
}

// start runs a server until the test ends, and checks that it then stops.
func start(t *testing.T, config Config, rt Runtime) *Server {
	t.Helper()
	s, err := New(config, rt)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(time.Minute):
			stacks := make([]byte, 1<<20)
			t.Errorf("Run does not end with its context\n%s", stacks[:runtime.Stack(stacks, true)])
		}
	})
	return s
}

func execURL(t *testing.T, s *Server, r *runtimeapi.ExecRequest) *url.URL {
	t.Helper()
	resp, err := s.Exec(r)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, resp.Url)
}

func parse(t *testing.T, raw string) *url.URL {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// eventually waits for a condition that changes in the background.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

func TestRequestsAreChecked(t *testing.T) {
	s, err := New(Config{}, &fakeRuntime{})
	if err != nil {
		t.Fatal(err)
	}
	ok := runtimeapi.ExecRequest{ContainerId: "c", Cmd: []string{"true"}, Stdout: true}
	if _, err := s.Exec(&ok); !errdefs.IsUnavailable(err) {
		t.Errorf("before Listen: %v, want Unavailable", err)
	}
	for name, r := range map[string]*runtimeapi.ExecRequest{
		"no container":   {Cmd: []string{"true"}, Stdout: true},
		"no command":     {ContainerId: "c", Stdout: true},
		"no stream":      {ContainerId: "c", Cmd: []string{"true"}},
		"tty and stderr": {ContainerId: "c", Cmd: []string{"true"}, Tty: true, Stdout: true, Stderr: true},
	} {
		if _, err := s.Exec(r); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Exec, %s: %v, want InvalidArgument", name, err)
		}
		if name == "no command" {
			continue
		}
		a := &runtimeapi.AttachRequest{ContainerId: r.ContainerId, Tty: r.Tty, Stdout: r.Stdout, Stderr: r.Stderr}
		if _, err := s.Attach(a); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Attach, %s: %v, want InvalidArgument", name, err)
		}
	}
	for name, r := range map[string]*runtimeapi.PortForwardRequest{
		"no pod":   {Port: []int32{80}},
		"bad port": {PodSandboxId: "p", Port: []int32{80, 65536}},
	} {
		if _, err := s.PortForward(r); !errdefs.IsInvalidArgument(err) {
			t.Errorf("PortForward, %s: %v, want InvalidArgument", name, err)
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	for name, c := range map[string]Config{
		"certificate alone": {CertFile: "c"},
		"CA without TLS":    {ClientCAFile: "ca"},
	} {
		if _, err := New(c, nil); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v, want InvalidArgument", name, err)
		}
	}
	if _, err := New(Config{CertFile: "/nonexistent", KeyFile: "/nonexistent"}, nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing certificate: %v", err)
	}
}

func TestURL(t *testing.T) {
	for addr, host := range map[string]string{"": "127.0.0.1", "0.0.0.0:0": "127.0.0.1", "[::]:0": "127.0.0.1", "127.0.0.2:0": "127.0.0.2"} {
		s := start(t, Config{Addr: addr}, &fakeRuntime{})
		u := execURL(t, s, &runtimeapi.ExecRequest{ContainerId: "c", Cmd: []string{"true"}, Stdout: true})
		if u.Scheme != "http" || u.Hostname() != host || u.Port() == "0" || !strings.HasPrefix(u.Path, "/exec/") {
			t.Errorf("listening on %q: URL %s", addr, u)
		}
		// Whatever the response, the address must be reachable.
		resp, err := http.Get(u.String())
		if err != nil {
			t.Errorf("listening on %q: %v", addr, err)
			continue
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
	}
}

func TestTokenWorksOnceAndForItsKind(t *testing.T) {
	s := start(t, Config{}, &fakeRuntime{})
	get := func(u *url.URL) int {
		resp, err := http.Get(u.String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	request := &runtimeapi.ExecRequest{ContainerId: "c", Cmd: []string{"true"}, Stdout: true}
	u := execURL(t, s, request)
	// The token is valid, but the request is not an upgrade.
	if got := get(u); got == http.StatusNotFound {
		t.Errorf("first use: status %d", got)
	}
	if got := get(u); got != http.StatusNotFound {
		t.Errorf("second use: status %d, want 404", got)
	}
	u = execURL(t, s, request)
	u.Path = strings.Replace(u.Path, "/exec/", "/attach/", 1)
	if got := get(u); got != http.StatusNotFound {
		t.Errorf("exec token for attach: status %d, want 404", got)
	}
	u.Path = "/exec/unknown"
	if got := get(u); got != http.StatusNotFound {
		t.Errorf("unknown token: status %d, want 404", got)
	}
}

func TestTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tk tokens
		seen := map[string]bool{}
		var first string
		for i := range maxTokens {
			token, err := tk.put(i)
			if err != nil || seen[token] || len(token) < 22 {
				t.Fatalf("token %d: %q, %v", i, token, err)
			}
			if i == 0 {
				first = token
			}
			seen[token] = true
			if i == maxTokens/2 {
				time.Sleep(tokenLifetime / 2)
			}
		}
		if _, err := tk.put("too many"); !errdefs.IsResourceExhausted(err) {
			t.Errorf("token %d: %v, want ResourceExhausted", maxTokens, err)
		}
		if got := tk.take(first); got != 0 {
			t.Errorf("first token stands for %v", got)
		}
		if got := tk.take(first); got != nil {
			t.Errorf("first token works twice: %v", got)
		}
		last, err := tk.put("last")
		if err != nil {
			t.Fatalf("a used token still takes a place: %v", err)
		}
		time.Sleep(tokenLifetime / 2)
		// The first half has expired and makes room for more.
		for range maxTokens / 2 {
			if _, err := tk.put("more"); err != nil {
				t.Fatal(err)
			}
		}
		if got := tk.take(last); got != "last" {
			t.Errorf("token before its end: %v", got)
		}
		late, err := tk.put("late")
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(tokenLifetime)
		if got := tk.take(late); got != nil {
			t.Errorf("expired token still works: %v", got)
		}
	})
}

func TestListenAddressInUse(t *testing.T) {
	s := start(t, Config{}, &fakeRuntime{})
	other, err := New(Config{Addr: s.URL().Host}, &fakeRuntime{})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Run(t.Context()); err == nil {
		t.Error("two servers on one address")
	}
}

func TestStatusOfMatchesKubernetes(t *testing.T) {
	got := statusOf(fmt.Errorf("wrapped: %w", ExitError(7)))
	want := status{Status: "Failure", Reason: "NonZeroExitCode",
		Message: "command terminated with non-zero exit code: wrapped: command terminated with exit code 7",
		Details: &statusDetails{Causes: []statusCause{{Type: "ExitCode", Message: "7"}}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
