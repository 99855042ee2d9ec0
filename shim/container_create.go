package shim

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/internal/undo"
	"github.com/cridock/cridock/shim/index"
	"github.com/cridock/cridock/translate"
)

// CreateContainer creates a container in a ready sandbox. A repeated call with
// the same request returns the existing container.
func (s *Service) CreateContainer(ctx context.Context, r *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	if err := translate.ValidateContainerConfig(r.GetConfig()); err != nil {
		return nil, err
	}
	sb, err := s.index.Sandbox(ctx, r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	id, err := withPlugins(ctx, s, podKey(sb.Metadata), func(ctx context.Context) (string, error) {
		return s.createContainer(ctx, r, sb.ID)
	})
	if err != nil {
		return nil, err
	}
	return &runtimeapi.CreateContainerResponse{ContainerId: id}, nil
}

func (s *Service) createContainer(ctx context.Context, r *runtimeapi.CreateContainerRequest, sandboxID string) (id string, err error) {
	ctx = index.All(ctx)
	sb, err := s.index.Sandbox(ctx, sandboxID)
	if err != nil {
		return "", err
	}
	if !s.networks.Ready(sb) {
		return "", fmt.Errorf("sandbox %s is not ready: %w", sb.ID, errdefs.ErrFailedPrecondition)
	}
	undo := undo.Stack{}
	// Nobody sees a container that is undone.
	defer s.plugins.conceal(translate.ContainerName(r.GetConfig().GetMetadata(), sb.Metadata))()
	defer undo.Run(ctx, &err)
	job := &containerJob{request: r, sandbox: sb, dir: s.sandboxDir(sb.Metadata), undo: &undo}
	if job.restore, job.image, err = s.restores.find(ctx, r.GetConfig().GetImage().GetImage()); err != nil {
		return "", err
	}
	defer job.restore.close()
	create, err := s.containerSpec(ctx, job, r.GetConfig(), nil)
	if err != nil {
		return "", err
	}
	id, existing, err := s.names.create(ctx, create, s.restores.settle(job.restore, s.plugins.settle(s.names.settleContainer(create))))
	if err != nil {
		return id, err
	}
	if existing {
		if s.plugins.kept(id) {
			return id, nil
		}
		// The call that created it may have been interrupted before this step.
		return id, s.userns.recordContainer(ctx, create, id, sb)
	}
	made := &creation{id: id, create: create}
	undo.Push(func(ctx context.Context) error {
		s.plugins.gone(ctx, made)
		return s.names.remove(ctx, made.id)
	})
	if err := s.index.Sync(ctx, id); err != nil {
		return id, err
	}
	if err := s.plugins.adjust(ctx, made, job); err != nil {
		return id, err
	}
	if err := s.userns.recordContainer(ctx, made.create, made.id, sb); err != nil {
		return id, err
	}
	if err := s.mounts.Relabel(ctx, made.id); err != nil {
		return id, err
	}
	if err := s.restores.fill(ctx, made.id, job); err != nil {
		return made.id, err
	}
	if err := job.keepVolumes(made.create); err != nil {
		return id, err
	}
	return made.id, s.plugins.created(ctx, made)
}

// containerSpec gathers what the translation needs from the node and the engine,
// creates what the container mounts, and translates the request, with its configuration
// replaced by cfg, and adjusted.
func (s *Service) containerSpec(ctx context.Context, job *containerJob, cfg *runtimeapi.ContainerConfig, adjustment *translate.Adjustment) (*translate.Create, error) {
	sb := job.sandbox
	security := cfg.GetLinux().GetSecurityContext()
	req := translate.ContainerRequest{
		Config: cfg, SandboxConfig: job.request.GetSandboxConfig(), Sandbox: sb, Image: job.image, Adjustment: adjustment, Restored: job.restore != nil,
	}
	name := translate.ContainerName(cfg.GetMetadata(), sb.Metadata)
	job.undo.Push(func(ctx context.Context) error { return s.mounts.Release(ctx, name) })
	resolved, err := s.mounts.Resolve(ctx, cfg, sb.RuntimeHandler, name)
	if err != nil {
		return nil, err
	}
	req.Mounts, req.CDI, req.Devices = resolved.Mounts, resolved.CDI, resolved.Devices
	if req.VolumeDirs, err = job.makeVolumes(job.image, s.Host(), s.engine.Capabilities()); err != nil {
		return nil, err
	}
	if req.SeccompProfile, err = containerProfiles(security, s.cfg.SeccompDefaultProfile); err != nil {
		return nil, err
	}
	if req.User, err = s.images.accounts.User(ctx, security, job.image); err != nil {
		return nil, err
	}
	if err := s.checkTargetPID(ctx, security.GetNamespaceOptions(), sb); err != nil {
		return nil, err
	}
	create, err := translate.DockerContainer(req, s.Host())
	if err != nil {
		return nil, err
	}
	return create, job.restore.check(cfg, create)
}

// image finds an image on the node. A missing one is NotFound: pulling is the
// kubelet's decision.
func (s *Service) image(ctx context.Context, ref string) (translate.Image, error) {
	image, ok, err := s.index.Image(ctx, ref)
	if err == nil && !ok {
		err = fmt.Errorf("image %q: %w; pull it first", ref, errdefs.ErrNotFound)
	}
	return image, err
}

// checkTargetPID ensures that a container shares the PID namespace only of a
// running container of its own pod.
func (s *Service) checkTargetPID(ctx context.Context, ns *runtimeapi.NamespaceOption, sb *translate.Sandbox) error {
	if ns.GetPid() != runtimeapi.NamespaceMode_TARGET {
		return nil
	}
	target, err := s.index.Container(ctx, ns.GetTargetId())
	if err != nil {
		return fmt.Errorf("namespace_options.target_id: %w", err)
	}
	if target.SandboxID != sb.ID || target.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return fmt.Errorf("namespace_options.target_id: %w: container %s is not running in sandbox %s", errdefs.ErrFailedPrecondition, target.ID, sb.ID)
	}
	return nil
}
