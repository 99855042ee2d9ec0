package checkpoint

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// Images is the name of the subdirectory of a checkpoint for CRIU's images.
const Images = "checkpoint"

// Config is the content of config.dump.
type Config struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	Image     string `json:"rootfsImage,omitempty"`
	ImageRef  string `json:"rootfsImageRef,omitempty"`
	ImageName string `json:"rootfsImageName,omitempty"`
	// Runtime is the OCI runtime.
	Runtime        string    `json:"runtime,omitempty"`
	CreatedAt      time.Time `json:"createdTime"`
	CheckpointedAt time.Time `json:"checkpointedTime"`
	RestoredAt     time.Time `json:"restoredTime"`
	Restored       bool      `json:"restored"`
}

// Container is the part of a checkpoint that CRIU does not write.
type Container struct {
	Config Config
	// Status is any value; its JSON form becomes status.dump.
	Status any
	// Spec is the path of the OCI specification.
	Spec string
	// Log is the container's log; nil if there is none.
	Log *os.File
	// UpperDir is the directory of the container's writable layer.
	UpperDir string
}

// Describe writes all parts of a checkpoint except CRIU's images into dir. The
// container must not write meanwhile. It stops when ctx ends.
func Describe(ctx context.Context, dir string, c Container) error {
	if err := writeJSON(filepath.Join(dir, configFile), c.Config); err != nil {
		return err
	}
	if err := writeJSON(filepath.Join(dir, "status.dump"), c.Status); err != nil {
		return err
	}
	spec, err := os.Open(c.Spec)
	if err != nil {
		return fmt.Errorf("OCI specification: %w", err)
	}
	defer func() { _ = spec.Close() }()
	if err := copyFile(ctx, filepath.Join(dir, specFile), spec); err != nil {
		return fmt.Errorf("OCI specification: %w", err)
	}
	if c.Log != nil {
		if err := copyFile(ctx, filepath.Join(dir, logFile), c.Log); err != nil {
			return fmt.Errorf("log: %w", err)
		}
	}
	diff := func(w io.Writer) error { return writeLayer(ctx, w, c.UpperDir) }
	if err := create(filepath.Join(dir, diffFile), diff); err != nil {
		return fmt.Errorf("writable layer: %w", err)
	}
	return nil
}

// Archive writes the directory of a checkpoint as a tar that only its owner can
// read. It replaces location atomically or leaves it unchanged; location's
// directory must exist. It stops when ctx ends.
func Archive(ctx context.Context, dir, location string) (err error) {
	draft, err := os.CreateTemp(filepath.Dir(location), ".checkpoint-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(draft.Name()))
		}
	}()
	t := tar.NewWriter(&writer{ctx, draft})
	err = errors.Join(t.AddFS(os.DirFS(dir)), t.Close(), draft.Sync(), draft.Close())
	if err != nil {
		return err
	}
	return os.Rename(draft.Name(), location)
}

func writeJSON(path string, v any) error {
	return create(path, func(w io.Writer) error { return json.NewEncoder(w).Encode(v) })
}

// copyFile copies a file up to its current size; the file may be growing.
func copyFile(ctx context.Context, to string, in *os.File) error {
	info, err := in.Stat()
	if err != nil {
		return err
	}
	return create(to, func(w io.Writer) error {
		_, err := io.Copy(&writer{ctx, w}, io.LimitReader(in, info.Size()))
		return err
	})
}

func create(path string, write func(io.Writer) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // a fixed name in a new directory of root's
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

// writer writes until its context ends.
type writer struct {
	ctx context.Context // of one copy
	w   io.Writer
}

func (w *writer) Write(p []byte) (int, error) {
	if err := context.Cause(w.ctx); err != nil {
		return 0, err
	}
	return w.w.Write(p)
}
