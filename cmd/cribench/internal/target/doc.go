// Package target has what is measured: a container runtime behind a CRI socket,
// or Docker Engine by itself with the calls that the same pod needs.
//
// It takes no times. All that it makes carries the labels of one run, and it
// stops and removes nothing else.
package target
