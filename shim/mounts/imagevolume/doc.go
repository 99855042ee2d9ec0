// Package imagevolume mounts the content of images on the node, for engines that
// cannot mount an image into a container themselves.
//
// An image is a stack of layer directories. [Store.Mount] combines them in an
// overlay mount without an upper directory, which cannot be written to, no matter
// who remounts it with what privileges. The caller must keep the layers from being
// removed while they are mounted.
//
// All mounts are below one small tmpfs. An engine in another mount namespace
// that does not receive these mounts sees no directory there at all and refuses
// the container, instead of giving it an empty volume.
//
// The mounts outlive the process and last until the node stops.
// [Store.Foreign] finds those made by an earlier process.
//
// The package never calls an engine and never changes a layer.
package imagevolume
