package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	"tags.cncf.io/container-device-interface/pkg/cdi"
	specs "tags.cncf.io/container-device-interface/specs-go"

	"github.com/cridock/cridock/internal/beneath"
	"github.com/cridock/cridock/shim/engine"
	"github.com/cridock/cridock/translate"
)

// mountKind is the CDI kind of the devices that represent mounts with options.
// dockerd crashes on a vendor or class of one character.
const mountKind = "cridock.io/mounts"

// mountSpecDir returns the directory from which dockerd reads generated CDI
// specifications (by CDI's convention the last one), or "" if there is none that
// can be written to.
func mountSpecDir(c *engine.Capabilities) string {
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

// mountSpecPrefix is the file name prefix of this cridock's specifications;
// another cridock on the node has another root directory and so another prefix.
func (s *Service) mountSpecPrefix() string { return "cridock-" + shortHash(s.cfg.RootDir) + "-" }

// mountSpec returns the file name of a container's specification. owner is the
// hash of the container's Docker name. dockerd reads the file when the container
// starts.
func (s *Service) mountSpec(owner string) string { return s.mountSpecPrefix() + owner + ".json" }

// addOptionMounts writes a CDI device for each mount with mount_options;
// releaseMounts removes them. If the engine has no CDI it does nothing, and the
// translation rejects such mounts. name is the container's Docker name.
func (s *Service) addOptionMounts(mounts []*runtimeapi.Mount, resolved []translate.ResolvedMount, handler, name string) error {
	h := s.Host()
	if !h.MountOptions {
		return nil
	}
	owner := shortHash(name)
	spec := specs.Spec{Kind: mountKind}
	for i, m := range mounts {
		edit, err := translate.CDIMount(fmt.Sprintf("mounts[%d]", i), m, resolved[i].Source, handler, h)
		if err != nil {
			return err
		}
		if edit == nil {
			continue
		}
		device := fmt.Sprintf("%s-%d", owner, i)
		spec.Devices = append(spec.Devices, specs.Device{Name: device, ContainerEdits: specs.ContainerEdits{Mounts: []*specs.Mount{edit}}})
		resolved[i].CDIDevice = mountKind + "=" + device
	}
	if len(spec.Devices) == 0 {
		return nil
	}
	s.specs.Store(owner, nil)
	// dockerd drops the whole file if its version is too low for its content, or
	// higher than dockerd knows. A device name that begins with a digit, as most
	// owners' do, raises the minimum.
	var err error
	if spec.Version, err = specs.MinimumRequiredVersion(&spec); err != nil {
		return fmt.Errorf("mount_options: CDI specification: %w", err)
	}
	content, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	// WriteFile's draft has another extension, so dockerd never reads half a file.
	dir := beneath.Root(mountSpecDir(s.engine.Capabilities()))
	if err := dir.WriteFile(s.mountSpec(owner), content, 0o644); err != nil {
		return fmt.Errorf("mount_options: CDI specification: %w", err)
	}
	return nil
}

// removeMountSpec removes a container's specification; a missing one is success.
func (s *Service) removeMountSpec(owner string) error {
	dir := beneath.Root(mountSpecDir(s.engine.Capabilities()))
	if dir == "" {
		return nil
	}
	if err := dir.Remove(s.mountSpec(owner)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("CDI specification of mounts: %w", err)
	}
	return nil
}

// collectMountSpecs removes the specifications of containers that were removed
// while cridock was not running.
func (s *Service) collectMountSpecs(ctx context.Context) error {
	dir := beneath.Root(mountSpecDir(s.engine.Capabilities()))
	if dir == "" {
		return nil
	}
	// List files before containers, so that new files are not considered.
	files, err := dir.Names(".")
	if err != nil {
		return err
	}
	live, err := s.mountOwners(ctx)
	if err != nil {
		return err
	}
	for _, file := range files {
		// This also matches drafts that a killed process left.
		owner, _, _ := strings.Cut(strings.TrimPrefix(file, s.mountSpecPrefix()), ".")
		if !strings.HasPrefix(file, s.mountSpecPrefix()) || !isShortHash(owner) {
			continue
		}
		if _, ours := s.specs.Load(owner); !ours && !live[owner] {
			if rerr := dir.Remove(file); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
				err = errors.Join(err, fmt.Errorf("CDI specification of mounts: %w", rerr))
			}
		}
	}
	return err
}

// resolveCDI returns the edits of a container's CDI devices; nil if it has none.
// If the engine injects them, the edits have only their environment, which exec
// sessions would otherwise lack. A missing device is an error now rather than at
// the start.
func (s *Service) resolveCDI(ctx context.Context, cfg *runtimeapi.ContainerConfig) (*translate.CDIEdits, error) {
	names, err := translate.CDIDevices(cfg)
	if err != nil || len(names) == 0 {
		return nil, err
	}
	dirs, injects := s.cfg.CDISpecDirs, s.Host().CDI
	if injects {
		dirs = s.engine.Capabilities().CDISpecDirs
	}
	cache, err := cdi.NewCache(cdi.WithSpecDirs(dirs...), cdi.WithAutoRefresh(false))
	if err != nil {
		return nil, fmt.Errorf("CDI specifications: %w", err)
	}
	edits := &translate.CDIEdits{}
	used := map[*cdi.Spec]bool{}
	for _, name := range names {
		device := cache.GetDevice(name)
		if device == nil {
			return nil, fmt.Errorf("CDI device %s: %w: in no valid specification in %q", name, errdefs.ErrFailedPrecondition, dirs)
		}
		parts := []*specs.ContainerEdits{&device.ContainerEdits}
		if spec := device.GetSpec(); !used[spec] {
			// The edits common to a specification's devices come first, and once.
			used[spec] = true
			parts = append([]*specs.ContainerEdits{&spec.ContainerEdits}, parts...)
		}
		for _, part := range parts {
			if injects {
				edits.Env = append(edits.Env, part.Env...)
				continue
			}
			if err := appendEdits(ctx, edits, name, part); err != nil {
				return nil, err
			}
		}
	}
	return edits, nil
}

// appendEdits adds part of a CDI device to edits, for an engine without CDI.
func appendEdits(ctx context.Context, edits *translate.CDIEdits, device string, part *specs.ContainerEdits) error {
	without, err := edits.Append(device, part)
	if len(without) > 0 {
		klog.FromContext(ctx).Info("Docker does not support some mount options of a CDI device; mounting without them", "device", device, "options", without)
	}
	return err
}
