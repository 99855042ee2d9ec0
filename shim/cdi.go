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

// mountKind is the CDI kind of the devices that stand for mounts with options.
// dockerd crashes on a vendor or class of one character.
const mountKind = "cridock.io/mounts"

// mountSpecDir is where dockerd looks for CDI specifications that programs make;
// "" if there is none to write to. By CDI's convention it is the last one.
func mountSpecDir(c *engine.Capabilities) string {
	if c == nil || len(c.CDISpecDirs) == 0 {
		return ""
	}
	dir := c.CDISpecDirs[len(c.CDISpecDirs)-1]
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // the directory of all vendors, which programs without root read too
		klog.ErrorS(err, "No directory for CDI specifications: mounts cannot have mount_options", "dir", dir)
		return ""
	}
	return dir
}

// mountSpecPrefix begins the names of this cridock's specifications: another one
// on the node has another root directory.
func (s *Service) mountSpecPrefix() string { return "cridock-" + shortHash(s.cfg.RootDir) + "-" }

// mountSpec is the name of a container's specification in a directory of
// specifications, by Docker's name of the container. dockerd reads it when the
// container starts.
func (s *Service) mountSpec(owner string) string { return s.mountSpecPrefix() + owner + ".json" }

// addOptionMounts makes a CDI device of each mount with mount_options, until
// releaseMounts. Where the engine has no CDI it leaves the refusal to the
// translation. name is Docker's of the container.
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
	// Too low a version for what it has makes dockerd drop the whole file; too
	// high a one as well, if dockerd is older. A name that begins with a digit,
	// as most owners' do, is among what counts.
	var err error
	if spec.Version, err = specs.MinimumRequiredVersion(&spec); err != nil {
		return fmt.Errorf("mount_options: CDI specification: %w", err)
	}
	content, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	// A draft's name has another ending, so dockerd never reads half.
	dir := beneath.Root(mountSpecDir(s.engine.Capabilities()))
	if err := dir.WriteFile(s.mountSpec(owner), content, 0o644); err != nil {
		return fmt.Errorf("mount_options: CDI specification: %w", err)
	}
	return nil
}

// removeMountSpec removes the specification of a container; none is success.
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

// collectMountSpecs removes the specifications of containers that went while no
// cridock was there.
func (s *Service) collectMountSpecs(ctx context.Context) error {
	dir := beneath.Root(mountSpecDir(s.engine.Capabilities()))
	if dir == "" {
		return nil
	}
	// Those first, the containers then: what is made from now on is not looked at.
	files, err := dir.Names(".")
	if err != nil {
		return err
	}
	live, err := s.mountOwners(ctx)
	if err != nil {
		return err
	}
	for _, file := range files {
		// Also the drafts of a process that was killed.
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

// resolveCDI finds what the CDI devices of a container stand for; nil if there
// are none. Where the engine injects them, only their environment is needed,
// which the engine would keep from exec sessions, and that they exist, which it
// would find out at the start.
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
			// What all devices of a specification need comes once, and first.
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

// appendEdits adds a part of a CDI device, for an engine without CDI.
func appendEdits(ctx context.Context, edits *translate.CDIEdits, device string, part *specs.ContainerEdits) error {
	without, err := edits.Append(device, part)
	if len(without) > 0 {
		klog.FromContext(ctx).Info("Mounts of a CDI device lack options that Docker does not have", "device", device, "options", without)
	}
	return err
}
