package idmap

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/seam"
)

// NewUserNamespace returns a new user namespace with these mappings, which lasts
// until it is closed. It must be called on a locked thread: it makes a child
// process, which never runs, as a process creates a namespace only for itself.
func NewUserNamespace(uids, gids []seam.Mapping) (*os.File, error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: processMappings(uids), GidMappings: processMappings(gids),
		Ptrace:    true, // stops the child before its first instruction
		Pdeathsig: unix.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("make a user namespace: %w", err)
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", cmd.Process.Pid))
	err = errors.Join(err, cmd.Process.Kill())
	_ = cmd.Wait() // it was killed
	if err != nil {
		return nil, fmt.Errorf("open the new user namespace: %w", err)
	}
	return f, nil
}

func processMappings(mappings []seam.Mapping) []syscall.SysProcIDMap {
	out := make([]syscall.SysProcIDMap, 0, len(mappings))
	for _, m := range mappings {
		out = append(out, syscall.SysProcIDMap{ContainerID: int(m.ContainerID), HostID: int(m.HostID), Size: int(m.Size)})
	}
	return out
}

// JoinUserNamespace opens the user namespace of a sandbox's process. It is an error
// if that is not the namespace that p describes, or does not have u's mappings.
func JoinUserNamespace(u *seam.UserNamespace, p seam.Process) (*os.File, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", p.PID))
	if err != nil {
		return nil, fmt.Errorf("user namespace of the sandbox: %w", err)
	}
	if err := sameNamespace(f, p); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if err := u.CheckProcess(p.PID); err != nil {
		return nil, errors.Join(fmt.Errorf("user namespace of the sandbox: %w", err), f.Close())
	}
	// Only if the process still is the same one, the mappings are of f.
	again, err := Describe(p.PID, "user")
	if err == nil && again != p {
		err = fmt.Errorf("user namespace of the sandbox: process %d is another one by now", p.PID)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func sameNamespace(f *os.File, p seam.Process) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("user namespace of the sandbox: %w", err)
	}
	if st.Dev != p.Device || st.Ino != p.Inode {
		return fmt.Errorf("user namespace of the sandbox: process %d is in namespace %d:%d, want %d:%d", p.PID, st.Dev, st.Ino, p.Device, p.Inode)
	}
	return nil
}

// Describe returns a process with its namespace of a kind, as in /proc/PID/ns.
func Describe(pid int, kind string) (seam.Process, error) {
	var st unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/ns/%s", pid, kind), &st); err != nil {
		return seam.Process{}, fmt.Errorf("%s namespace of process %d: %w", kind, pid, err)
	}
	return seam.Process{PID: pid, Device: st.Dev, Inode: st.Ino}, nil
}
