// Package stats turns what the kernel says about containers into CRI stats and
// metrics: cgroup v1 and v2 files, /proc, and the size of directory trees.
//
// A [Collector] answers ContainerStats, PodSandboxStats and their lists,
// ListMetricDescriptors and ListPodSandboxMetrics. A [Disk] measures writable
// layers and the image filesystem with one background walker that may use a
// bounded share of one CPU.
//
// # How a container is found
//
// The cgroup is learnt once, from /proc/<pid>/cgroup of the container's first
// process, and only if one of the path's elements has the container's ID in it:
// a pid that the kernel gave to another process is never mistaken for the
// container. From then on only the cgroup's own files are read, so the pid no
// longer matters. What has to be read below /proc/<pid> again, such as
// /proc/<pid>/net/dev of the sandbox's process, is read through one open
// directory after the same check.
//
// Files are opened for every reading: nothing is held, so nothing leaks when a
// container goes without a word, and the kernel can free the cgroup at once.
//
// The kernel's files are read directly, not with github.com/containerd/cgroups:
// that module reads all files of a controller at each call, with many times the
// allocations, and took several times as long for the CPU time and memory of one
// container; the benchmarks here are what to compare with.
//
// # What it never does
//
// It never asks Docker: a caller may give a fallback for containers that have
// no cgroup here, such as those of VM runtimes. It never decides whether a pod
// is ready, never walks a large tree while a request waits, and never makes
// gRPC codes: a container that is gone is errdefs.ErrNotFound.
package stats
