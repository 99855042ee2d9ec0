package shim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/shim/oom"
	"github.com/cridock/cridock/translate"
)

const (
	kernelLog = "/dev/kmsg"
	// maxKernelRecord is the size of the kernel's own buffer for one record.
	maxKernelRecord = 8192
)

// watchOOM has a running container's control group watched for the OOM killer:
// Docker misses some of many kills at once.
func (s *Service) watchOOM(ctx context.Context, c *translate.Container) {
	membership, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.Pid))
	if err == nil {
		name := oom.CounterFile(s.Host().CgroupV2)
		file, ok := findCgroupFile(s.cfg.CgroupRoot, string(membership), name, s.Host().CgroupV2)
		if !ok {
			return // a node without the memory controller limits no memory
		}
		err = s.oom.Watch(c.ID, file.root, file.name)
	}
	if err != nil && !processGone(err) && !errors.Is(err, fs.ErrNotExist) {
		klog.FromContext(ctx).Error(err, "What the OOM killer does is known from Docker alone", "containerID", c.ID)
	}
}

// watchRunning is watchOOM for the containers of an earlier process.
func (s *Service) watchRunning(ctx context.Context) error {
	containers, err := s.index.Containers(ctx)
	for _, c := range containers {
		if c.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			s.watchOOM(ctx, c)
		}
	}
	return err
}

// oomKilled tells whether the OOM killer has hit a container that has exited. On
// cgroup v2 systemd may have removed the group before its count was read; then
// the kernel's log is asked.
func (s *Service) oomKilled(containerID string) bool {
	return s.oom.Killed(containerID) || s.Host().CgroupV2 && loggedOOM(containerID)
}

// loggedOOM looks for a container in what the kernel's log still has of the OOM
// killer. A log that cannot be read, for lack of CAP_SYSLOG, has nothing.
func loggedOOM(containerID string) bool {
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
