// Package index is the read model of all pod sandboxes, containers and images
// of a Docker Engine: lists, statuses and events are answered from it without a
// Docker call.
//
// Docker is the truth. The index learns it from inspect answers alone: events,
// the periodic list and cridock's own operations only say which container to
// look at. It keeps nothing over a restart, guesses no state, and shows nothing
// but pod members (translate.IsKubernetes).
//
// # How it stays right
//
// [Index.Run] opens the stream of events before it lists, so nothing falls in
// between. A broken stream is opened again and everything that may have changed
// is looked at. Once a minute a list is compared with what is known; a
// difference that no event announced is looked at and counted.
//
// Looks at one container never overlap: what is asked for while one is under
// way is served by the one after it, however often it was asked for. A
// container that is gone stays gone: its ID is remembered for a minute, so that
// an answer which was on its way cannot bring it back.
//
// # What readers see
//
// Snapshots, which never change. Before the first sync reads wait, and end with
// errdefs.ErrUnavailable: an empty list would make the kubelet start every pod
// again. Without Docker they go on for five minutes. A container reads as exited
// only when [Options.Exited] is done with it, which is when its log is complete.
//
// # Reading the source
//
// index.go (what it is), session.go (one connection to Docker), look.go (one
// container), publish.go (what becomes visible and when), check.go (comparing
// with a list), read.go and image.go (answers), watch.go (transitions).
package index
