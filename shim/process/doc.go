// Package process runs and reaches processes in running containers: ExecSync,
// Exec and Attach, through Docker's exec and attach.
//
// Exec and ExecSync are one path. Docker is asked to create an exec and to
// start it; the answer to the start is a connection that carries the process's
// streams. Docker starts the process after it has answered, and it reports a
// start that failed only as text on stdout and as an exit code of a process
// without a PID. The connection ends when nobody holds the process's output any
// more, which may be before or long after the process itself ends. So the exit
// code has two sources, whichever is first: the exec_die event, for which
// [Runner.Run] keeps one subscription, and the inspection of the exec. A
// process that leaves a child with its output behind is over shortly after its
// own end.
//
// Docker never ends an exec whose client has left. This package does: it finds
// the process and all that it started in /proc and kills them. It therefore has
// to run in the PID namespace that dockerd's PIDs are of.
//
// The package never decides whether a process may be run, never logs commands
// or what they print, and never touches a container's main process.
package process
