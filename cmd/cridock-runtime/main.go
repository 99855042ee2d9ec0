// Command cridock-runtime is an OCI runtime for what Docker's API cannot ask for,
// such as a user namespace per pod or a very low memory limit. Docker executes it for
// the containers that cridock creates with it. For "create" it changes the container's
// bundle as cridock's record says, prepares mounts, and executes the real runtime in
// its own place; for "exec" it gives the standard streams to the container's root, and the
// process a CPU to start on. For everything else it only executes the real runtime.
//
//	cridock-runtime [--cridock-dir=DIR] ARGUMENTS OF THE REAL RUNTIME...
//
// DIR is cridock's runtime directory. A container never runs without the change: if
// there is no record, or any step fails, "create" fails, and Docker returns the reason
// as the error of the start.
//
// Under the name cridock-setkey it is a hook of the containers whose record is about
// their network, see setKey.
//
// It knows neither Docker's API nor the CRI, and keeps nothing: all mounts are in a mount
// namespace that ends with the real runtime's process.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/seam"
)

// defaultRuntime is executed for calls without a container that has a record.
const defaultRuntime = "runc"

func init() {
	// The mount namespace of the main thread becomes the real runtime's.
	runtime.LockOSThread()
}

func main() {
	if os.Args[0] == setKeyName {
		if err := setKey(os.Args[1:], os.Stdin); err != nil {
			fmt.Fprintln(os.Stderr, "cridock-runtime:", err)
			os.Exit(1)
		}
		return
	}
	c, err := parse(os.Args[1:])
	if err == nil {
		err = c.run()
	}
	// On success the real runtime has taken this process's place.
	c.report(err)
	os.Exit(1)
}

// run executes the real runtime, and returns only on failure.
func (c *call) run() error {
	record, err := c.record()
	if err != nil {
		return err
	}
	path, err := find(record.Runtime.Path)
	if err != nil {
		return fmt.Errorf("real runtime: %w", err)
	}
	switch c.command {
	case "create":
		if err = errors.Join(checkFeatures(record, path), checkRDT(record, resctrl, unix.RDTGROUP_SUPER_MAGIC)); err == nil {
			err = change(c.dir, c.bundle, record)
		}
	case "exec":
		err = errors.Join(giveStreams(record), setExecCPU(record, c.process))
	case "run", "restore":
		// Both would start a container from an unchanged bundle.
		err = fmt.Errorf("%s is not supported for containers that cridock-runtime changes", c.command)
	}
	if err != nil {
		return err
	}
	argv := append(append([]string{path}, record.Runtime.Args...), c.args...)
	return fmt.Errorf("execute %s: %w", path, unix.Exec(path, argv, os.Environ()))
}

// record returns the record of the call's container. Calls that start no process get
// along without one: a container that could not be created must be removable.
func (c *call) record() (*seam.Record, error) {
	other := &seam.Record{Runtime: seam.Runtime{Path: defaultRuntime}}
	starts := c.command == "create" || c.command == "exec"
	if c.id == "" && !starts {
		return other, nil
	}
	record, err := c.dir.Read(c.id)
	switch {
	case err == nil:
		return record, nil
	case !starts:
		return other, nil
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("cridock has left no record of container %s in %s: only cridock can create containers with this runtime", c.id, c.dir)
	}
	return nil, err
}

// find returns the path of the real runtime.
func find(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", err
	}
	self, err := os.Stat("/proc/self/exe")
	if err != nil {
		return "", err
	}
	other, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if os.SameFile(self, other) {
		return "", fmt.Errorf("%s is cridock-runtime itself", path)
	}
	return path, nil
}

// report writes an error to the standard error and, in the form that containerd
// reads, to the file that --log names.
func (c *call) report(err error) {
	text := "cridock-runtime: " + err.Error()
	fmt.Fprintln(os.Stderr, text)
	if c.log == "" {
		return
	}
	f, openErr := os.OpenFile(c.log, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644) //nolint:gosec // as the real runtime makes it
	if openErr != nil {
		fmt.Fprintln(os.Stderr, "cridock-runtime: log:", openErr)
		return
	}
	defer func() { _ = f.Close() }()
	entry := struct {
		Level string    `json:"level"`
		Msg   string    `json:"msg"`
		Time  time.Time `json:"time"`
	}{"error", text, time.Now()}
	if c.logFormat != "json" {
		_, err = fmt.Fprintf(f, "time=%q level=error msg=%q\n", entry.Time.Format(time.RFC3339), text)
	} else {
		err = json.NewEncoder(f).Encode(entry)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cridock-runtime: log:", err)
	}
}
