// Package imagevolume shows the content of images on the node, for engines that
// cannot mount an image into a container themselves.
//
// An image is a stack of layer directories. [Store.Mount] puts them together by
// an overlay mount without an upper directory, which nobody can write to,
// whatever mounts it again and with whatever rights. The caller keeps the
// layers from being removed for as long as they are mounted.
//
// All mounts are below one small tmpfs. An engine in another mount namespace
// that our mounts do not reach sees no directory there at all, and refuses the
// container, instead of giving it an empty volume.
//
// The mounts live as long as the node runs, not as long as the process.
// [Store.Foreign] finds those that an earlier process has made.
//
// The package never asks an engine, and never changes a layer.
package imagevolume
