// Package index is the read model of all pod sandboxes, containers and images
// of a Docker Engine: lists, statuses and events are answered from it without a
// Docker call.
//
// Docker is the source of truth. The index takes state from inspect responses
// only: events, the periodic list and cridock's own operations only say which
// container to inspect. It keeps nothing across restarts, guesses no state, and
// shows only pod members (translate.IsKubernetes).
//
// # How it stays correct
//
// [Index.Run] opens the event stream before it lists, so it misses no change in
// between. When the stream breaks, Run reopens it and inspects everything that
// may have changed. Once a minute it compares Docker's list with the index; it
// inspects and counts each difference that no event announced.
//
// Inspects of one container never overlap: all requests made while one is in
// progress share the next one. A removed container stays removed: its ID is
// remembered for a minute, so that a late response cannot bring it back.
//
// # What readers see
//
// Immutable snapshots. Before the first sync, reads wait and then fail with
// errdefs.ErrUnavailable: an empty list would make the kubelet start every pod
// again. Without Docker, reads are served for five minutes. A container reads as
// exited only after [Options.Exited] has returned, when its log is complete.
//
// # Reading the source
//
// index.go (types), session.go (one connection to Docker), look.go (inspecting
// one container), publish.go (what becomes visible and when), check.go (comparing
// with a list), read.go and image.go (reads), watch.go (transitions).
package index
