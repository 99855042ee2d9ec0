// Package nri serves the Node Resource Interface: it tells plugins about pods and
// containers, and turns what they want changed into what Docker and cridock-runtime
// can do. containerd's library speaks the protocol; it starts plugins, waits for each
// no longer than its timeout and cuts off those that do not answer.
//
// A plugin is root's: it connects to a socket that only root can reach, or is started
// from a directory that only root can change. What it says is bounded in size and
// checked nevertheless. A change that is impossible fails the container, with the
// plugin's name; nothing is left out silently.
//
// All methods of [Plugins] may be called on a nil pointer, which has no plugins.
package nri
