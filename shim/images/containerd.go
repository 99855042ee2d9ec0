package images

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/cridock/cridock/internal/unixsocket"
)

// containerdDatabase is the file below its root directory that a containerd keeps
// open.
const containerdDatabase = "/io.containerd.metadata.v1.bolt/meta.db"

// containerdRoot returns the root directory of the containerd that serves a socket.
// Docker reports the socket and not the directory, and containerd's own API only tells
// its clients where single snapshots are. If the process cannot be seen or has no
// database, the error is errdefs.ErrNotFound.
func containerdRoot(socket string) (string, error) {
	pid, err := unixsocket.Peer(socket)
	if err != nil {
		return "", err
	}
	if pid == 0 {
		return "", fmt.Errorf("the process that serves %s, in this PID namespace: %w", socket, errdefs.ErrNotFound)
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
