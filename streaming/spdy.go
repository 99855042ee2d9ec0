package streaming

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// spdyProtocols are the versions of the remote command protocol over SPDY.
// Version 1, of Kubernetes 1.0, is not supported.
var spdyProtocols = []string{remotecommand.StreamProtocolV4Name, remotecommand.StreamProtocolV3Name, remotecommand.StreamProtocolV2Name}

// serveSPDY runs a call over SPDY. cri-streaming can do that too, but leaves
// goroutines behind when a client opens more streams than needed.
func (c *call) serveSPDY(r *http.Request, config Config) {
	ctx := r.Context()
	protocol, err := httpstream.Handshake(r, c.up, spdyProtocols)
	if err != nil {
		return // the client has been told
	}
	streams := &callStreams{wanted: c.wanted(protocol), abort: c.up.refuse, complete: make(chan struct{})}
	conn := spdy.NewResponseUpgrader().UpgradeResponse(spdyUpgrade{c.up, c.up.refuse}, r, streams.add)
	if conn == nil {
		return // likewise
	}
	defer func() { _ = conn.Close() }()
	conn.SetIdleTimeout(config.IdleTimeout)
	if err := streams.wait(ctx, config.CreationTimeout); err != nil {
		klog.FromContext(ctx).V(2).Info("Streaming client did not open its streams", "err", err)
		c.up.abort()
		return
	}
	var resize chan Size
	if in := streams.get(remotecommand.StreamTypeResize); in != nil {
		resize = make(chan Size)
		go decodeSizes(ctx, in, resize)
	}
	err = c.do(ctx, streams.reader(remotecommand.StreamTypeStdin),
		streams.writer(remotecommand.StreamTypeStdout), streams.writer(remotecommand.StreamTypeStderr), resize)
	if err := writeStatus(streams.get(remotecommand.StreamTypeError), protocol, err); err != nil {
		klog.FromContext(ctx).V(2).Info("Streaming client did not receive its result", "err", err)
	}
}

// wanted returns the streams that a client must open.
func (c *call) wanted(protocol string) []string {
	wanted := []string{remotecommand.StreamTypeError}
	add := func(asked bool, kind string) {
		if asked {
			wanted = append(wanted, kind)
		}
	}
	add(c.opts.Stdin, remotecommand.StreamTypeStdin)
	add(c.opts.Stdout, remotecommand.StreamTypeStdout)
	add(c.opts.Stderr, remotecommand.StreamTypeStderr)
	add(c.opts.TTY && protocol != remotecommand.StreamProtocolV2Name, remotecommand.StreamTypeResize)
	return wanted
}

// writeStatus sends a call's result to the client: a Status object from version 4
// on, before that a text, or nothing after success.
func writeStatus(w io.Writer, protocol string, err error) error {
	st := statusOf(err)
	if protocol == remotecommand.StreamProtocolV4Name || protocol == remotecommand.StreamProtocolV5Name {
		b, err := json.Marshal(st)
		if err == nil {
			_, err = w.Write(b)
		}
		return err
	}
	if err == nil {
		return nil
	}
	_, err = io.WriteString(w, st.Message)
	return err
}

// callStreams holds the streams that a client opens for a call.
type callStreams struct {
	wanted []string
	// abort closes the connection.
	abort func()

	mu     sync.Mutex
	opened map[string]openedStream
	// complete is closed when all wanted streams are open.
	complete chan struct{}
}

// openedStream is a stream. replied is closed when its client has been told that it
// is open, or could not be told.
type openedStream struct {
	httpstream.Stream
	replied <-chan struct{}
}

// await returns nil when the stream's client has been told that it is open, or the cause
// if ctx ends first. Nothing may be written otherwise: after a reply that could not be
// sent, a write would never return, not even when the connection is closed.
func (s openedStream) await(ctx context.Context) error {
	select {
	case <-s.replied:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if spdy, ok := s.Stream.(interface {
		SendReply(headers http.Header, fin bool) error
	}); ok {
		return spdy.SendReply(http.Header{}, false) // does nothing after a success
	}
	return nil
}

var errUnexpectedStream = errors.New("the client opened an unknown stream, or one twice")

// add implements [httpstream.NewStreamHandler]. It must not block: the connection
// could then not be closed.
func (s *callStreams) add(stream httpstream.Stream, replied <-chan struct{}) error {
	kind := stream.Headers().Get(remotecommand.StreamType)
	s.mu.Lock()
	defer s.mu.Unlock()
	_, twice := s.opened[kind]
	switch kind {
	case remotecommand.StreamTypeError, remotecommand.StreamTypeStdin, remotecommand.StreamTypeStdout, remotecommand.StreamTypeStderr, remotecommand.StreamTypeResize:
	default:
		twice = true
	}
	if twice {
		s.abort()
		return errUnexpectedStream
	}
	if s.opened == nil {
		s.opened = make(map[string]openedStream)
	}
	wasComplete := s.isComplete()
	s.opened[kind] = openedStream{stream, replied}
	if !wasComplete && s.isComplete() {
		close(s.complete)
	}
	return nil
}

func (s *callStreams) isComplete() bool {
	for _, kind := range s.wanted {
		if _, ok := s.opened[kind]; !ok {
			return false
		}
	}
	return true
}

// wait returns nil when all wanted streams are open, and the cause if ctx ends or
// timeout passes first. It fails if the client could not be told.
func (s *callStreams) wait(ctx context.Context, timeout time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("within %v", timeout))
	defer cancel()
	select {
	case <-s.complete:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	for _, kind := range s.wanted {
		if err := s.get(kind).(openedStream).await(ctx); err != nil {
			return err
		}
	}
	return nil
}

// get returns a stream; nil if it is not open.
func (s *callStreams) get(kind string) httpstream.Stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	if stream, ok := s.opened[kind]; ok {
		return stream
	}
	return nil
}

// reader is like get, but returns a nil io.Reader if the stream is not open.
func (s *callStreams) reader(kind string) io.Reader {
	if stream := s.get(kind); stream != nil {
		return stream
	}
	return nil
}

// writer is like reader, for an io.WriteCloser.
func (s *callStreams) writer(kind string) io.WriteCloser {
	if stream := s.get(kind); stream != nil {
		return stream
	}
	return nil
}
