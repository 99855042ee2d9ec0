package shim

import (
	"bytes"
	"errors"

	"golang.org/x/sys/unix"
)

const (
	kernelLog = "/dev/kmsg"
	// maxKernelRecord is the size of the kernel's own buffer for one record.
	maxKernelRecord = 8192
)

// oomKilled looks for a container in what the kernel's log still has of the OOM
// killer. A log that cannot be read, for lack of CAP_SYSLOG, has nothing.
func oomKilled(containerID string) bool {
	fd, err := unix.Open(kernelLog, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Close(fd) }()
	return logHasOOM(func(p []byte) (int, error) { return unix.Read(fd, p) }, containerID)
}

// logHasOOM reads records, one with each call, until the one that is looked for
// or the end (EAGAIN).
func logHasOOM(read func([]byte) (int, error), containerID string) bool {
	record := make([]byte, maxKernelRecord)
	for {
		n, err := read(record)
		switch {
		case errors.Is(err, unix.EPIPE) || errors.Is(err, unix.EINTR):
			// The next record was overwritten before it was read; the one after it comes.
		case err != nil || n == 0:
			return false
		case oomVictim(record[:n], containerID):
			return true
		}
	}
}

// oomVictim tells whether a record says that a process in a container's cgroup
// was killed. Since Linux 5.0 the kernel has it in one line, made for programs:
//
//	oom-kill:constraint=CONSTRAINT_MEMCG,…,oom_memcg=/…,task_memcg=/…/docker-ID.scope,task=NAME,pid=…
//
// It prints it in parts, so that what another processor prints meanwhile can cut
// the line in two records.
func oomVictim(record []byte, containerID string) bool {
	_, group, _ := bytes.Cut(record, []byte(",task_memcg="))
	group, _, _ = bytes.Cut(group, []byte(",task="))
	return bytes.Contains(group, []byte(containerID))
}
