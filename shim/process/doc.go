// Package process runs processes in running containers and attaches to them:
// ExecSync, Exec and Attach, through Docker's exec and attach.
//
// Exec and ExecSync share one path. They ask Docker to create an exec and to
// start it; the answer to the start is a connection that carries the process's
// streams. Docker starts the process only after it has answered, and reports a
// failed start only as text on stdout and as an exit code without a PID. The
// connection ends when no process holds the output open, which may be before or
// long after the process itself exits. So an exit is learned from whichever comes
// first: the exec_die event, for which [Runner.Run] keeps one subscription, or an
// inspect of the exec. If a child keeps the output open, the exec ends shortly
// after its own process exits.
//
// Docker never ends an exec whose client has left. This package does: it finds
// the process and all its descendants in /proc and kills them. It must therefore
// run in dockerd's PID namespace.
//
// The package never decides whether a process may be run, never logs commands
// or their output, and never touches a container's main process.
package process
