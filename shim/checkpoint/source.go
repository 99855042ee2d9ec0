package checkpoint

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/cridock/cridock/internal/beneath"
)

// The files of a checkpoint that a restore uses. CRI-O's rootfs-diff.tar has no
// whiteouts, but deleted.files; its log has another name.
const (
	configFile  = "config.dump"
	specFile    = "spec.dump"
	logFile     = "container.log"
	diffFile    = "rootfs-diff.tar"
	deletedFile = "deleted.files"
	crioLogFile = "io.kubernetes.cri-o.LogPath"
)

// Bounds of a checkpoint whose author is not trusted.
const (
	maxDocument = 16 << 20 // bytes of a JSON document
	maxImages   = 100_000  // CRIU's files
	maxEntries  = 2_000_000
	maxBytes    = 1 << 38 // of everything together, uncompressed
)

// Source calls use with each file of a checkpoint that a restore uses, under its clean
// name, until that fails. The order is any, but no name comes twice. Nothing in the
// files is trusted.
type Source func(use func(name string, content io.Reader) error) error

// wanted reports whether a restore uses a file.
func wanted(name string) bool {
	switch name {
	case configFile, specFile, logFile, crioLogFile, diffFile, deletedFile:
		return true
	}
	return path.Dir(name) == Images
}

// Tar returns the checkpoint in an archive, which each use reads from its beginning.
func Tar(archive *os.File) Source {
	return func(use func(string, io.Reader) error) error {
		if _, err := archive.Seek(0, io.SeekStart); err != nil {
			return err
		}
		seen := map[string]bool{}
		for r, n := tar.NewReader(archive), 0; ; n++ {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("checkpoint archive: %w: %w", errdefs.ErrFailedPrecondition, err)
			}
			name := path.Clean(strings.TrimLeft(h.Name, "/"))
			switch {
			case n >= maxImages || seen[name]:
				return refused(name, "too many files, or one of them twice")
			case h.Typeflag == tar.TypeDir || !wanted(name):
				continue
			case h.Typeflag != tar.TypeReg:
				return refused(name, "is not a regular file")
			}
			seen[name] = true
			if err := use(name, r); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
}

// Dir returns the checkpoint in a directory, such as the root of an image.
func Dir(root beneath.Root) Source {
	return func(use func(string, io.Reader) error) error {
		names := []string{configFile, specFile, logFile, crioLogFile, diffFile, deletedFile}
		images, err := root.Names(Images)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if len(images) > maxImages {
			return refused(Images, "too many files")
		}
		for _, name := range images {
			names = append(names, Images+"/"+name)
		}
		for _, name := range names {
			f, err := root.Open(name)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			if err := errors.Join(use(name, f), f.Close()); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		return nil
	}
}

// Description is what a checkpoint says about its container.
type Description struct {
	Config Config
	// Binds are where the container has mounts of files of the node, besides those that
	// every container of Docker has.
	Binds []string
}

// errStop ends the use of a source early.
var errStop = errors.New("stop")

// Describe reads the description. A checkpoint without one is ErrFailedPrecondition.
func (s Source) Describe() (*Description, error) {
	var d Description
	var spec struct {
		Mounts []struct {
			Destination string   `json:"destination"`
			Type        string   `json:"type"`
			Options     []string `json:"options"`
		} `json:"mounts"`
	}
	missing := map[string]any{configFile: &d.Config, specFile: &spec}
	err := s(func(name string, content io.Reader) error {
		document, ok := missing[name]
		if !ok {
			return nil
		}
		delete(missing, name)
		if err := decode(content, document); err != nil {
			return err
		}
		if len(missing) == 0 {
			return errStop
		}
		return nil
	})
	if err != nil && !errors.Is(err, errStop) {
		return nil, err
	}
	for name := range missing {
		return nil, fmt.Errorf("no checkpoint: %w: it has no %s", errdefs.ErrFailedPrecondition, name)
	}
	for _, m := range spec.Mounts {
		if isBind(m.Type, m.Options) && !ordinaryMounts[path.Clean(m.Destination)] {
			d.Binds = append(d.Binds, path.Clean(m.Destination))
		}
	}
	return &d, nil
}

// ordinaryMounts are made in every container by Docker, as mounts of the node's files or
// otherwise. CRI-O makes others too.
var ordinaryMounts = map[string]bool{
	"/proc": true, "/dev": true, "/dev/pts": true, "/dev/mqueue": true, "/dev/shm": true, "/sys": true, "/sys/fs/cgroup": true,
	"/etc/resolv.conf": true, "/etc/hostname": true, "/etc/hosts": true,
}

// IsOrdinaryMount reports whether a path is one of those at which Docker makes mounts in
// every container.
func IsOrdinaryMount(path string) bool { return ordinaryMounts[path] }

func isBind(kind string, options []string) bool {
	for _, o := range options {
		if o == "bind" || o == "rbind" {
			return true
		}
	}
	return kind == "bind"
}

func decode(r io.Reader, into any) error {
	b, err := io.ReadAll(io.LimitReader(r, maxDocument+1))
	if err != nil {
		return err
	}
	if len(b) > maxDocument {
		return fmt.Errorf("%w: more than %d bytes", errdefs.ErrFailedPrecondition, maxDocument)
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("%w: %w", errdefs.ErrFailedPrecondition, err)
	}
	return nil
}

func refused(name, reason string) error {
	return fmt.Errorf("%q in the checkpoint: %w: %s", name, errdefs.ErrFailedPrecondition, reason)
}

// Target is the container that a checkpoint is restored into; it has not been started.
type Target struct {
	// Images is an empty directory for CRIU's images.
	Images string
	// Files is the root of the container's file system.
	Files beneath.Root
	// Log takes the container's log.
	Log func(io.Reader) error
}

// Restore writes a checkpoint's parts to where they belong. On failure, or if ctx ends,
// a part of them has been written.
func (s Source) Restore(ctx context.Context, t Target) error {
	left := int64(maxBytes)
	var deleted []string
	images := 0
	err := s(func(name string, content io.Reader) error {
		content = &bounded{ctx, content, &left}
		switch name {
		case configFile, specFile:
			return nil
		case logFile, crioLogFile:
			return t.Log(content)
		case diffFile:
			return applyDiff(ctx, t.Files, content, &left)
		case deletedFile:
			return decode(content, &deleted)
		}
		images++
		return create(filepath.Join(t.Images, path.Base(name)), func(w io.Writer) error {
			_, err := io.Copy(w, content)
			return err
		})
	})
	switch {
	case err != nil:
		return err
	case images == 0:
		return fmt.Errorf("no checkpoint: %w: it has no files of CRIU", errdefs.ErrFailedPrecondition)
	}
	return removeDeleted(t.Files, deleted)
}

// bounded reads until its context ends, or the number of bytes left is used up.
type bounded struct {
	ctx  context.Context // of one restore
	r    io.Reader
	left *int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if err := context.Cause(b.ctx); err != nil {
		return 0, err
	}
	if *b.left <= 0 {
		return 0, fmt.Errorf("checkpoint: %w: more than %d bytes", errdefs.ErrFailedPrecondition, int64(maxBytes))
	}
	n, err := b.r.Read(p[:min(int64(len(p)), *b.left)])
	*b.left -= int64(n)
	return n, err
}
