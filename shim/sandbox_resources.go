package shim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/shim/state"
	"github.com/cridock/cridock/translate"
)

// UpdatePodSandboxResources stores a pod's resources and overhead for the verbose
// PodSandboxStatus. It sets no limits: the kubelet owns the pod's cgroup. An
// unknown ID is NotFound.
func (s *Service) UpdatePodSandboxResources(ctx context.Context, r *runtimeapi.UpdatePodSandboxResourcesRequest) (*runtimeapi.UpdatePodSandboxResourcesResponse, error) {
	sb, err := s.index.Sandbox(ctx, r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	unlock, err := s.locks.Lock(ctx, podKey(sb.Metadata))
	if err != nil {
		return nil, err
	}
	defer unlock()
	// The sandbox may have been removed during the wait for the lock.
	if sb, err = s.index.Sandbox(ctx, sb.ID); err != nil {
		return nil, err
	}
	if err := s.keepSandboxUpdate(sb, r); err != nil {
		return nil, fmt.Errorf("resources of sandbox %s: %w", sb.ID, err)
	}
	return &runtimeapi.UpdatePodSandboxResourcesResponse{}, nil
}

// keepSandboxUpdate merges an update into the stored one.
func (s *Service) keepSandboxUpdate(sb *translate.Sandbox, r *runtimeapi.UpdatePodSandboxResourcesRequest) error {
	kept, err := s.sandboxUpdate(sb)
	if err != nil {
		return err
	}
	if kept == nil {
		kept = &runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: sb.ID}
	}
	if r.GetOverhead() != nil {
		kept.Overhead = r.GetOverhead()
	}
	if r.GetResources() != nil {
		kept.Resources = r.GetResources()
	}
	b, err := protojson.Marshal(kept)
	if err != nil {
		return err
	}
	return s.sandboxDir(sb.Metadata).Write(state.Resources, b, 0o600)
}

// sandboxUpdate returns the merged updates of a sandbox; nil if there was none.
func (s *Service) sandboxUpdate(sb *translate.Sandbox) (*runtimeapi.UpdatePodSandboxResourcesRequest, error) {
	dir := s.sandboxDir(sb.Metadata)
	b, err := dir.Read(state.Resources)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	kept := &runtimeapi.UpdatePodSandboxResourcesRequest{}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, kept); err != nil {
		return nil, fmt.Errorf("%s: %w", dir.Path(state.Resources), err)
	}
	if kept.PodSandboxId != sb.ID {
		return nil, nil // of an earlier sandbox with this name
	}
	return kept, nil
}

// updatedConfig returns a sandbox's configuration with its updates applied; nil for
// a sandbox of another adapter without updates.
func (s *Service) updatedConfig(sb *translate.Sandbox) (*runtimeapi.PodSandboxConfig, error) {
	update, err := s.sandboxUpdate(sb)
	if err != nil || update == nil {
		return sb.Config, err
	}
	cfg := proto.CloneOf(sb.KnownConfig())
	if cfg.Linux == nil {
		cfg.Linux = &runtimeapi.LinuxPodSandboxConfig{}
	}
	if update.Overhead != nil {
		cfg.Linux.Overhead = update.Overhead
	}
	if update.Resources != nil {
		cfg.Linux.Resources = update.Resources
	}
	return cfg, nil
}
