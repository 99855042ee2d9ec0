// Package engine is cridock's only access to the Docker Engine: every REST call
// goes through a [Client], which negotiates the API version, sets a deadline for
// each call, counts and times calls by kind, and gives each failure an error
// class of github.com/containerd/errdefs.
//
// It uses Docker's terms only and knows nothing of the CRI, pods or gRPC codes.
// Consumers declare what they need through the role interfaces [Containers],
// [Execs], [Images], [Events] and [System].
//
// # Deadlines
//
// Calls that dockerd answers from memory get [shortTimeout]; create, start,
// remove and update, which wait for runtimes and disks, get [longTimeout].
// Pulls, streams and waits are bounded by their context only. A daemon that
// accepts a call and never answers is reported as errdefs.ErrUnavailable, like
// one that cannot be dialled; a caller's own deadline or cancellation is
// returned unchanged.
package engine
