package shim

import (
	"bytes"
	"context"
	"errors"
	"path"
	"strings"

	"github.com/docker/docker/api/types/container"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/internal/cgroup"
	"github.com/cridock/cridock/shim/oom"
	"github.com/cridock/cridock/translate"
)

const (
	kernelLog = "/dev/kmsg"
	// maxKernelRecord is the size of the kernel's own buffer for one record.
	maxKernelRecord = 8192
)

// watchOOM starts watching a running container's cgroup for OOM kills: Docker
// misses some when there are many at once.
func (s *Service) watchOOM(ctx context.Context, c *translate.Container) {
	v2 := s.Host().CgroupV2
	files, err := cgroup.Node{Root: s.cfg.CgroupRoot, V2: v2}.Files(c.Pid, oom.CounterFile(v2))
	for _, file := range files {
		if file == (cgroup.File{}) {
			return // a node without the memory controller limits no memory
		}
		var podUID string
		if sb, _ := s.index.Sandbox(ctx, c.SandboxID); sb != nil { // else it is gone
			podUID = sb.Metadata.GetUid()
		}
		err = s.oom.Watch(c.ID, file.Root, file.Name, podUID, podCounter(podUID, v2, file.Name))
	}
	if err != nil && !cgroup.Gone(err) {
		klog.FromContext(ctx).Error(err, "Cannot watch a container for OOM kills; relying on Docker's report alone", "containerID", c.ID)
	}
}

// podCounter returns the name of the file that counts the OOM kills in the control
// group of a container's pod, given that of the container; "" on cgroup v1, and for a
// group that is not the pod's alone: the kubelet's has the pod's UID in its name.
func podCounter(uid string, v2 bool, name string) string {
	if uid == "" || !v2 {
		return ""
	}
	dir, file := path.Split(name)
	dir = path.Dir(path.Clean(dir))
	// systemd's names have underscores in place of hyphens.
	if !strings.Contains(strings.ReplaceAll(path.Base(dir), "_", "-"), strings.ReplaceAll(uid, "_", "-")) {
		return ""
	}
	return path.Join(dir, file)
}

// watchRunning calls watchOOM for the containers that are running at the start.
func (s *Service) watchRunning(ctx context.Context) error {
	containers, err := s.index.Containers(ctx)
	for _, c := range containers {
		if c.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
			s.watchOOM(ctx, c)
		}
	}
	return err
}

// oomKilled reports whether the OOM killer has hit an exited container. On cgroup
// v2 systemd may have removed the cgroup before its count was read; therefore it
// also searches the kernel log, which lacks kills if there are many at once.
func (s *Service) oomKilled(c container.InspectResponse) bool {
	if !c.State.OOMKilled {
		if s.oom.Killed(c.ID) {
			return true
		}
		if !s.Host().CgroupV2 || !loggedOOM(c.ID) {
			return false
		}
	}
	var podUID string
	if c.Config != nil {
		podUID = c.Config.Labels[translate.LabelPodUID]
	}
	s.oom.Claim(c.ID, podUID)
	return true
}

// loggedOOM reports whether the kernel log still has an OOM kill of a container. It
// is false if the log cannot be read, for lack of CAP_SYSLOG.
func loggedOOM(containerID string) bool {
	fd, err := unix.Open(kernelLog, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Close(fd) }()
	return logHasOOM(func(p []byte) (int, error) { return unix.Read(fd, p) }, containerID)
}

// logHasOOM reads records, one per call of read, until it finds the container's OOM
// kill or the log ends (EAGAIN).
func logHasOOM(read func([]byte) (int, error), containerID string) bool {
	record := make([]byte, maxKernelRecord)
	for {
		n, err := read(record)
		switch {
		case errors.Is(err, unix.EPIPE) || errors.Is(err, unix.EINTR):
			// EPIPE: the next record was overwritten before it was read. Read the one after.
		case err != nil || n == 0:
			return false
		case oomVictim(record[:n], containerID):
			return true
		}
	}
}

// oomVictim reports whether a record says that a process in a container's cgroup
// was killed. Since Linux 5.0 the kernel logs that in one machine-readable line:
//
//	oom-kill:constraint=CONSTRAINT_MEMCG,…,oom_memcg=/…,task_memcg=/…/docker-ID.scope,task=NAME,pid=…
//
// It prints the line in parts, so output of another processor can split it into two
// records.
func oomVictim(record []byte, containerID string) bool {
	_, group, _ := bytes.Cut(record, []byte(",task_memcg="))
	group, _, _ = bytes.Cut(group, []byte(",task="))
	return bytes.Contains(group, []byte(containerID))
}
