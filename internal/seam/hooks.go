package seam

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// HookNames are the OCI hooks that a record can add, by their names in a bundle.
var HookNames = []string{"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"}

// HookInContainer is the only hook whose path is in the container's file system.
const HookInContainer = "startContainer"

// Hook is a program that the real runtime executes. Except for [HookInContainer] it
// runs as root of the host.
type Hook struct {
	// Name is one of [HookNames].
	Name string `json:"name"`
	// Path is absolute. Args begin with the program's name.
	Path string   `json:"path"`
	Args []string `json:"args,omitempty"`
	// Env has the form NAME=value.
	Env []string `json:"env,omitempty"`
	// Timeout is in seconds; 0 for none.
	Timeout int `json:"timeout,omitempty"`
}

func (h Hook) validate() error {
	switch {
	case !slices.Contains(HookNames, h.Name):
		return fmt.Errorf("hook %q is not one of %q", h.Name, HookNames)
	case !path.IsAbs(h.Path) || strings.ContainsRune(h.Path, 0):
		return fmt.Errorf("%s hook: path %q: want an absolute path", h.Name, h.Path)
	case h.Timeout < 0:
		return fmt.Errorf("%s hook %s: timeout %d is negative", h.Name, h.Path, h.Timeout)
	}
	for _, word := range slices.Concat(h.Args, h.Env) {
		if strings.ContainsRune(word, 0) {
			return fmt.Errorf("%s hook %s: an argument or variable contains a NUL", h.Name, h.Path)
		}
	}
	return nil
}

// ValidateHooks reports the first hook that a record can't have.
func ValidateHooks(hooks []Hook) error {
	for _, h := range hooks {
		if err := h.validate(); err != nil {
			return err
		}
	}
	return nil
}
