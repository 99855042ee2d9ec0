// Package mirror pulls images from other hosts than the one that their names begin
// with: from the mirrors that the operator has listed in hosts.toml files, in
// containerd's format.
//
// Docker pulls only from the host in an image's name. So [Server.Sources] offers the
// image on the node's loopback, under a name of its own (see
// [translate.MirrorName]), and forwards what Docker asks for to one mirror, with
// that mirror's certificates, headers and credentials. Docker verifies all digests
// itself. The port opens when an image first needs it.
//
// A registry is hostile: the package bounds what it reads of manifests, and forwards
// no more of a blob than its manifest declares. Other users can connect to the port,
// so a request needs the password of a pull in progress, and sees only the image of
// that pull: its manifest, and what that names. There is no TLS, so whoever may capture
// packets on the node's loopback sees the password and the layers.
//
// The package never calls the engine, and keeps nothing on disk.
package mirror
