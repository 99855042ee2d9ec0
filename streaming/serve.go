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

// callFiles is the number of files of an exec or attach: the client's connection
// and Docker's. A port-forward client has only its connection.
const (
	callFiles    = 2
	forwardFiles = 1
)

// handler serves the URLs that admit makes, until open is closed.
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

// deny answers a request that starts no session. The connection is closed without
// waiting for data that the client has not sent.
func deny(w http.ResponseWriter, message string, code int) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now())
	http.Error(w, message, code)
}

// serve runs one session of a client with a valid token until it ends.
func (s *Server) serve(kind string, files int64, w http.ResponseWriter, r *http.Request, begin func(*upgrade, *http.Request)) {
	if conn, ok := r.Context().Value(connKey{}).(net.Conn); ok && !guard.Vouch(conn) {
		return // it was closed while the token was looked up
	}
	if !s.files.TryAcquire(files) {
		klog.FromContext(r.Context()).Info("Streaming session refused, too many are open", "kind", kind, "maxFiles", s.config.MaxSessionFiles)
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

// session returns the function that runs a token's session, and the number of
// files it needs; nil if the token is unknown or of another kind. It consumes the
// token.
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

// do runs the call with only the streams that the CRI request asked for: WebSocket
// always has all of them, and a client may open more.
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

// exitCode returns the exit code in an error, if any.
func exitCode(err error) (int, bool) {
	var exit utilexec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return exit.ExitStatus(), true
	}
	return 0, false
}

// ExitError returns the error of a command that exited with a code other than 0.
func ExitError(code int) error {
	return utilexec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", code), Code: code}
}
