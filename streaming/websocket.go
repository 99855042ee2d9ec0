package streaming

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// webSocketProtocols are the versions of the remote command protocol over
// WebSocket; "" is for clients that name none. Each message begins with its
// channel number; from version 5 on, 255 and a number close that channel. The
// value is true if messages are binary, false if they are base64.
var webSocketProtocols = map[string]bool{
	remotecommand.StreamProtocolV5Name:              true,
	remotecommand.StreamProtocolV4Name:              true,
	"v4." + wsstream.Base64ChannelWebSocketProtocol: false,
	wsstream.ChannelWebSocketProtocol:               true,
	wsstream.Base64ChannelWebSocketProtocol:         false,
	"":                                              true,
}

// serveWebSocket runs a call over WebSocket.
func (c *call) serveWebSocket(r *http.Request, idle time.Duration) {
	ctx := r.Context()
	protocols := make(map[string]wsstream.ChannelProtocolConfig)
	for name, binary := range webSocketProtocols {
		protocols[name] = wsstream.ChannelProtocolConfig{Binary: binary, Channels: c.channels()}
	}
	conn := wsstream.NewConn(protocols)
	conn.SetIdleTimeout(idle)
	protocol, streams, err := conn.Open(webSocketUpgrade{c.up, c.up.refuse}, r)
	if err != nil {
		klog.FromContext(ctx).V(2).Info("WebSocket request was not upgraded", "err", err)
		return
	}
	defer func() { _ = conn.Close() }()
	if protocol != remotecommand.StreamProtocolV5Name {
		// An empty message tells clients that they are connected.
		_, _ = streams[c.firstOutput()].Write(nil)
	}
	resize := make(chan Size)
	go decodeSizes(ctx, streams[remotecommand.StreamResize], resize)
	err = c.do(ctx, streams[remotecommand.StreamStdIn], streams[remotecommand.StreamStdOut], streams[remotecommand.StreamStdErr], resize)
	if protocol == "v4."+wsstream.Base64ChannelWebSocketProtocol {
		protocol = remotecommand.StreamProtocolV4Name
	}
	if err := writeStatus(streams[remotecommand.StreamErr], protocol, err); err != nil {
		klog.FromContext(ctx).V(2).Info("Streaming client did not receive its result", "err", err)
	}
}

// firstOutput returns the number of the first channel that the client reads.
func (c *call) firstOutput() int {
	switch {
	case c.opts.Stdout:
		return remotecommand.StreamStdOut
	case c.opts.Stderr:
		return remotecommand.StreamStdErr
	}
	return remotecommand.StreamErr
}

// channels returns the channels of the remote command protocol, in the order of
// their numbers. Data on channels that were not asked for is dropped.
func (c *call) channels() []wsstream.ChannelType {
	asked := func(yes bool, t wsstream.ChannelType) wsstream.ChannelType {
		if yes {
			return t
		}
		return wsstream.IgnoreChannel
	}
	return []wsstream.ChannelType{
		remotecommand.StreamStdIn:  asked(c.opts.Stdin, wsstream.ReadChannel),
		remotecommand.StreamStdOut: asked(c.opts.Stdout, wsstream.WriteChannel),
		remotecommand.StreamStdErr: asked(c.opts.Stderr, wsstream.WriteChannel),
		remotecommand.StreamErr:    wsstream.WriteChannel,
		remotecommand.StreamResize: wsstream.ReadChannel,
	}
}

// decodeSizes delivers the client's terminal sizes until its stream or ctx ends.
func decodeSizes(ctx context.Context, r io.Reader, sizes chan<- Size) {
	defer close(sizes)
	for d := json.NewDecoder(r); ; {
		var size Size
		if d.Decode(&size) != nil {
			return
		}
		select {
		case sizes <- size:
		case <-ctx.Done():
			return
		}
	}
}

// status is the part of a Kubernetes Status object that the remote command
// protocol uses from version 4 on.
type status struct {
	Status  string         `json:"status"`
	Message string         `json:"message,omitempty"`
	Reason  string         `json:"reason,omitempty"`
	Details *statusDetails `json:"details,omitempty"`
	Code    int            `json:"code,omitempty"`
}

type statusDetails struct {
	Causes []statusCause `json:"causes"`
}

type statusCause struct {
	Type    string `json:"reason"`
	Message string `json:"message"`
}

func statusOf(err error) status {
	if err == nil {
		return status{Status: "Success"}
	}
	if code, ok := exitCode(err); ok {
		return status{
			Status:  "Failure",
			Message: fmt.Sprintf("command terminated with non-zero exit code: %v", err),
			Reason:  remotecommand.NonZeroExitCodeReason,
			Details: &statusDetails{Causes: []statusCause{{Type: remotecommand.ExitCodeCauseType, Message: fmt.Sprint(code)}}},
		}
	}
	return status{
		Status:  "Failure",
		Message: fmt.Sprintf("Internal error occurred: %v", err),
		Reason:  "InternalError",
		Code:    http.StatusInternalServerError,
	}
}
