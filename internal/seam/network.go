package seam

import (
	"fmt"
	"path"
	"strings"
)

// Network says how a container gets its network namespace. With it, cridock-runtime
// itself tells the engine of the namespace, if it knows how: the engine's own hook,
// which executes the whole daemon to do so, takes much longer.
type Network struct {
	// Namespace is the absolute path of a mounted network namespace to join; "" to
	// create one.
	Namespace string `json:"namespace,omitempty"`
}

func (n *Network) validate() error {
	if n == nil || n.Namespace == "" {
		return nil
	}
	if !path.IsAbs(n.Namespace) || path.Clean(n.Namespace) != n.Namespace || strings.ContainsRune(n.Namespace, 0) {
		return fmt.Errorf("network namespace %q: want a clean absolute path", n.Namespace)
	}
	return nil
}
