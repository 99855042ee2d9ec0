// Package mounts prepares on the node what a container is to find in its file
// system besides its image: host paths, images as volumes, mounts with options, CDI
// devices and host devices.
//
// [Preparer.Resolve] finds the sources of a container's mounts and devices, and
// creates what they need: a missing host directory, a mount of an image, a CDI
// specification. Images and specifications belong to the container's Docker name;
// [Preparer.Release] removes them, and [Preparer.Sweep] those whose container was
// removed while cridock was not running. Host directories stay.
//
// The package never starts a container, never follows a link below a directory of
// its own, and does not trust labels: it recognizes its containers and files by
// their names alone.
package mounts
