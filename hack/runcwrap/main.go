// Command runcwrap runs runc on a machine without CAP_SYS_RESOURCE, where a process
// cannot lower its oom_score_adj nor have that capability, and runc fails for a
// container or an exec session that asks for either. Before "create" and "exec" it raises
// a negative oomScoreAdj to 0 and removes the capability; everything else it leaves to the
// runc in PATH.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

func main() {
	fmt.Fprintln(os.Stderr, "runcwrap:", run(os.Args))
	os.Exit(1)
}

// run replaces the process with runc, and returns why it cannot.
func run(args []string) error {
	if path, bound := described(args[1:]); path != "" {
		if err := boundFile(path, bound); err != nil {
			return err
		}
	}
	runc, err := exec.LookPath("runc")
	if err != nil {
		return err
	}
	return fmt.Errorf("%s: %w", runc, syscall.Exec(runc, append([]string{runc}, args[1:]...), os.Environ()))
}

// described returns the file that describes the process that a command line of runc
// starts, and what bounds it; "" if there is none.
func described(args []string) (path string, bound func([]byte) ([]byte, error)) {
	at := slices.IndexFunc(args, func(arg string) bool { return arg == "create" || arg == "exec" })
	if at < 0 {
		return "", nil
	}
	if args[at] == "exec" {
		return option(args[at:], "--process", "-p"), boundProcess
	}
	return filepath.Join(option(args[at:], "--bundle", "-b"), "config.json"), boundConfig
}

// option returns the value of an option, "" if it is not there.
func option(args []string, names ...string) string {
	for i, arg := range args {
		name, value, joined := strings.Cut(arg, "=")
		if !slices.Contains(names, name) {
			continue
		}
		if !joined && i+1 < len(args) {
			value = args[i+1]
		}
		return value
	}
	return ""
}

// boundFile makes a description of a process one that the machine can run. It writes
// only if there is something to change, and keeps all other values as they are.
func boundFile(path string, bound func([]byte) ([]byte, error)) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	changed, err := bound(old)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if bytes.Equal(changed, old) {
		return nil
	}
	return replace(path, changed)
}

// boundConfig bounds the process of a bundle's configuration. It returns config itself if
// there is nothing to change.
func boundConfig(config []byte) ([]byte, error) {
	// Numbers and the order of lists stay as they are in what is not decoded.
	var spec map[string]json.RawMessage
	if err := json.Unmarshal(config, &spec); err != nil {
		return nil, err
	}
	if spec["process"] == nil {
		return config, nil
	}
	process, err := boundProcess(spec["process"])
	if err != nil || bytes.Equal(process, spec["process"]) {
		return config, err
	}
	spec["process"] = process
	return json.Marshal(spec)
}

// boundProcess is boundConfig for a process alone, as "exec" gets it.
func boundProcess(config []byte) ([]byte, error) {
	var process map[string]json.RawMessage
	if err := json.Unmarshal(config, &process); err != nil {
		return nil, err
	}
	raised, err := raiseOOMScore(process)
	if err != nil {
		return nil, err
	}
	dropped, err := dropSysResource(process)
	if err != nil || !raised && !dropped {
		return config, err
	}
	return json.Marshal(process)
}

// raiseOOMScore raises a negative oomScoreAdj to 0, and reports whether it did.
func raiseOOMScore(process map[string]json.RawMessage) (bool, error) {
	var score int
	if raw := process["oomScoreAdj"]; raw != nil {
		if err := json.Unmarshal(raw, &score); err != nil {
			return false, err
		}
	}
	if score >= 0 {
		return false, nil
	}
	process["oomScoreAdj"] = json.RawMessage("0")
	return true, nil
}

// dropSysResource removes CAP_SYS_RESOURCE from all sets, and reports whether any had
// it.
func dropSysResource(process map[string]json.RawMessage) (bool, error) {
	var sets map[string][]string
	if raw := process["capabilities"]; raw != nil {
		if err := json.Unmarshal(raw, &sets); err != nil {
			return false, err
		}
	}
	found := false
	for name, set := range sets {
		if slices.Contains(set, "CAP_SYS_RESOURCE") {
			found = true
			sets[name] = slices.DeleteFunc(set, func(c string) bool { return c == "CAP_SYS_RESOURCE" })
		}
	}
	if !found {
		return false, nil
	}
	encoded, err := json.Marshal(sets)
	process["capabilities"] = encoded
	return true, err
}

// replace replaces a file in one step and keeps its mode.
func replace(path string, content []byte) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	next := path + ".new"
	if err := os.WriteFile(next, content, info.Mode().Perm()); err != nil {
		return errors.Join(err, os.Remove(next))
	}
	return os.Rename(next, path)
}
