// Package bench runs the workloads: the same work at each target in turn, A B A
// B …, so that a machine that is busy with something else for a while is busy
// for all of them. It leaves the removal of what it could not remove to its
// caller.
package bench
