// Package streaming is the HTTP server behind the URLs that the CRI calls Exec,
// Attach and PortForward return.
//
// An exec works like this: [Server.Exec] stores the request in a table under a
// random token and returns an absolute URL that contains the token. The client
// opens the URL; the token is removed from the table and never accepted again. The
// connection is upgraded to SPDY (versions 2 to 4 of the remote command protocol)
// or WebSocket (up to version 5, whose clients can close stdin alone), and its
// streams are passed to a [Runtime]. When that returns, the client gets the exit
// code and the connection is closed in an order that loses no data in transit.
//
// The protocols are those of k8s.io/cri-streaming. This package adds what its
// server lacks: when a client disconnects, the context of the Runtime's call ends
// and no goroutine stays behind; stopping the server closes upgraded connections;
// version 5 over WebSocket; and SPDY tunnelled through WebSocket, as kubectl
// port-forward uses it.
//
// # Limits on clients
//
// Any user of the machine can connect, and so can the network if the address is
// not loopback. Without a token, a connection serves one request, which must
// arrive within a deadline, and the number of such connections is bounded, see
// package guard. With a token, the files that sessions have open are bounded, and
// frames are forwarded in small pieces, see frames.go. Origin and Host headers are
// ignored: a web page cannot know a token, and the API server forwards the Origin
// of consoles in browsers.
//
// Port-forward needs the Runtime only to open the pod's network namespace: a
// locked thread of this process connects to the pod's localhost in it.
//
// The package never starts a process, never talks to a container engine or a
// network plugin, and never decides whether a container may be used: whoever knows
// a token may use what it stands for.
package streaming
