// Package proc finds the processes that a runtime consists of and reads their
// CPU time and memory.
//
// A runtime's processes are those that serve its sockets, their descendants,
// and the containerd shims that belong to one of them; a shim has no parent
// among them, but names on its command line the socket of the daemon that it
// answers to. What runs inside containers is never one of them. The package
// reads /proc and connects to sockets; it signals and changes nothing.
package proc
