// Package stats reads CRI stats and metrics of containers from the kernel: from
// cgroup v1 and v2 files, /proc, and the sizes of directory trees.
//
// A [Collector] answers ContainerStats, PodSandboxStats and their lists,
// ListMetricDescriptors and ListPodSandboxMetrics. A [Disk] measures writable
// layers and the image filesystem with one background walker, which uses a
// limited share of one CPU.
//
// # How a container is found
//
// The cgroup is found once, from /proc/<pid>/cgroup of the container's first
// process, and accepted only if an element of its path contains the container's
// ID: a reused pid is never mistaken for the container. From then on only the
// cgroup's own files are read, so the pid no longer matters. Files below
// /proc/<pid> that are read again, such as /proc/<pid>/net/dev of the sandbox's
// process, are read through one open directory after the same check.
//
// Files are opened for every reading and never kept open: nothing leaks when a
// container disappears unnoticed, and the kernel can free the cgroup at once.
//
// The kernel's files are read directly, not with github.com/containerd/cgroups:
// that module reads all files of a controller at each call, with many times the
// allocations, and took several times as long for the CPU time and memory of one
// container. Compare with the benchmarks of this package.
//
// # What it never does
//
// It never calls Docker: a caller may set a fallback for containers without a
// cgroup here, such as those of VM runtimes. It never decides whether a pod is
// ready, never walks a large tree while a request waits, and never makes gRPC
// codes: the error for a container that is gone is errdefs.ErrNotFound.
package stats
