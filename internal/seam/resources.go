package seam

import "fmt"

// Resources are limits that replace those in a bundle, or are added to them.
type Resources struct {
	// Memory is nil for the limits in the bundle.
	Memory *Memory `json:"memory,omitempty"`
}

// Memory limits memory and swap, in bytes.
type Memory struct {
	Limit int64 `json:"limit"`
	// Swap limits memory and swap together; -1 does not.
	Swap int64 `json:"swap"`
}

func (r *Resources) validate() error {
	if r == nil || r.Memory == nil {
		return nil
	}
	if m := r.Memory; m.Limit <= 0 || m.Swap != -1 && m.Swap < m.Limit {
		return fmt.Errorf("memory limit %d, with swap %d: want a positive limit, and -1 or at least as much with swap", m.Limit, m.Swap)
	}
	return nil
}
