// Command runcwrap runs runc for benchmarks on a machine without CAP_SYS_RESOURCE,
// where a process cannot lower its oom_score_adj, and runc fails for a container that
// asks for it. Before "create" it raises a negative oomScoreAdj in the bundle to 0;
// everything else it leaves to the runc in PATH.
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
	if dir, creates := bundle(args[1:]); creates {
		if err := raiseOOMScore(filepath.Join(dir, "config.json")); err != nil {
			return err
		}
	}
	runc, err := exec.LookPath("runc")
	if err != nil {
		return err
	}
	return fmt.Errorf("%s: %w", runc, syscall.Exec(runc, append([]string{runc}, args[1:]...), os.Environ()))
}

// bundle reports whether a command line of runc creates a container, and returns its
// bundle: by default the current directory.
func bundle(args []string) (dir string, creates bool) {
	at := slices.Index(args, "create")
	if at < 0 {
		return "", false
	}
	for i, arg := range args[at:] {
		name, value, joined := strings.Cut(arg, "=")
		if name != "--bundle" && name != "-b" {
			continue
		}
		if joined {
			return value, true
		}
		if at+i+1 < len(args) {
			return args[at+i+1], true
		}
	}
	return ".", true
}

// raiseOOMScore raises a negative process.oomScoreAdj in a file to 0. It writes only
// then, and keeps all other values as they are.
func raiseOOMScore(path string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	changed, err := withoutNegativeOOMScore(old)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if bytes.Equal(changed, old) {
		return nil
	}
	return replace(path, changed)
}

// withoutNegativeOOMScore returns config itself if there is nothing to raise.
func withoutNegativeOOMScore(config []byte) ([]byte, error) {
	// Numbers and the order of lists stay as they are in what is not decoded.
	var spec, process map[string]json.RawMessage
	if err := json.Unmarshal(config, &spec); err != nil {
		return nil, err
	}
	if spec["process"] == nil {
		return config, nil
	}
	if err := json.Unmarshal(spec["process"], &process); err != nil {
		return nil, err
	}
	var score int
	if raw := process["oomScoreAdj"]; raw != nil {
		if err := json.Unmarshal(raw, &score); err != nil {
			return nil, err
		}
	}
	if score >= 0 {
		return config, nil
	}
	process["oomScoreAdj"] = json.RawMessage("0")
	encoded, err := json.Marshal(process)
	if err != nil {
		return nil, err
	}
	spec["process"] = encoded
	return json.Marshal(spec)
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
