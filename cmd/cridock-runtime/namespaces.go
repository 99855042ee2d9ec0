package main

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/seam"
)

// namespace returns the container's own namespace of a kind; nil if it uses the host's.
func (s spec) namespace(kind string) (map[string]any, error) {
	namespaces, err := objects(object(s, "linux"), "namespaces")
	if err != nil {
		return nil, err
	}
	for _, ns := range namespaces {
		if ns["type"] == kind {
			return ns, nil
		}
	}
	return nil, nil
}

// makeCgroupsWritable mounts the cgroup file system writable. It refuses a container
// that would see the cgroups of others there.
func (s spec) makeCgroupsWritable() error {
	ns, err := s.namespace("cgroup")
	if err != nil {
		return err
	}
	if ns == nil || ns["path"] != nil {
		return errors.New("writable cgroups need a cgroup namespace of the container's own")
	}
	mounts, err := objects(s, "mounts")
	if err != nil {
		return err
	}
	found := false
	for _, m := range mounts {
		if m["type"] != "cgroup" && m["type"] != "cgroup2" {
			continue
		}
		options, _ := m["options"].([]any)
		m["options"] = append(slices.DeleteFunc(slices.Clone(options), func(o any) bool { return o == "ro" }), "rw")
		found = true
	}
	if !found {
		return fmt.Errorf("%s: no cgroup file system", specName)
	}
	return nil
}

// joinUTS puts the container into the UTS namespace of a process, with the host name
// that this has by now.
func (s spec) joinUTS(p *seam.Process) error {
	ns, err := s.namespace("uts")
	if err != nil {
		return err
	}
	if ns == nil {
		return errors.New("the container uses the host's UTS namespace")
	}
	// It stays open in the real runtime, which takes this process's place and joins by
	// this path the namespace that was checked, whatever becomes of the process.
	fd, err := unix.Open(fmt.Sprintf("/proc/%d/ns/uts", p.PID), unix.O_RDONLY, 0) //nolint:gosec // not closed by exec
	if err != nil {
		return fmt.Errorf("UTS namespace of the sandbox: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("UTS namespace of the sandbox: %w", err)
	}
	if st.Dev != p.Device || st.Ino != p.Inode {
		return fmt.Errorf("UTS namespace of the sandbox: process %d is in namespace %d:%d, want %d:%d", p.PID, st.Dev, st.Ino, p.Device, p.Inode)
	}
	ns["path"] = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd)
	// The real runtime would set it for the whole pod.
	delete(s, "hostname")
	delete(s, "domainname")
	return nil
}
