package register

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/moby/sys/atomicwriter"

	"github.com/cridock/cridock/internal/seam"
)

// entry is a runtime in daemon.json.
type entry struct {
	Path string   `json:"path"`
	Args []string `json:"runtimeArgs,omitempty"`
}

// file is the daemon's configuration file.
type file struct {
	path    string // links followed
	content []byte // nil if there is none
	mode    fs.FileMode
}

// readFile reads the configuration file. A missing one is no error.
func readFile(path string) (*file, error) {
	real, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &file{path: path, mode: 0o644}, nil
	}
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(real)
	if err != nil {
		return nil, err
	}
	f := &file{path: real, mode: info.Mode().Perm()}
	f.content, err = os.ReadFile(real)
	return f, err
}

// settings returns the settings and, of these, the runtimes.
func (f *file) settings() (all, runtimes map[string]json.RawMessage, err error) {
	if len(bytes.TrimSpace(f.content)) > 0 {
		if err := json.Unmarshal(f.content, &all); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", f.path, err)
		}
	}
	if raw, ok := all["runtimes"]; ok {
		if err := json.Unmarshal(raw, &runtimes); err != nil {
			return nil, nil, fmt.Errorf("%s: runtimes: %w", f.path, err)
		}
	}
	return all, runtimes, nil
}

// entry returns cridock-runtime's entry, nil if there is none.
func (f *file) entry() (*entry, error) {
	_, runtimes, err := f.settings()
	raw, ok := runtimes[seam.RuntimeName]
	if err != nil || !ok {
		return nil, err
	}
	e := new(entry)
	if err := json.Unmarshal(raw, e); err != nil {
		return nil, fmt.Errorf("%s: runtimes.%s: %w", f.path, seam.RuntimeName, err)
	}
	return e, nil
}

func sameEntry(a, b *entry) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return a.Path == b.Path && slices.Equal(a.Args, b.Args)
}

// with returns the content with this entry for cridock-runtime; nil for none.
// Everything else stays.
func (f *file) with(e *entry) ([]byte, error) {
	all, runtimes, err := f.settings()
	if err != nil {
		return nil, err
	}
	if all == nil {
		all = map[string]json.RawMessage{}
	}
	if runtimes == nil {
		runtimes = map[string]json.RawMessage{}
	}
	delete(runtimes, seam.RuntimeName)
	if e != nil {
		if runtimes[seam.RuntimeName], err = json.Marshal(e); err != nil {
			return nil, err
		}
	}
	// Even if it is empty: without the setting, dockerd keeps the runtimes it has.
	if all["runtimes"], err = json.Marshal(runtimes); err != nil {
		return nil, err
	}
	out, err := json.MarshalIndent(all, "", "    ")
	return append(out, '\n'), err
}

// backup is where replace leaves the previous content.
func (f *file) backup() string { return f.path + ".before-cridock" }

// replace replaces the content atomically, and keeps the previous one in a backup.
func (f *file) replace(content []byte) error {
	if err := os.MkdirAll(filepath.Dir(f.path), 0o755); err != nil { //nolint:gosec // as Docker's packages make it
		return err
	}
	if f.content != nil {
		if err := atomicwriter.WriteFile(f.backup(), f.content, f.mode); err != nil {
			return fmt.Errorf("backup: %w", err)
		}
	}
	return atomicwriter.WriteFile(f.path, content, f.mode)
}

// restore undoes replace.
func (f *file) restore() error {
	if f.content == nil {
		return os.Remove(f.path)
	}
	return atomicwriter.WriteFile(f.path, f.content, f.mode)
}
