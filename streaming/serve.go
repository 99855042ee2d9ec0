package streaming

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream/wsstream"
	utilexec "k8s.io/utils/exec"

	"github.com/cridock/cridock/streaming/guard"
)

// callFiles are those of an exec or attach: the client's connection and
// Docker's. A port-forward client has its connection.
const (
	callFiles    = 2
	forwardFiles = 1
)

// handler serves the URLs that admit makes, as long as open admits requests.
func (s *Server) handler(open *sessions) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !open.begin() {
			return
		}
		defer open.end()
		if r.Method != http.MethodGet && r.Method != http.MethodPost {
			deny(w, "GET or POST only", http.StatusMethodNotAllowed)
			return
		}
		kind, token, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		begin, files := s.session(kind, token)
		if begin == nil {
			deny(w, "404 page not found", http.StatusNotFound)
			return
		}
		s.serve(kind, files, w, r, begin)
	})
}

// deny answers a request that begins no session, and has the connection closed
// without waiting for what the client has not sent.
func deny(w http.ResponseWriter, message string, code int) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now())
	http.Error(w, message, code)
}

// serve runs one session, of a client that has shown its token, to its end.
func (s *Server) serve(kind string, files int64, w http.ResponseWriter, r *http.Request, begin func(*upgrade, *http.Request)) {
	if conn, ok := r.Context().Value(connKey{}).(net.Conn); ok && !guard.Vouch(conn) {
		return // it was closed while the token was looked up
	}
	if !s.files.TryAcquire(files) {
		klog.FromContext(r.Context()).Info("Streaming session was refused, too many are open", "kind", kind, "maxFiles", s.config.MaxSessionFiles)
		deny(w, "too many streaming sessions are open, try again later", http.StatusServiceUnavailable)
		return
	}
	defer s.files.Release(files)
	if s.config.Opened != nil {
		defer s.config.Opened(kind)()
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	up := &upgrade{ResponseWriter: w, server: r.Context(), gone: cancel}
	defer up.finish()
	begin(up, r.WithContext(ctx))
}

// session is what a token stands for, and the files that it takes; nil if that
// is nothing, or of another kind. The token is used up.
func (s *Server) session(kind, token string) (begin func(*upgrade, *http.Request), files int64) {
	switch request := s.tokens.take(token).(type) {
	case *runtimeapi.ExecRequest:
		if kind == "exec" {
			return func(up *upgrade, r *http.Request) { s.serveExec(up, r, request) }, callFiles
		}
	case *runtimeapi.AttachRequest:
		if kind == "attach" {
			return func(up *upgrade, r *http.Request) { s.serveAttach(up, r, request) }, callFiles
		}
	case *runtimeapi.PortForwardRequest:
		if kind == "portforward" {
			return func(up *upgrade, r *http.Request) { s.servePortForward(up, r, request) }, forwardFiles
		}
	}
	return nil, 0
}

func (s *Server) serveExec(up *upgrade, r *http.Request, request *runtimeapi.ExecRequest) {
	opts := &remotecommand.Options{Stdin: request.Stdin, Stdout: request.Stdout, Stderr: request.Stderr, TTY: request.Tty}
	s.serveCall(r, &call{up: up, opts: opts, run: func(ctx context.Context, streams Streams) error {
		return s.runtime.Exec(ctx, request.ContainerId, request.Cmd, streams)
	}})
}

func (s *Server) serveAttach(up *upgrade, r *http.Request, request *runtimeapi.AttachRequest) {
	opts := &remotecommand.Options{Stdin: request.Stdin, Stdout: request.Stdout, Stderr: request.Stderr, TTY: request.Tty}
	s.serveCall(r, &call{up: up, opts: opts, run: func(ctx context.Context, streams Streams) error {
		return s.runtime.Attach(ctx, request.ContainerId, streams)
	}})
}

func (s *Server) serveCall(r *http.Request, c *call) {
	if wsstream.IsWebSocketRequest(r) {
		c.serveWebSocket(r, s.config.IdleTimeout)
		return
	}
	c.serveSPDY(r, s.config)
}

// call is one exec or attach.
type call struct {
	up   *upgrade
	opts *remotecommand.Options
	run  func(context.Context, Streams) error
}

// do runs the call with the streams that the CRI request named: over WebSocket
// all of them are there, and a client may open more than it asked for.
func (c *call) do(ctx context.Context, in io.Reader, out, errs io.WriteCloser, resize <-chan Size) error {
	streams := Streams{TTY: c.opts.TTY}
	if c.opts.Stdin {
		streams.Stdin = in
	}
	if c.opts.Stdout {
		streams.Stdout = out
	}
	if c.opts.Stderr {
		streams.Stderr = errs
	}
	if c.opts.TTY {
		streams.Resize = resize
	}
	err := c.run(ctx, streams)
	c.up.over()
	if ctx.Err() != nil {
		klog.FromContext(ctx).V(2).Info("Streaming session ended with its client or the server", "err", err)
		return err
	}
	if _, ok := exitCode(err); err != nil && !ok {
		klog.FromContext(ctx).Info("Streaming session failed", "err", err)
	}
	return err
}

// exitCode is the code that an error stands for, if any.
func exitCode(err error) (int, bool) {
	var exit utilexec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return exit.ExitStatus(), true
	}
	return 0, false
}

// ExitError is the error of a command that ended with a code other than 0.
func ExitError(code int) error {
	return utilexec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", code), Code: code}
}
