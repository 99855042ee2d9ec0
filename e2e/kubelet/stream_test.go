package kubelet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"path"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
)

// protocols are the two ways to carry a session.
var protocols = []string{"SPDY", "WebSocket"}

// config is how client-go reaches the server of the pod's sessions: the API
// server for its own pods, the kubelet for others.
func (l *live) config() *rest.Config {
	if l.file == "" {
		return apiConfig()
	}
	return &rest.Config{Host: "https://" + kubeletAddr, TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
}

func (l *live) httpClient() *http.Client {
	if l.file == "" {
		return l.api.http
	}
	return l.http
}

// ofAPIServer are the API server's names that differ from the kubelet's.
var ofAPIServer = map[string]string{
	"containerLogs": "log", "portForward": "portforward", "input": "stdin", "output": "stdout", "error": "stderr",
}

// url returns the URL of one of the kubelet's APIs for a container; "" means
// the pod.
func (l *live) url(api, container string, query url.Values) *url.URL {
	u := url.URL{Scheme: "https", Host: kubeletAddr, Path: path.Join("/", api, namespace, l.name, container)}
	if l.file == "" {
		u.Host, u.Path = apiServerAddr, path.Join("/api/v1/namespaces", namespace, "pods", l.name, l.term(api))
		query = maps.Clone(query)
		if query == nil {
			query = url.Values{}
		}
		if container != "" {
			query.Set("container", container)
		}
	}
	u.RawQuery = query.Encode()
	return &u
}

// term returns the name that the server of the pod has for one of the kubelet's
// API.
func (l *live) term(name string) string {
	if other, ok := ofAPIServer[name]; ok && l.file == "" {
		return other
	}
	return name
}

// session opens an exec or attach session and returns when it ends. Nil options
// are not requested.
func (l *live) session(protocol string, u *url.URL, options remotecommand.StreamOptions) error {
	query := u.Query()
	for name, asked := range map[string]bool{"input": options.Stdin != nil, "output": options.Stdout != nil, "error": options.Stderr != nil, "tty": options.Tty} {
		if asked {
			query.Set(l.term(name), "1")
		}
	}
	u.RawQuery = query.Encode()
	executor, err := l.newExecutor(protocol, u)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return executor.StreamWithContext(ctx, options)
}

func (l *live) newExecutor(protocol string, u *url.URL) (remotecommand.Executor, error) {
	if protocol == "WebSocket" {
		return remotecommand.NewWebSocketExecutor(l.config(), http.MethodGet, u.String())
	}
	return remotecommand.NewSPDYExecutor(l.config(), http.MethodPost, u)
}

// trySh runs a script in a container through the kubelet's exec.
func (l *live) trySh(container, script string) (string, error) {
	var stdout, stderr bytes.Buffer
	u := l.url("exec", container, url.Values{"command": {"sh", "-c", script}})
	err := l.session("WebSocket", u, remotecommand.StreamOptions{Stdout: &stdout, Stderr: &stderr})
	if err != nil {
		err = fmt.Errorf("%w: %s", err, &stderr)
	}
	return stdout.String(), err
}

func testExec(t *testing.T, k *kubelet) {
	pod := k.run(t, newPod("exec", k.forever("main")))
	pod.awaitReady()
	for _, protocol := range protocols {
		var stdout, stderr bytes.Buffer
		u := pod.url("exec", "main", url.Values{"command": {"sh", "-c", "cat; echo oops >&2; exit 7"}})
		err := pod.session(protocol, u, remotecommand.StreamOptions{Stdin: strings.NewReader("through stdin\n"), Stdout: &stdout, Stderr: &stderr})
		var exit exec.ExitError
		if !errors.As(err, &exit) || exit.ExitStatus() != 7 {
			t.Errorf("%s: got %v, want exit status 7", protocol, err)
		}
		expect(t, protocol+" stdout", stdout.String(), "through stdin\n")
		expect(t, protocol+" stderr", stderr.String(), "oops\n")

		large := strings.Repeat("0123456789abcde\n", 1<<16) // 1 MiB
		var echoed bytes.Buffer
		u = pod.url("exec", "main", url.Values{"command": {"cat"}})
		if err := pod.session(protocol, u, remotecommand.StreamOptions{Stdin: strings.NewReader(large), Stdout: &echoed}); err != nil {
			t.Errorf("%s: a MiB there and back: %v", protocol, err)
		}
		if echoed.String() != large {
			t.Errorf("%s: got %d bytes back, want %d, the same", protocol, echoed.Len(), len(large))
		}

		var screen bytes.Buffer
		u = pod.url("exec", "main", url.Values{"command": {"sh", "-c", "while [ \"$(stty size 2>/dev/null)\" != '33 101' ]; do sleep 0.1; done; stty size; test -t 0 && echo is a tty"}})
		err = pod.session(protocol, u, remotecommand.StreamOptions{Stdin: blocked(t), Stdout: &screen, Tty: true, TerminalSizeQueue: newSize(101, 33)})
		if err != nil {
			t.Errorf("%s: with a terminal: %v", protocol, err)
		}
		expect(t, protocol+" terminal", screen.String(), "33 101\r\nis a tty\r\n")
	}
}

// blocked is an input that never sends anything.
func blocked(t *testing.T) io.Reader {
	r, w := io.Pipe()
	t.Cleanup(func() { _ = w.Close() })
	return r
}

// size is the size of a window that is never resized.
type size struct {
	sizes chan *remotecommand.TerminalSize
}

func newSize(width, height uint16) size {
	s := size{sizes: make(chan *remotecommand.TerminalSize, 1)}
	s.sizes <- &remotecommand.TerminalSize{Width: width, Height: height}
	close(s.sizes)
	return s
}

// Next implements remotecommand.TerminalSizeQueue.
func (s size) Next() *remotecommand.TerminalSize { return <-s.sizes }

func testAttach(t *testing.T, k *kubelet) {
	main := k.shell("main", `while read -r line; do echo "got $line"; [ "$line" != end ] || break; done`)
	main.Stdin = true
	pod := newPod("attach", main)
	l := k.run(t, pod)
	for i, protocol := range protocols {
		l.await("container running", func(s *corev1.PodStatus) bool {
			c := container(s, "main")
			return c.State.Running != nil && int(c.RestartCount) == i
		})
		var stdout, stderr bytes.Buffer
		in, out := io.Pipe()
		done := make(chan error, 1)
		go func() {
			defer func() { _ = in.Close() }() // a session that failed reads nothing
			done <- l.session(protocol, l.url("attach", "main", nil), remotecommand.StreamOptions{Stdin: in, Stdout: &stdout, Stderr: &stderr})
		}()
		if _, err := io.WriteString(out, "one\ntwo\nend\n"); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("%s: %v", protocol, err)
			}
		case <-time.After(limit):
			t.Fatalf("%s: the session outlives the container", protocol)
		}
		_ = out.Close()
		expect(t, protocol+" stdout", stdout.String(), "got one\ngot two\ngot end\n")
		expect(t, protocol+" stderr", stderr.String(), "")
	}
}

func testPortForward(t *testing.T, k *kubelet) {
	web := k.web("web", "127.0.0.1:8080", "forwarded")
	web.ReadinessProbe = probe(corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"wget", "-q", "-O-", "http://127.0.0.1:8080/"}}})
	pod := k.run(t, newPod("portforward", web))
	pod.awaitReady()
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			dialer, err := pod.portForwardDialer(protocol)
			if err != nil {
				t.Fatal(err)
			}
			stop, ready := make(chan struct{}), make(chan struct{})
			var errs bytes.Buffer
			f, err := portforward.New(dialer, []string{"0:8080", "0:81"}, stop, ready, io.Discard, &errs)
			if err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- f.ForwardPorts() }()
			select {
			case err := <-done:
				t.Fatal(err)
			case <-ready:
			}
			ports, err := f.GetPorts()
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				expect(t, "page", fetch(t, fmt.Sprintf("http://127.0.0.1:%d/", ports[0].Local)), "forwarded\n")
			}
			if _, err := direct.Get(fmt.Sprintf("http://127.0.0.1:%d/", ports[1].Local)); err == nil {
				t.Error("a port that nothing listens on answers")
			}
			close(stop)
			if err := <-done; err != nil && !errors.Is(err, portforward.ErrLostConnectionToPod) {
				t.Error(err)
			}
		})
	}
}

func (l *live) portForwardDialer(protocol string) (httpstream.Dialer, error) {
	u := l.url("portForward", "", nil)
	if protocol == "WebSocket" {
		return portforward.NewSPDYOverWebsocketDialer(u, l.config())
	}
	transport, upgrader, err := spdy.RoundTripperFor(l.config())
	if err != nil {
		return nil, err
	}
	return spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, u), nil
}
