// Package proc finds the processes of a runtime and reads their CPU time and memory.
//
// A runtime's processes are those that serve its sockets, their descendants, and
// the containerd shims that belong to one of them: a shim is not their child, but
// has the socket of its daemon on its command line. Processes inside containers
// never count. The package reads /proc and connects to sockets; it signals and
// changes nothing.
package proc
