// Package bench runs the workloads: the same work at each target in turn, A B A B …,
// so that other load on the machine affects all of them. The caller must remove
// what it could not remove.
package bench
