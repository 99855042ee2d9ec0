// Package seam is what cridock and cridock-runtime, its OCI runtime, have in
// common: the record of one container.
//
// Docker's API cannot ask for everything that a pod may request, such as a user
// namespace per pod. cridock therefore creates such a container with the OCI runtime
// [RuntimeName], and writes a [Record] of what Docker could not be told. When Docker
// starts the container, cridock-runtime reads the record, changes the container's OCI
// bundle accordingly and executes the real runtime. cridock writes a record after
// Docker has created the container and before it starts it, and keeps it until the
// container is removed.
//
// A record decides what root mounts and executes. So only root can write it, its
// name derives from a container ID that Docker chose, and decoding is strict:
// cridock-runtime refuses a record with anything that it does not know, since it
// would otherwise run a container without something that was asked for.
//
// The package never changes a bundle and knows neither Docker nor the CRI.
package seam
