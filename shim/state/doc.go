// Package state keeps cridock's own files about sandboxes and containers: what
// neither Docker nor CNI can hold for it. Each object has one directory below the
// root directory, which disappears with the object:
//
//	sandboxes/HASH/        HASH is derived from the Docker name, which exists before an ID does
//	  resolv.conf          mounted into the pod's containers: must outlive cridock
//	  resources.json       merged updates of the pod's resources
//	  volumes/KEY/RANDOM/  a volume that an image declares, for one path in one container
//	  volumes/KEY/kept     which of those directories it is, once a container has it
//	  nri-mounts-HASH/     links to what NRI plugins have a container mount
//	containers/ID/
//	  log-position         how far Docker's log has been converted
//	  resources.json       updated resources that Docker has no field for
//	  checkpoint/          a checkpoint being taken: the container may be paused
//	  nri.json             what NRI plugins wanted: the container's creation is complete
//
// A directory is removed with its object or, if cridock was not running then, by
// the next start's [Store.Sweep]. Everything except resolv.conf and volumes can be lost
// without losing a pod.
//
// Files about pods that cannot be here:
//
//	what                     where                          why, and who removes it
//	pins of namespaces       NetNSDir, named by sandbox ID  mounts, which a reboot must clear; podnet after CNI DEL
//	CNI's results and notes  CNI's cache directory          libcni's own format, which DEL needs; network's GC
//	image volumes            ImageVolumeDir                 mounts, made before the container has an ID; mounts' sweep
//	CDI specifications       a directory that Docker reads  Docker reads no other; mounts' sweep
//	cridock-runtime records  oci in the runtime directory   cridock-runtime reads them; userns' sweep
//	OCI artifacts            artifacts in the root          shared by pods; RemoveImage, and drafts at the first use
//	CRI logs                 the kubelet's directories      the kubelet reads and removes them
//	the key of the seals     seal.key in the root           one for all objects; never removed
//
// The package does not decide what is alive: its callers compare with Docker.
package state
