// Command cribench measures container runtimes side by side, in one run: any
// that serve the CRI, and Docker Engine's own calls as the floor of those that
// build on it.
//
// It is an ordinary CRI client. All that it makes carries its labels, and it
// removes nothing else, also when it is interrupted.
package main
