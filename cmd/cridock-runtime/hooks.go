package main

import (
	"fmt"

	"github.com/cridock/cridock/internal/seam"
)

// addHooks adds hooks after those that the bundle has.
func (s spec) addHooks(add []seam.Hook) error {
	hooks, err := makeObject(s, "hooks")
	if err != nil {
		return err
	}
	for _, h := range add {
		hook := map[string]any{"path": h.Path}
		if len(h.Args) > 0 {
			hook["args"] = h.Args
		}
		if len(h.Env) > 0 {
			hook["env"] = h.Env
		}
		if h.Timeout > 0 {
			hook["timeout"] = h.Timeout
		}
		list, ok := hooks[h.Name].([]any)
		if !ok && hooks[h.Name] != nil {
			return fmt.Errorf("%s: hooks.%s is not a list", specName, h.Name)
		}
		hooks[h.Name] = append(list, hook)
	}
	return nil
}
