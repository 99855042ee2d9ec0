// Package target has the targets of measurements: a container runtime behind a CRI
// socket, or Docker Engine alone, with the calls that the same pod needs.
//
// It measures nothing. It labels everything that it makes with its run, and stops
// and removes nothing else.
package target
