package seam

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Resources are limits that replace those in a bundle, or are added to them.
type Resources struct {
	// Memory is nil for the limits in the bundle.
	Memory *Memory `json:"memory,omitempty"`
	// Unified maps names of files in a cgroup v2 to what is written to them.
	Unified map[string]string `json:"unified,omitempty"`
	// Hugepages are limits by page size, at most one for each.
	Hugepages []Hugepages `json:"hugepages,omitempty"`
}

// Memory limits memory and swap, in bytes.
type Memory struct {
	Limit int64 `json:"limit"`
	// Swap limits memory and swap together; -1 does not.
	Swap int64 `json:"swap"`
}

// Hugepages limits pages of one size.
type Hugepages struct {
	// PageSize is a size as in the names of cgroup files, such as 2MB.
	PageSize string `json:"pageSize"`
	// Limit is in bytes.
	Limit uint64 `json:"limit"`
}

func (r *Resources) validate() error {
	if r == nil {
		return nil
	}
	if m := r.Memory; m != nil && (m.Limit <= 0 || m.Swap != -1 && m.Swap < m.Limit) {
		return fmt.Errorf("memory limit %d, with swap %d: want a positive limit, and -1 or at least as much with swap", m.Limit, m.Swap)
	}
	for _, key := range slices.Sorted(maps.Keys(r.Unified)) {
		if err := ValidateUnified(key, r.Unified[key]); err != nil {
			return err
		}
	}
	seen := map[string]bool{}
	for _, h := range r.Hugepages {
		if err := ValidatePageSize(h.PageSize); err != nil {
			return err
		}
		if seen[h.PageSize] {
			return fmt.Errorf("page size %s is listed twice", h.PageSize)
		}
		seen[h.PageSize] = true
	}
	return nil
}

// unifiedControllers are the controllers whose files may be set. The cgroup's own
// files (cgroup.kill, cgroup.procs …) are not resources.
var unifiedControllers = []string{"cpu", "cpuset", "hugetlb", "io", "memory", "misc", "pids", "rdma"}

// ValidateUnified returns an error unless key is the name of a controller's file and
// value can be written to it.
func ValidateUnified(key, value string) error {
	controller, file, ok := strings.Cut(key, ".")
	if !ok || file == "" || strings.ContainsFunc(file, refusedInFileName) || !slices.Contains(unifiedControllers, controller) {
		return fmt.Errorf("%q is not a file of one of the controllers %q", key, unifiedControllers)
	}
	if strings.ContainsRune(value, 0) {
		return fmt.Errorf("value of %q contains a NUL", key)
	}
	return nil
}

func refusedInFileName(r rune) bool {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '-', r == '_':
		return false
	}
	return true
}

// ValidatePageSize returns an error unless size is that of huge pages as in the names
// of cgroup files, such as 2MB.
func ValidatePageSize(size string) error {
	digits := strings.TrimRight(size, "KMGB")
	n, err := strconv.ParseUint(digits, 10, 32)
	if unit := size[len(digits):]; err != nil || n == 0 || (unit != "KB" && unit != "MB" && unit != "GB") {
		return fmt.Errorf("%q is not a page size such as 2MB", size)
	}
	return nil
}
