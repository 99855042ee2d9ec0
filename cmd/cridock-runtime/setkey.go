package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// setKeyName is the name under which this program is the hook that replaces the
// engine's, see [spec.replaceSetKey].
const setKeyName = "cridock-setkey"

const (
	// maxState bounds the state of a container, which a runtime passes to hooks.
	maxState = 1 << 20
	// maxReply bounds the engine's reply.
	maxReply = 1 << 10
	// success is the engine's reply if it has prepared the network namespace.
	success = "success"
)

// setKey tells the engine of a container's network namespace and waits until it has
// prepared that, as the engine's own hook does: original is that hook's path and
// arguments. It executes the original if the engine's socket is not where it is
// expected, and then returns only on failure.
//
// The protocol is that of libnetwork, see moby's
// libnetwork/sandbox_externalkey_unix.go: a JSON object and its reply on a unix socket
// that only root can connect to.
func setKey(original []string, stdin io.Reader) error {
	if len(original) < 1 || !isSetKey(original[1:]) {
		return fmt.Errorf("%s: unknown arguments %q", setKeyName, original)
	}
	text, err := io.ReadAll(io.LimitReader(stdin, maxState))
	if err != nil {
		return fmt.Errorf("state of the container: %w", err)
	}
	var state struct {
		Pid int `json:"pid"`
	}
	if err := json.Unmarshal(text, &state); err != nil {
		return fmt.Errorf("state of the container: %w", err)
	}
	if state.Pid <= 0 {
		return errors.New("state of the container: no process")
	}
	execRoot, id, controller := strings.TrimPrefix(original[2], execRootFlag), original[3], original[4]
	engine, err := net.Dial("unix", filepath.Join(execRoot, "libnetwork", controller+".sock")) //nolint:gosec // the engine writes the arguments
	if err != nil {
		return errors.Join(err, execOriginal(original, text))
	}
	defer func() { _ = engine.Close() }()
	return tellEngine(engine, id, fmt.Sprintf("/proc/%d/ns/net", state.Pid))
}

// tellEngine sends the path of a container's network namespace and reads the reply.
func tellEngine(engine io.ReadWriter, id, namespace string) error {
	message := struct{ ContainerID, Key string }{id, namespace}
	if err := json.NewEncoder(engine).Encode(message); err != nil {
		return fmt.Errorf("network namespace of container %s: %w", id, err)
	}
	reply := make([]byte, maxReply)
	n, err := engine.Read(reply)
	if err != nil {
		return fmt.Errorf("network namespace of container %s: the engine's reply: %w", id, err)
	}
	if got := string(reply[:n]); got != success {
		return fmt.Errorf("network namespace of container %s: the engine says: %s", id, got)
	}
	return nil
}

// execOriginal executes the engine's hook in place of this process, with the state
// that this process has read.
func execOriginal(original []string, state []byte) error {
	fd, err := unix.MemfdCreate("state", 0)
	if err != nil {
		return err
	}
	if _, err := unix.Pwrite(fd, state, 0); err != nil {
		return err
	}
	if err := unix.Dup3(fd, 0, 0); err != nil {
		return err
	}
	return fmt.Errorf("execute %s: %w", original[0], unix.Exec(original[0], original[1:], os.Environ()))
}
