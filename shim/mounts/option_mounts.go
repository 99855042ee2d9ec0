package mounts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"sync"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	specs "tags.cncf.io/container-device-interface/specs-go"

	"github.com/cridock/cridock/internal/beneath"
	"github.com/cridock/cridock/shim/engine"
	"github.com/cridock/cridock/translate"
)

// mountKind is the CDI kind of the devices that represent mounts with options.
// dockerd crashes on a vendor or class of one character.
const mountKind = "cridock.io/mounts"

// SpecDir returns the directory from which dockerd reads generated CDI
// specifications (by CDI's convention the last one), and creates it. It returns ""
// if there is none that can be written to: then mounts cannot have mount_options. c
// may be nil.
func SpecDir(c *engine.Capabilities) string {
	if c == nil || len(c.CDISpecDirs) == 0 {
		return ""
	}
	dir := c.CDISpecDirs[len(c.CDISpecDirs)-1]
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // the directory of all vendors, which programs without root read too
		klog.ErrorS(err, "Cannot create the directory for CDI specifications: mounts cannot have mount_options", "dir", dir)
		return ""
	}
	return dir
}

// addOptionMounts writes a CDI device for each mount with mount_options. If the
// engine has no CDI it does nothing, and the translation rejects such mounts. name
// is the container's Docker name.
func (m *Preparer) addOptionMounts(mounts []*runtimeapi.Mount, resolved []translate.ResolvedMount, handler, name string) error {
	h := m.o.Host()
	if !h.MountOptions {
		return nil
	}
	owner := translate.ShortHash(name)
	var devices []specs.Device
	for i, mount := range mounts {
		edit, err := translate.CDIMount(fmt.Sprintf("mounts[%d]", i), mount, resolved[i].Source, handler, h)
		if err != nil {
			return err
		}
		if edit == nil {
			continue
		}
		device := fmt.Sprintf("%s-%d", owner, i)
		devices = append(devices, specs.Device{Name: device, ContainerEdits: specs.ContainerEdits{Mounts: []*specs.Mount{edit}}})
		resolved[i].CDIDevice = mountKind + "=" + device
	}
	if len(devices) == 0 {
		return nil
	}
	if err := m.specs.write(owner, devices); err != nil {
		return fmt.Errorf("mount_options: CDI specification: %w", err)
	}
	return nil
}

// specFiles are the CDI specifications of mounts with options: one file for each
// container that has any, which dockerd reads when the container starts. The file
// name has the owner, the hash of the container's Docker name.
type specFiles struct {
	prefix  string              // of this cridock's file names
	dir     func() beneath.Root // where dockerd reads them; "" for nowhere
	written sync.Map            // owners that this process has written for
}

// name returns the file name of an owner's specification.
func (s *specFiles) name(owner string) string { return s.prefix + owner + ".json" }

// write writes the specification of an owner's devices.
func (s *specFiles) write(owner string, devices []specs.Device) error {
	s.written.Store(owner, nil)
	spec := specs.Spec{Kind: mountKind, Devices: devices}
	// dockerd drops the whole file if its version is too low for its content, or
	// higher than dockerd knows. A device name that begins with a digit, as most
	// owners' do, raises the minimum.
	var err error
	if spec.Version, err = specs.MinimumRequiredVersion(&spec); err != nil {
		return err
	}
	content, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	// WriteFile's draft has another extension, so dockerd never reads half a file.
	return s.dir().WriteFile(s.name(owner), content, 0o644)
}

// remove removes an owner's specification; a missing one is success.
func (s *specFiles) remove(owner string) error {
	dir := s.dir()
	if dir == "" {
		return nil
	}
	return removeSpec(dir, s.name(owner))
}

func removeSpec(dir beneath.Root, file string) error {
	if err := dir.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("CDI specification of mounts: %w", err)
	}
	return nil
}

// sweep removes the specifications of owners that live does not return, unless this
// process has written them.
func (s *specFiles) sweep(ctx context.Context, live func(context.Context) (map[string]bool, error)) error {
	dir := s.dir()
	if dir == "" {
		return nil
	}
	// List files before owners, so that new files are not considered.
	files, err := dir.Names(".")
	if err != nil {
		return fmt.Errorf("CDI specifications of mounts: %w", err)
	}
	owners, err := live(ctx)
	if err != nil {
		return fmt.Errorf("CDI specifications of mounts: %w", err)
	}
	var errs []error
	for _, file := range files {
		// This also matches drafts that a killed process left.
		rest, ours := strings.CutPrefix(file, s.prefix)
		owner, _, _ := strings.Cut(rest, ".")
		if !ours || !translate.IsShortHash(owner) {
			continue
		}
		if _, written := s.written.Load(owner); !written && !owners[owner] {
			errs = append(errs, removeSpec(dir, file))
		}
	}
	return errors.Join(errs...)
}
