// Package idmap makes id-mapped mounts, on which the files of the host's user N
// belong to the user that a user namespace maps to N: the files of an image keep
// their owners, and so do those of a volume.
//
// Everything here needs root. Functions that mount or change credentials act on the
// calling thread, which must be locked to its goroutine ([runtime.LockOSThread]) and
// must have entered a mount namespace of its own with [Isolate]; such a thread is fit
// only to execute another program or to end. No mount outlives that namespace.
//
// The package neither reads records nor knows OCI bundles.
package idmap
