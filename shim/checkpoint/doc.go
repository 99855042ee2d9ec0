// Package checkpoint makes the archive of a container's checkpoint, and restores the
// files of one: a tar in the layout that containerd writes and checkpointctl reads.
//
//	checkpoint/      the images that CRIU wrote
//	config.dump      the container, its image, and times (JSON)
//	spec.dump        its OCI specification
//	status.dump      its CRI status (JSON)
//	container.log    its CRI log
//	rootfs-diff.tar  its writable layer, an OCI layer
//
// A checkpoint of containerd or CRI-O, in a tar or as the root of an image, has these as
// well, but for what CRI-O does otherwise: see source.go. Nothing in it is trusted.
//
// The package works with files on the node and knows neither Docker nor CRIU.
package checkpoint
