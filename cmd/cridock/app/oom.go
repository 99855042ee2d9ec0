package app

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// hasSysResource reports whether this process may lower oom_score_adj. dockerd is
// assumed to have the same capability: both are services of one node.
func hasSysResource() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	return data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}

// ownOOMScoreAdj returns this process's value; 0, the kernel's default, if unknown.
func ownOOMScoreAdj() int {
	b, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return 0
	}
	v, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	return v
}
