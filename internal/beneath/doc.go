// Package beneath works on files below a directory in which others may write:
// a pod with a hostPath volume, say. Nothing that they put there leads outside.
//
// The directory itself, the root, is the operator's and is resolved like any
// path: /var/log may be a link. Below it no component may be a symbolic link or
// "..", whatever it is replaced with meanwhile: each is opened relative to the
// one before with openat(2) and O_NOFOLLOW. A file that is opened must be a
// regular one, and have no second name if it is to be written. FIFOs, devices
// and sockets are never opened, not even for a look: the file is first opened as
// a path only (O_PATH) and then, once it is known, through its descriptor.
//
// openat2(2) with RESOLVE_NO_SYMLINKS would do the walk in one call, but needs
// Linux 5.6, and Docker 20.10 runs on 3.10 and 4.18. os.Root and pathrs-lite of
// filepath-securejoin follow links that stay inside the root: there one pod's
// log would become another's. What follows the walk is a single name in an open
// directory, which os.Root never follows when it removes, renames or looks.
//
// Mounts are followed: who can mount on the node needs no link.
package beneath
