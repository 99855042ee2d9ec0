package shim

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/network"
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
	undo := undoStack{}
	defer undo.run(ctx, &err)

	create, err := s.sandboxSpec(ctx, r, &undo)
	if err != nil {
		return "", err
	}
	id, existing, err := s.createNamed(ctx, create, s.settleSandbox)
	if err != nil || existing {
		return id, err
	}
	created := id // a return sets id before the undo steps below run
	// This also removes the directory of a sandbox that this call has replaced.
	undo.push(func(context.Context) error { return s.state().RemoveAll(s.sandboxDir(r.GetConfig().GetMetadata())) })
	var sb *translate.Sandbox // set once it may have a network
	undo.push(func(ctx context.Context) error { return s.discardSandbox(ctx, created, sb) })
	if err := s.writeSandboxRecord(create, id); err != nil {
		return "", err
	}
	if err := s.engine.ContainerStart(ctx, id); err != nil {
		return "", fmt.Errorf("start sandbox %s: %w", id, opaque(err))
	}
	if err := s.index.Sync(ctx, id); err != nil {
		return "", err
	}
	if sb, err = s.index.Sandbox(ctx, id); err != nil {
		return "", err
	}
	if err := s.checkSandboxUserns(sb); err != nil {
		return "", err
	}
	if err := s.setupNetwork(ctx, sb, r.GetConfig()); err != nil {
		return "", err
	}
	if sb, err = s.index.Sandbox(ctx, id); err != nil {
		return "", err
	}
	if !s.sandboxReady(sb) {
		return "", fmt.Errorf("sandbox %s exited during its setup: %w", id, errdefs.ErrAborted)
	}
	s.index.Announce(id)
	return id, nil
}

// discardSandbox removes a sandbox that could not be completed; sb is nil if its
// network setup has not begun. If the network cannot be released it keeps the
// sandbox, stopped, so that StopPodSandbox tries again: otherwise nobody would.
func (s *Service) discardSandbox(ctx context.Context, id string, sb *translate.Sandbox) error {
	if sb == nil || s.cni == nil {
		return s.removeObject(ctx, id)
	}
	recorded, err := s.cni.Recorded(id)
	if _, attached := s.cni.Attachment(id); recorded && !attached {
		return s.killSandbox(ctx, sb) // Setup failed, and so did its own DEL
	}
	if err == nil && recorded {
		err = s.releaseAddresses(ctx, sb)
	}
	if err != nil {
		return errors.Join(err, s.killSandbox(ctx, sb))
	}
	return errors.Join(network.UnpinNetNS(s.netnsPath(id)), s.removeObject(ctx, id))
}

// sandboxSpec creates the sandbox's files and returns the request for its
// container.
func (s *Service) sandboxSpec(ctx context.Context, r *runtimeapi.RunPodSandboxRequest, undo *undoStack) (*translate.Create, error) {
	cfg := r.GetConfig()
	imageID, err := s.pauseImage(ctx)
	if err != nil {
		return nil, err
	}
	profile, err := s.sandboxProfiles(cfg.GetLinux().GetSecurityContext())
	if err != nil {
		return nil, err
	}
	req := translate.SandboxRequest{
		Config: cfg, RuntimeHandler: r.GetRuntimeHandler(), ImageID: imageID,
		ResolvConf: s.state().Path(filepath.Join(s.sandboxDir(cfg.GetMetadata()), "resolv.conf")),
		Network:    s.cfg.DockerNetwork, SeccompProfile: profile,
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
	if s.cni != nil {
		// Reject what CNI cannot do before there is anything to undo.
		if _, err := translate.CNIRuntimeConf(cfg, "", ""); err != nil {
			return nil, err
		}
	}
	return create, s.makeSandboxDir(ctx, cfg, content, undo)
}

// resolvConfFor returns the content of the pod's resolv.conf: what the kubelet
// requested, or else the node's own; nil to leave it to Docker.
func (s *Service) resolvConfFor(cfg *runtimeapi.PodSandboxConfig) ([]byte, error) {
	if content := translate.ResolvConf(cfg.GetDnsConfig()); content != nil {
		return content, nil
	}
	if s.cni == nil {
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

func (s *Service) makeSandboxDir(ctx context.Context, cfg *runtimeapi.PodSandboxConfig, resolv []byte, undo *undoStack) error {
	dir := s.sandboxDir(cfg.GetMetadata())
	if err := s.state().MkdirAll(sandboxesDir, 0o755); err != nil {
		return fmt.Errorf("create the sandbox's directory: %w", err)
	}
	switch err := s.state().Mkdir(dir, 0o755); {
	case err == nil:
		undo.push(func(context.Context) error { return s.state().RemoveAll(dir) })
	case !errors.Is(err, os.ErrExist):
		// An existing one may be in use by the sandbox that this call repeats.
		return fmt.Errorf("create the sandbox's directory: %w", err)
	}
	if resolv != nil {
		// Containers of any user must be able to read it.
		if err := s.state().WriteFile(filepath.Join(dir, "resolv.conf"), resolv, 0o644); err != nil {
			return fmt.Errorf("resolv.conf of the sandbox: %w", err)
		}
	}
	if err := s.makeLogDir(ctx, cfg); err != nil {
		return fmt.Errorf("log_directory: %w", err)
	}
	return nil
}

// setupNetwork sets up the network of a started sandbox.
func (s *Service) setupNetwork(ctx context.Context, sb *translate.Sandbox, cfg *runtimeapi.PodSandboxConfig) error {
	if sb.HostNetwork {
		return nil
	}
	if s.cni == nil {
		return s.finishNetwork(ctx, sb, cfg)
	}
	pin := s.netnsPath(sb.ID)
	rt, err := translate.CNIRuntimeConf(cfg, sb.ID, pin)
	if err != nil {
		return err
	}
	s.warnOfHostPorts(ctx, sb, rt)
	if err := network.PinNetNS(sb.Pid, pin); err != nil {
		return fmt.Errorf("network namespace of sandbox %s: %w", sb.ID, err)
	}
	err = traced(ctx, "CNI ADD", func(ctx context.Context) error {
		ctx, cancel := withinDeadline(ctx)
		defer cancel()
		_, err := s.cni.Setup(ctx, rt)
		return err
	})
	if err != nil {
		return fmt.Errorf("network of sandbox %s of pod %s: %w", sb.ID, podName(sb.Metadata), err)
	}
	return s.finishNetwork(ctx, sb, cfg)
}

// warnOfHostPorts logs that no CNI plugin takes a sandbox's host ports. The sandbox
// runs nevertheless, as with containerd and CRI-O: some networks read host ports
// from the API server and publish them on their own.
func (s *Service) warnOfHostPorts(ctx context.Context, sb *translate.Sandbox, rt *libcni.RuntimeConf) {
	ports, asked := rt.CapabilityArgs["portMappings"]
	if !asked {
		return
	}
	if err := s.cni.HostPorts(); err != nil {
		klog.FromContext(ctx).Error(err, "CNI does not publish the host ports of a pod", "pod", podName(sb.Metadata), "sandboxID", sb.ID, "hostPorts", ports)
	}
}

// setInterfaceSysctls sets the sysctls of interfaces, which CNI or Docker has
// created by now, and those that CNI has changed.
func (s *Service) setInterfaceSysctls(sb *translate.Sandbox, cfg *runtimeapi.PodSandboxConfig) error {
	early, late := translate.InterfaceSysctls(cfg.GetLinux().GetSysctls())
	for key, value := range early {
		// CNI's setup enables IPv6, which Docker disables: set the pod's value again.
		if strings.HasSuffix(key, "disable_ipv6") {
			if late == nil {
				late = map[string]string{}
			}
			late[key] = value
		}
	}
	if len(late) == 0 {
		return nil
	}
	if err := network.SetSysctls(s.netnsOf(sb), late); err != nil {
		return fmt.Errorf("linux.sysctls of sandbox %s: %w", sb.ID, err)
	}
	return nil
}

func (s *Service) netnsPath(sandboxID string) string {
	return filepath.Join(s.cfg.NetNSDir, sandboxID)
}

// shortHash returns a hash of any string that is safe as a file name.
func shortHash(v string) string {
	sum := sha256.Sum256([]byte(v))
	return hex.EncodeToString(sum[:10])
}

// isShortHash reports whether a string has the form of a [shortHash].
func isShortHash(v string) bool {
	b, err := hex.DecodeString(v)
	return err == nil && len(b) == 10 && v == strings.ToLower(v)
}
