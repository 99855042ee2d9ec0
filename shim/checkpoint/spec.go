package checkpoint

import (
	"bytes"
	"fmt"
	"os"
	"strconv"

	"github.com/containerd/errdefs"
)

// SpecFile returns the path of containerd's OCI specification of a running
// container, given the pid of its first process on the node. A shim's working
// directory is the bundle of one of its containers, beside the bundles of the
// others: so the path is right wherever containerd keeps its state.
func SpecFile(containerID string, pid int) (string, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return "", err
	}
	for line := range bytes.Lines(status) {
		if value, ok := bytes.CutPrefix(line, []byte("PPid:")); ok {
			shim, err := strconv.Atoi(string(bytes.TrimSpace(value)))
			if err != nil || shim == 0 {
				break
			}
			return fmt.Sprintf("/proc/%d/cwd/../%s/config.json", shim, containerID), nil
		}
	}
	return "", fmt.Errorf("process %d of container %s: %w: its shim is not visible; does cridock run in Docker's PID namespace?",
		pid, containerID, errdefs.ErrFailedPrecondition)
}
