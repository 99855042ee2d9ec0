package shim

import (
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/shim/checkpoint"
	"github.com/cridock/cridock/translate"
)

// maxSpecSize bounds the OCI specification that is read: arguments and
// environment of a process are at most 2 MiB together.
const maxSpecSize = 4 << 20

// describeSpec adds a container's OCI specification to the information about it,
// or says why there is none: a status does not fail for it.
func describeSpec(info map[string]any, id string, pid int, netns string, resources *runtimeapi.LinuxContainerResources) {
	spec, err := readSpec(id, pid)
	if err != nil {
		info["runtimeSpecMissing"] = err.Error()
		return
	}
	translate.DescribeSpec(spec, netns, resources)
	info["runtimeSpec"] = spec
}

// readSpec reads the OCI specification of a running container, pid being its
// first process. It is only good for showing: the process ID may be another
// process's by now, and the file then anything.
func readSpec(id string, pid int) (*specs.Spec, error) {
	if pid == 0 {
		return nil, fmt.Errorf("%w: containerd keeps it only while the container runs", errdefs.ErrFailedPrecondition)
	}
	path, err := checkpoint.SpecFile(id, pid)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0) //nolint:gosec // checked below, before it is read
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	if err := checkSpecFile(f); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	spec := new(specs.Spec)
	// The decoder's own error may quote the file.
	if err := json.NewDecoder(io.LimitReader(f, maxSpecSize)).Decode(spec); err != nil {
		return nil, fmt.Errorf("%s: %w: not an OCI specification", path, errdefs.ErrDataLoss)
	}
	return spec, nil
}

// checkSpecFile makes sure that nobody but root can have written a file, and
// that it is of a size to be read.
func checkSpecFile(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return fmt.Errorf("%w: not a regular file", errdefs.ErrFailedPrecondition)
	case st.Uid != 0 || st.Mode&(unix.S_IWGRP|unix.S_IWOTH) != 0:
		return fmt.Errorf("%w: not only root can write it", errdefs.ErrFailedPrecondition)
	case st.Size > maxSpecSize:
		return fmt.Errorf("%w: %d bytes, more than %d", errdefs.ErrOutOfRange, st.Size, int64(maxSpecSize))
	}
	return nil
}

// sandboxNetNS is the path of a sandbox's network namespace: pinned where
// cridock had CNI connect it, else its process's, as another adapter told the
// plugins; "" with the host's network, and without a process.
func (s *Service) sandboxNetNS(sb *translate.Sandbox) string {
	switch {
	case sb.HostNetwork:
		return ""
	case s.networked(sb) && sb.Config != nil:
		return s.netnsPath(sb.ID)
	case sb.Pid == 0:
		return ""
	}
	return processNetNS(sb.Pid)
}
