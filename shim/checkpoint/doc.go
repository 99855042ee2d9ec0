// Package checkpoint makes the archive of a container's checkpoint: a tar in
// the layout that containerd writes and checkpointctl reads.
//
//	checkpoint/      the images that CRIU wrote
//	config.dump      which container this is, of what image, and when (JSON)
//	spec.dump        its OCI specification
//	status.dump      its CRI status (JSON)
//	container.log    its CRI log
//	rootfs-diff.tar  its writable layer, an OCI layer
//
// It reads what is on the node and knows neither Docker nor CRIU.
package checkpoint
