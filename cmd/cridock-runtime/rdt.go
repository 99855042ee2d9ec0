package main

import (
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/seam"
)

// resctrl is where the kernel's file system for Intel RDT is mounted.
const resctrl = "/sys/fs/resctrl"

// checkRDT returns an error if the RDT class of a container does not exist below root, a
// file system of type magic. Without one, runc 1.1 would ignore it.
func checkRDT(r *seam.Record, root string, magic int64) error {
	if r.Spec == nil || r.Spec.IntelRdt == nil {
		return nil
	}
	rdt := r.Spec.IntelRdt
	group := filepath.Join(root, rdt.ClosID)
	if len(rdt.Schemata) > 0 || rdt.L3CacheSchema != "" || rdt.MemBwSchema != "" {
		group = root // the real runtime makes the group
	}
	var st unix.Statfs_t
	if err := unix.Statfs(group, &st); err != nil {
		return fmt.Errorf("RDT class %q: %s: %w", rdt.ClosID, group, err)
	}
	if int64(st.Type) != magic { //nolint:unconvert // 32 bits on some architectures
		return fmt.Errorf("RDT class %q: %s is not in a resctrl file system: mount one on %s", rdt.ClosID, group, root)
	}
	return nil
}
