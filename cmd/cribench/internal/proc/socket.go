package proc

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cridock/cridock/internal/unixsocket"
)

// Peer returns the PID of the process that serves a unix socket. If the one that
// called listen is the service manager, which passes sockets on, it is another process
// that holds the socket.
func Peer(path string) (int, error) {
	pid, err := unixsocket.Peer(path)
	switch {
	case err != nil:
		return 0, err
	case pid == 0:
		return 0, fmt.Errorf("%s is served from outside this PID namespace: run cribench in the host's", path)
	case pid == 1:
		return holder(path)
	}
	return pid, nil
}

// holder returns the PID of a process, other than 1, that has a listening socket
// open.
func holder(path string) (int, error) {
	table, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return 0, err
	}
	inode := listeningInode(string(table), path)
	if inode == "" {
		return 0, fmt.Errorf("%s is not in /proc/net/unix", path)
	}
	fds, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return 0, err
	}
	for _, fd := range fds {
		pid, err := strconv.Atoi(strings.Split(fd, "/")[2])
		if err != nil || pid == 1 {
			continue
		}
		if to, err := os.Readlink(fd); err == nil && to == "socket:["+inode+"]" {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("no process other than 1 has %s open: name the processes with --process", path)
}

// listeningInode returns the inode of a listening socket from /proc/net/unix, whose
// columns are: number, references, protocol, flags, type, state, inode, path.
func listeningInode(table, path string) string {
	const acceptsConnections = "00010000" // __SO_ACCEPTCON
	for line := range strings.Lines(table) {
		if f := strings.Fields(line); len(f) == 8 && f[3] == acceptsConnections && f[7] == path {
			return f[6]
		}
	}
	return ""
}
