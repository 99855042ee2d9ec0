package mounts

import (
	"context"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	"tags.cncf.io/container-device-interface/pkg/cdi"
	specs "tags.cncf.io/container-device-interface/specs-go"

	"github.com/cridock/cridock/internal/seam"
	"github.com/cridock/cridock/internal/trust"
	"github.com/cridock/cridock/translate"
)

// cdiEdits returns the edits of a container's CDI devices; nil if it has none.
// If the engine injects them, the edits have only their environment, which exec
// sessions would otherwise lack. A missing device is an error now rather than at
// the start.
func (m *Preparer) cdiEdits(ctx context.Context, cfg *runtimeapi.ContainerConfig) (*translate.CDIEdits, error) {
	names, err := translate.CDIDevices(cfg)
	if err != nil || len(names) == 0 {
		return nil, err
	}
	dirs, injects := m.o.CDISpecDirs, m.o.Host().CDI
	if injects {
		dirs = m.o.Engine.Capabilities().CDISpecDirs
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
			if err := trustHooks(device.GetSpec().GetPath(), part.Hooks); err != nil {
				return nil, fmt.Errorf("CDI device %s: %w: %w", name, errdefs.ErrFailedPrecondition, err)
			}
			if err := appendEdits(ctx, edits, name, part); err != nil {
				return nil, err
			}
		}
	}
	return edits, nil
}

// trustHooks returns an error if users other than root can change a hook, which runs as
// root of the node, or the specification that has it.
func trustHooks(spec string, hooks []*specs.Hook) error {
	for _, h := range hooks {
		paths := []string{spec}
		if h.HookName != seam.HookInContainer {
			paths = append(paths, h.Path)
		}
		for _, path := range paths {
			if err := trust.Check(path, os.Geteuid()); err != nil {
				return fmt.Errorf("hook %s of %s: %w", h.Path, spec, err)
			}
		}
	}
	return nil
}

// appendEdits adds part of a CDI device to edits, for an engine without CDI.
func appendEdits(ctx context.Context, edits *translate.CDIEdits, device string, part *specs.ContainerEdits) error {
	without, err := edits.Append(device, part)
	if len(without) > 0 {
		klog.FromContext(ctx).Info("Docker does not support some mount options of a CDI device; mounting without them", "device", device, "options", without)
	}
	return err
}
