package streaming

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream/wsstream"
	utilexec "k8s.io/utils/exec"
)

// handler serves the URLs that admit makes, as long as open admits requests.
func (s *Server) handler(open *sessions) http.Handler {
	mux := http.NewServeMux()
	for _, kind := range []string{"exec", "attach", "portforward"} {
		mux.HandleFunc("/"+kind+"/{token}", func(w http.ResponseWriter, r *http.Request) {
			if open.begin() {
				defer open.end()
				s.serve(kind, w, r)
			}
		})
	}
	return mux
}

// serve runs one request to its end. A token that is used for something else is
// answered as one that does not exist.
func (s *Server) serve(kind string, w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		http.Error(w, "GET or POST only", http.StatusMethodNotAllowed)
		return
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	up := &upgrade{ResponseWriter: w, server: r.Context(), gone: cancel}
	defer up.finish()
	r = r.WithContext(ctx)
	session := s.session(kind, up, r)
	if session == nil {
		http.NotFound(w, r)
		return
	}
	if s.config.Opened != nil {
		defer s.config.Opened(kind)()
	}
	session()
}

// session is what a request's token stands for; nil if that is nothing, or
// another kind.
func (s *Server) session(kind string, up *upgrade, r *http.Request) func() {
	switch request := s.tokens.take(r.PathValue("token")).(type) {
	case *runtimeapi.ExecRequest:
		if kind == "exec" {
			return func() { s.serveExec(up, r, request) }
		}
	case *runtimeapi.AttachRequest:
		if kind == "attach" {
			return func() { s.serveAttach(up, r, request) }
		}
	case *runtimeapi.PortForwardRequest:
		if kind == "portforward" {
			return func() { s.servePortForward(up, r, request) }
		}
	}
	return nil
}

func (s *Server) serveExec(up *upgrade, r *http.Request, request *runtimeapi.ExecRequest) {
	opts := &remotecommand.Options{Stdin: request.Stdin, Stdout: request.Stdout, Stderr: request.Stderr, TTY: request.Tty}
	c := &call{up: up, opts: opts, run: func(ctx context.Context, streams Streams) error {
		return s.runtime.Exec(ctx, request.ContainerId, request.Cmd, streams)
	}}
	if wsstream.IsWebSocketRequestWithStreamCloseProtocol(r) {
		c.serveV5(up, r, s.config.IdleTimeout)
		return
	}
	remotecommand.ServeExec(up, r, c, "", "", request.ContainerId, request.Cmd, opts,
		s.config.IdleTimeout, s.config.CreationTimeout, remotecommand.SupportedStreamingProtocols)
}

func (s *Server) serveAttach(up *upgrade, r *http.Request, request *runtimeapi.AttachRequest) {
	opts := &remotecommand.Options{Stdin: request.Stdin, Stdout: request.Stdout, Stderr: request.Stderr, TTY: request.Tty}
	c := &call{up: up, opts: opts, run: func(ctx context.Context, streams Streams) error {
		return s.runtime.Attach(ctx, request.ContainerId, streams)
	}}
	if wsstream.IsWebSocketRequestWithStreamCloseProtocol(r) {
		c.serveV5(up, r, s.config.IdleTimeout)
		return
	}
	remotecommand.ServeAttach(up, r, c, "", "", request.ContainerId, opts,
		s.config.IdleTimeout, s.config.CreationTimeout, remotecommand.SupportedStreamingProtocols)
}

// call is one exec or attach as cri-streaming wants it.
type call struct {
	up   *upgrade
	opts *remotecommand.Options
	run  func(context.Context, Streams) error
}

var (
	_ remotecommand.Executor = (*call)(nil)
	_ remotecommand.Attacher = (*call)(nil)
)

// ExecInContainer implements [remotecommand.Executor].
func (c *call) ExecInContainer(ctx context.Context, _, _, _ string, _ []string, in io.Reader, out, errs io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	return c.do(ctx, in, out, errs, resize)
}

// AttachContainer implements [remotecommand.Attacher].
func (c *call) AttachContainer(ctx context.Context, _, _, _ string, in io.Reader, out, errs io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize) error {
	return c.do(ctx, in, out, errs, resize)
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
	if cause := context.Cause(ctx); errors.Is(cause, errClientGone) {
		klog.FromContext(ctx).V(2).Info("Streaming client went away", "err", err)
		return nil
	}
	if code, ok := exitCode(err); ok {
		// cri-streaming does not look into wrapped errors.
		return utilexec.CodeExitError{Err: err, Code: code}
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
