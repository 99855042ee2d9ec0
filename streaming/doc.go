// Package streaming is the HTTP server behind the URLs that the CRI calls Exec,
// Attach and PortForward answer with.
//
// The story of one exec: [Server.Exec] puts the request into a table under a
// random token and answers an absolute URL that contains it. The client opens
// the URL; the token is taken from the table and never accepted again. The
// connection is upgraded to SPDY (versions 2 to 4 of the remote command
// protocol) or WebSocket (up to version 5, whose client can close stdin alone),
// and its streams are handed to a [Runtime]. When that returns, the client gets
// the exit code and the connection is closed in order, so that nothing which is
// still on its way gets lost.
//
// The protocols are those of k8s.io/cri-streaming. This package adds what its
// server lacks: a client that goes away ends the context of the Runtime's call
// and leaves no goroutine, stopping the server closes upgraded connections,
// version 5 over WebSocket and SPDY tunnelled through WebSocket (what kubectl
// port-forward speaks).
//
// # What clients can take
//
// Any user of the machine can connect, and with another address than loopback so
// can the network. Without a token, a connection serves one request, which must
// come within a deadline, and there is a bound on such connections, see package
// guard. With one, the files that sessions have open are bounded, and frames are
// passed on in small pieces, see frames.go. Origin and Host headers are not
// looked at: a web page cannot know a token, and the API server passes on the
// Origin of consoles in browsers.
//
// Port-forward needs no Runtime but for the path of the pod's network
// namespace: connections to the pod's localhost are made in there by a locked
// thread of this process.
//
// The package never starts a process, never talks to a container engine or a
// network plug-in, and never decides whether a container may be used: whoever
// knows a token may use what it stands for.
package streaming
