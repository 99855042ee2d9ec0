package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/seam"
)

// maxProcess bounds the file with a process, in bytes: arguments and environment are at
// most 2 MiB together.
const maxProcess = 16 << 20

// setExecCPU has the real runtime start the process in a file on the record's CPU,
// before it enters the container's cgroup. It changes the file in its place: the engine
// has made it for this call.
func setExecCPU(r *seam.Record, file string) (err error) {
	if r.ExecCPU == nil {
		return nil
	}
	if file == "" {
		return errors.New("exec: no file with the process, to set its CPU affinity in")
	}
	f, err := os.OpenFile(file, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0) //nolint:gosec // containerd names it
	if err != nil {
		return fmt.Errorf("exec: process: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	text, err := io.ReadAll(io.LimitReader(f, maxProcess))
	if err != nil {
		return fmt.Errorf("exec: process: %w", err)
	}
	// It is no struct, so that fields which this program does not know are kept.
	process, err := decodeObject(text)
	if err != nil {
		return fmt.Errorf("exec: %s: %w", file, err)
	}
	process["execCPUAffinity"] = map[string]string{"initial": strconv.Itoa(*r.ExecCPU)}
	if text, err = json.Marshal(process); err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err = f.WriteAt(text, 0)
	return err
}
