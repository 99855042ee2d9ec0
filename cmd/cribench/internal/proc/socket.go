package proc

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Peer returns the PID of the process that serves a unix socket: the one that called
// listen, from the kernel (SO_PEERCRED, unix(7)). If that is the service manager,
// which passes sockets on, it is another process that holds the socket.
func Peer(path string) (int, error) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	switch {
	case credErr != nil:
		return 0, fmt.Errorf("SO_PEERCRED of %s: %w", path, credErr)
	case cred.Pid == 0:
		return 0, fmt.Errorf("%s is served from outside this PID namespace: run cribench in the host's", path)
	case cred.Pid == 1:
		return holder(path)
	}
	return int(cred.Pid), nil
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
