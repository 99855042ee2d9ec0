// Package pause is the sandbox image that cridock brings along, so that a node
// needs no registry to run its first pod.
//
// A pod's sandbox is a Docker container whose only process holds the pod's
// namespaces open. That process is pause.c: a few hundred bytes, static,
// without libc. It reaps the orphans of a shared PID namespace and leaves with
// status 0 on SIGTERM or SIGINT. The binaries for linux/amd64 and linux/arm64
// are committed and embedded; build.sh makes them and, with --check, proves
// that they are what pause.c builds.
//
// [Archive] wraps a binary into an image that "docker load" takes, [Name] is
// what the loaded image is called. Both are pure and deterministic: the same
// cridock makes the same bytes, so loading twice changes nothing and every
// node has the same image.
//
// The package never talks to Docker, reads no file and starts nothing. Whether
// the image is already there, and loading it, is the caller's business.
package pause
