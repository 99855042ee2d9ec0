package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/shim/checkpoint"
	"github.com/cridock/cridock/translate"
)

// maxSpecSize bounds, in bytes, the OCI specification that is read: arguments and
// environment of a process are at most 2 MiB together.
const maxSpecSize = 4 << 20

// describeSpec adds a container's OCI specification to the verbose information, or
// the reason why it is missing: a status does not fail for it.
func describeSpec(info map[string]any, id string, pid int, netns string, resources *runtimeapi.LinuxContainerResources) {
	spec, err := readSpec(id, pid)
	if err != nil {
		info["runtimeSpecMissing"] = err.Error()
		return
	}
	translate.DescribeSpec(spec, netns, resources)
	info["runtimeSpec"] = spec
}

// readSpec reads the OCI specification of a running container whose first process
// is pid. Use it for display only: the process ID may have been reused, and then
// the file may be anything.
func readSpec(id string, pid int) (*specs.Spec, error) {
	if pid == 0 {
		return nil, fmt.Errorf("%w: containerd keeps it only while the container runs", errdefs.ErrFailedPrecondition)
	}
	path, err := checkpoint.SpecFile(id, pid)
	if err != nil {
		return nil, err
	}
	bundle := strings.TrimSuffix(path, "/config.json")                               // filepath.Dir would resolve "cwd/.." by its text
	dir, err := os.OpenFile(bundle, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0) //nolint:gosec // a directory that containerd has made
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }()
	fd, err := unix.Openat(int(dir.Fd()), "config.json", unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer func() { _ = f.Close() }()
	if err := checkSpecFile(dir, f); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	spec := new(specs.Spec)
	// The decoder's own error may quote the file.
	if err := json.NewDecoder(io.LimitReader(f, maxSpecSize)).Decode(spec); err != nil {
		return nil, fmt.Errorf("%s: %w: not an OCI specification", path, errdefs.ErrDataLoss)
	}
	return spec, nil
}

// checkSpecFile returns an error unless a file is regular, at most maxSpecSize long, and
// only root can change it. containerd 2.4 leaves its mode to the umask, which is 0 in
// dockerd's children, in a directory that only root can enter.
func checkSpecFile(dir, f *os.File) error {
	var around, st unix.Stat_t
	if err := errors.Join(unix.Fstat(int(dir.Fd()), &around), unix.Fstat(int(f.Fd()), &st)); err != nil {
		return err
	}
	private := around.Uid == 0 && around.Mode&0o077 == 0
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return fmt.Errorf("%w: not a regular file", errdefs.ErrFailedPrecondition)
	case st.Uid != 0 || st.Mode&(unix.S_IWGRP|unix.S_IWOTH) != 0 && !private:
		return fmt.Errorf("%w: it must be owned by root and writable by root only", errdefs.ErrFailedPrecondition)
	case st.Size > maxSpecSize:
		return fmt.Errorf("%w: %d bytes, more than %d", errdefs.ErrOutOfRange, st.Size, int64(maxSpecSize))
	}
	return nil
}
