// Package register registers cridock-runtime with a Docker Engine: it edits the
// daemon's configuration file, has the daemon read it, and checks that it did. It
// undoes its own changes if the daemon refuses them, and never touches other settings.
//
// It restarts nothing: registering a runtime leaves running containers alone.
package register
