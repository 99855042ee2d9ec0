// Package enginetest is a Docker Engine for tests: a small stateful server on a
// unix socket that speaks as much of the Docker API (1.41 to 1.51) as cridock
// uses, so that tests run the real client over a real connection.
//
//	d := enginetest.New(t)
//	image := d.AddImage("busybox:1", enginetest.Image{})
//	client, err := engine.New(d.Endpoint(), nil)
//
// Containers have states, exit codes, logs, events and processes, but nothing
// runs: what an executable does is a Go function, see [Server.Program]. Process
// IDs are beyond any that the kernel gives out, so that a test which signals
// one hits nobody.
//
// A test can make the Nth call of any kind fail, hang, break off or answer
// late, lose events, and stop and start the daemon. The kinds are the ones that
// shim/engine counts ("container create"), and "events".
//
// The contract suite in this package's tests runs one table of assertions on
// this server and, where CRIDOCK_E2E_DOCKER names one, on a real engine: what
// the server does differently from Docker is a bug of the server.
package enginetest
