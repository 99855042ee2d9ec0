// Package engine is cridock's only door to the Docker Engine: every REST call
// goes through a [Client], which negotiates the API version, bounds each call
// in time, counts and times it by kind, and gives each failure an error class
// of github.com/containerd/errdefs.
//
// It knows Docker's terms only: nothing of the CRI, of pods or of gRPC codes.
// Consumers declare what they need by the role interfaces [Containers],
// [Execs], [Images], [Events] and [System].
//
// # Deadlines
//
// Calls that dockerd answers from memory get [shortTimeout]; create, start,
// remove and update, which wait for runtimes and disks, get [longTimeout].
// Pulls, streams and waits end with their context alone. A daemon that accepts
// a call and never answers is reported as errdefs.ErrUnavailable, like one
// that cannot be dialled; a caller's own deadline or cancellation stays what it
// was.
package engine
