package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/cridock/cridock/internal/seam"
)

// setNetwork gives the container the network namespace that its record names, and
// shortens how the engine learns of the namespace.
func (s spec) setNetwork(n *seam.Network) error {
	if n.Namespace != "" {
		if err := s.joinNetwork(n.Namespace); err != nil {
			return err
		}
	}
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	return s.replaceSetKey(self)
}

// joinNetwork has the container join a network namespace instead of getting a new one.
func (s spec) joinNetwork(path string) error {
	namespaces, err := objects(object(s, "linux"), "namespaces")
	if err != nil {
		return err
	}
	i := slices.IndexFunc(namespaces, func(ns map[string]any) bool { return ns["type"] == "network" })
	if i < 0 {
		return fmt.Errorf("the container uses the host's network, not %s", path)
	}
	if other, _ := namespaces[i]["path"].(string); other != "" {
		return fmt.Errorf("the engine has the container join %s, not %s", other, path)
	}
	namespaces[i]["path"] = path
	return nil
}

const (
	// setKeyCommand is the first argument of the engine's hook.
	setKeyCommand = "libnetwork-setkey"
	// execRootFlag is followed by the engine's exec root.
	execRootFlag = "-exec-root="
)

// deleted follows the path of a program whose file is gone.
const deleted = " (deleted)"

// replaceSetKey has this program do the work of the engine's hook that tells the engine
// of the container's network namespace. It leaves a hook that it does not know as it
// is, and engines without one (from Docker 28 on). self is the program's path; if an
// upgrade has just replaced the file, the hook stays.
func (s spec) replaceSetKey(self string) error {
	hooks, err := objects(object(s, "hooks"), "prestart")
	if err != nil {
		return err
	}
	if strings.HasSuffix(self, deleted) {
		return nil
	}
	for _, hook := range hooks {
		path, _ := hook["path"].(string)
		args, err := words(hook["args"])
		if err != nil || path == "" || !isSetKey(args) {
			continue
		}
		hook["path"], hook["args"] = self, append([]string{setKeyName, path}, args...)
	}
	return nil
}

// isSetKey reports whether these are the arguments of the engine's hook: its command,
// its exec root, the container, and the short ID of its network controller.
func isSetKey(args []string) bool {
	return len(args) == 4 && args[0] == setKeyCommand && strings.HasPrefix(args[1], execRootFlag+"/") && seam.IsID(args[2]) &&
		args[3] != "" && !strings.ContainsAny(args[3], "/\x00")
}

// words returns a list of strings.
func words(list any) ([]string, error) {
	values, ok := list.([]any)
	if !ok {
		return nil, fmt.Errorf("%v is not a list", list)
	}
	out := make([]string, len(values))
	for i, v := range values {
		if out[i], ok = v.(string); !ok {
			return nil, fmt.Errorf("%v is not a string", v)
		}
	}
	return out, nil
}
