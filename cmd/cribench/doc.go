// Command cribench measures container runtimes side by side in one run: any that
// serve the CRI, and Docker Engine's own calls, as the lower bound for runtimes that
// build on them.
//
// It is an ordinary CRI client. It labels everything that it makes and removes
// nothing else, even when it is interrupted.
package main
