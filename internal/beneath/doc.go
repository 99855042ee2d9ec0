// Package beneath works on files below a directory in which others may write,
// such as a pod with a hostPath volume. Nothing they put there leads outside.
//
// The directory itself, the root, belongs to the operator and is resolved like
// any path: /var/log may be a link. Below it no component may be a symbolic link
// or "..", even if it is replaced concurrently: each is opened relative to the
// one before with openat(2) and O_NOFOLLOW. A file to open must be regular, and
// must have no other hard link if it is opened for writing. FIFOs, devices and
// sockets are never opened, not even to check their type: a file is first opened
// as a path only (O_PATH) and, once its type is known, through that descriptor.
//
// openat2(2) with RESOLVE_NO_SYMLINKS would do the walk in one call, but needs
// Linux 5.6, and Docker 20.10 runs on 3.10 and 4.18. os.Root and pathrs-lite of
// filepath-securejoin follow links that stay inside the root, so one pod's log
// could become another's. After the walk only a single name in an open directory
// remains, which os.Root never follows in Remove, Rename or Lstat.
//
// Mounts are followed: whoever can mount on the node needs no link.
package beneath
