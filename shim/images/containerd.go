package images

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// containerdDatabase is the file below its root directory that a containerd keeps
// open.
const containerdDatabase = "/io.containerd.metadata.v1.bolt/meta.db"

// containerdRoot returns the root directory of the containerd that serves a socket.
// Docker reports the socket and not the directory, and containerd's own API only tells
// its clients where single snapshots are. If the process cannot be seen or has no
// database, the error is errdefs.ErrNotFound.
func containerdRoot(socket string) (string, error) {
	pid, err := serverPid(socket)
	if err != nil {
		return "", err
	}
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	files, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	for _, f := range files {
		target, err := os.Readlink(filepath.Join(dir, f.Name()))
		if err != nil {
			continue // closed meanwhile
		}
		if root, ok := strings.CutSuffix(target, containerdDatabase); ok {
			return root, nil
		}
	}
	return "", fmt.Errorf("the database of process %d, which serves %s: %w", pid, socket, errdefs.ErrNotFound)
}

// serverPid returns the process that listens on a unix socket. In a PID namespace that
// cannot see it, the error is errdefs.ErrNotFound.
func serverPid(socket string) (int, error) {
	conn, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		return 0, err
	}
	defer func() { _ = conn.Close() }()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var peer *unix.Ucred
	var peerErr error
	if err := raw.Control(func(fd uintptr) {
		peer, peerErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil || peerErr != nil {
		return 0, errors.Join(err, peerErr)
	}
	if peer.Pid == 0 {
		return 0, fmt.Errorf("the process that serves %s, in this PID namespace: %w", socket, errdefs.ErrNotFound)
	}
	return int(peer.Pid), nil
}
