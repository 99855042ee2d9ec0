// Package pause has cridock's built-in sandbox image, so that a node needs no
// registry to run its first pod.
//
// A pod's sandbox is a Docker container whose only process holds the pod's
// namespaces open. That process is pause.c: a few hundred bytes, static, without
// libc. It reaps the orphans of a shared PID namespace and exits with status 0 on
// SIGTERM or SIGINT. The binaries for linux/amd64, arm64, arm/v7, ppc64le, s390x and
// riscv64 are committed and embedded; build.sh builds them and, with --check, proves that they match
// pause.c.
//
// [Archive] packs a binary into an image for "docker load"; [Name] is the name of
// the loaded image. Both are pure and deterministic: the same cridock makes the
// same bytes, so loading twice changes nothing and every node has the same image.
//
// The package never talks to Docker, reads no file and starts nothing. The caller
// checks whether the image exists, and loads it.
package pause
