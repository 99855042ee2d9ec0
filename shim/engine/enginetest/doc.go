// Package enginetest is a Docker Engine for tests: a small stateful server on a
// unix socket that implements the part of the Docker API (1.41 to 1.51) that
// cridock uses, so that tests run the real client over a real connection.
//
//	d := enginetest.New(t)
//	image := d.AddImage("busybox:1", enginetest.Image{})
//	client, err := engine.New(d.Endpoint(), nil)
//
// Containers have states, exit codes, logs, events and processes, but nothing
// really runs: executables are Go functions, see [Server.Program]. Process IDs are
// higher than any the kernel assigns, so a test that signals one hits no process.
//
// A test can make the Nth call of any kind fail, hang, lose its connection or
// answer late, lose events, and stop and start the daemon. The kinds are the ones
// that shim/engine counts ("container create"), and "events".
//
// The contract suite in this package's tests runs one table of assertions on
// this server and, if CRIDOCK_E2E_DOCKER names one, on a real engine: any
// difference from Docker is a bug in the server.
package enginetest
