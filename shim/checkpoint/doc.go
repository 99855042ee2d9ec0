// Package checkpoint makes the archive of a container's checkpoint: a tar in
// the layout that containerd writes and checkpointctl reads.
//
//	checkpoint/      the images that CRIU wrote
//	config.dump      the container, its image, and times (JSON)
//	spec.dump        its OCI specification
//	status.dump      its CRI status (JSON)
//	container.log    its CRI log
//	rootfs-diff.tar  its writable layer, an OCI layer
//
// It reads files on the node and knows neither Docker nor CRIU.
package checkpoint
