// Package shim serves the Kubernetes Container Runtime Interface (CRI v1) on
// top of Docker Engine.
//
// [Service] implements RuntimeService and ImageService, one file per family of
// RPCs. Each handler validates its request, translates it (package translate),
// calls Docker (package engine), CNI (package network) or the streaming server,
// and translates the answer. Lists and statuses come from the read model
// (package index) and never call Docker.
//
// What several handlers need is a part with a type of its own, most of them in a
// package below this one: images, mounts, limits, podlogs, podnet, state,
// userns, wire. run.go connects the parts; none of them knows Service.
//
// # How a request fails
//
// Everything below the gRPC boundary returns plain Go errors that wrap one of
// the classes of github.com/containerd/errdefs. [statusError] turns them into
// gRPC codes, in one place.
//
// # What survives what
//
// An operation that changes a pod or a container is detached from its caller: if
// the client disconnects the operation completes, and a retry with the same
// identity gets its result. A multi-step operation keeps a stack of undo steps
// and runs them, with a context of their own, if it fails. Everything in memory
// can be rebuilt from Docker's labels, libcni's result cache and the log files.
//
// # Locks
//
// Calls that create, change or remove a pod's sandbox or containers hold the pod's
// lock. StopContainer does not, as it may wait for the whole grace period; reads,
// exec and streams never do.
package shim
