package shim

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/internal/undo"
	"github.com/cridock/cridock/shim/state"
	"github.com/cridock/cridock/translate"
)

const resolvConf = "/etc/resolv.conf"

// RunPodSandbox creates a sandbox and its network. A repeated call with the same
// metadata returns the existing sandbox if it is ready, and replaces one that an
// interrupted call has left. On failure nothing remains, except a sandbox whose
// network could not be released.
func (s *Service) RunPodSandbox(ctx context.Context, r *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	if err := translate.ValidateSandboxConfig(r.GetConfig()); err != nil {
		return nil, err
	}
	if err := s.index.Ready(ctx); err != nil {
		return nil, err
	}
	id, err := withLock(ctx, s, podKey(r.GetConfig().GetMetadata()), func(ctx context.Context) (string, error) {
		return s.runSandbox(ctx, r)
	})
	if err != nil {
		return nil, err
	}
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: id}, nil
}

func (s *Service) runSandbox(ctx context.Context, r *runtimeapi.RunPodSandboxRequest) (id string, err error) {
	undo := undo.Stack{}
	defer undo.Run(ctx, &err)

	create, err := s.sandboxSpec(ctx, r, &undo)
	if err != nil {
		return "", err
	}
	id, existing, err := s.names.create(ctx, create, s.names.settleSandbox)
	if err != nil || existing {
		return id, err
	}
	start := &sandboxStart{s: s, create: create, cfg: r.GetConfig(), id: id} // a return sets id before the undo steps below run
	// This also removes the directory of a sandbox that this call has replaced.
	undo.Push(func(context.Context) error { return s.sandboxDir(r.GetConfig().GetMetadata()).RemoveAll() })
	undo.Push(func(ctx context.Context) error { return s.discardSandbox(ctx, start.id, start.sandbox) })
	if err := start.run(ctx); err != nil {
		return "", err
	}
	sb, err := s.index.Sandbox(ctx, id)
	if err != nil {
		return "", err
	}
	if !s.networks.Ready(sb) {
		return "", fmt.Errorf("sandbox %s exited during its setup: %w", id, errdefs.ErrAborted)
	}
	s.index.Announce(id)
	return id, nil
}

// discardSandbox removes a sandbox that could not be completed; sb is nil if its
// network setup has not begun. If the network cannot be released it keeps the
// sandbox, stopped, so that StopPodSandbox tries again: otherwise nobody would.
func (s *Service) discardSandbox(ctx context.Context, id string, sb *translate.Sandbox) error {
	if sb == nil {
		return s.names.remove(ctx, id)
	}
	released, err := s.networks.Undo(ctx, sb)
	if !released {
		// It may have been started since sb was read.
		err = errors.Join(err, s.index.Sync(ctx, id))
		if now, indexErr := s.index.Sandbox(ctx, id); indexErr == nil {
			sb = now
		}
		return errors.Join(err, s.killSandbox(ctx, sb))
	}
	return errors.Join(err, s.names.remove(ctx, id))
}

// sandboxSpec creates the sandbox's files and returns the request for its
// container.
func (s *Service) sandboxSpec(ctx context.Context, r *runtimeapi.RunPodSandboxRequest, undo *undo.Stack) (*translate.Create, error) {
	cfg := r.GetConfig()
	imageID, err := s.images.pause.Ensure(ctx)
	if err != nil {
		return nil, err
	}
	profile, err := sandboxProfiles(cfg.GetLinux().GetSecurityContext(), s.cfg.SeccompDefaultProfile)
	if err != nil {
		return nil, err
	}
	req := translate.SandboxRequest{
		Config: cfg, RuntimeHandler: r.GetRuntimeHandler(), ImageID: imageID,
		ResolvConf: s.sandboxDir(cfg.GetMetadata()).Path(state.ResolvConf),
		Network:    s.cfg.DockerNetwork, SeccompProfile: profile, EarlyNetwork: s.cfg.EarlyNetwork,
	}
	content, err := s.resolvConfFor(cfg)
	if err != nil {
		return nil, err
	}
	if content == nil {
		req.ResolvConf = ""
	}
	create, err := translate.DockerSandbox(req, s.Host())
	if err != nil {
		return nil, err
	}
	if err := s.networks.Validate(cfg); err != nil {
		return nil, err
	}
	return create, s.makeSandboxDir(ctx, cfg, content, undo)
}

// resolvConfFor returns the content of the pod's resolv.conf: what the kubelet
// requested, or else the node's own; nil to leave it to Docker.
func (s *Service) resolvConfFor(cfg *runtimeapi.PodSandboxConfig) ([]byte, error) {
	if content := translate.ResolvConf(cfg.GetDnsConfig()); content != nil {
		return content, nil
	}
	if !s.networks.CNI() {
		return nil, nil // Docker's networks have a resolver of their own
	}
	content, err := os.ReadFile(resolvConf)
	if errors.Is(err, os.ErrNotExist) {
		return []byte{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("dns_config is empty and the node's cannot be read: %w", err)
	}
	return content, nil
}

func (s *Service) makeSandboxDir(ctx context.Context, cfg *runtimeapi.PodSandboxConfig, resolv []byte, undo *undo.Stack) error {
	dir := s.sandboxDir(cfg.GetMetadata())
	created, err := dir.Create()
	if err != nil {
		return fmt.Errorf("create the sandbox's directory: %w", err)
	}
	// An existing one may be in use by the sandbox that this call repeats.
	if created {
		undo.Push(func(context.Context) error { return dir.RemoveAll() })
	}
	if resolv != nil {
		// Containers of any user must be able to read it.
		if err := dir.Write(state.ResolvConf, resolv, 0o644); err != nil {
			return fmt.Errorf("resolv.conf of the sandbox: %w", err)
		}
	}
	if err := s.logs.MakeDir(ctx, cfg); err != nil {
		return fmt.Errorf("log_directory: %w", err)
	}
	return nil
}
