package shim

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/mod/semver"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/shim/engine"
	"github.com/cridock/cridock/translate"
)

const (
	kubeAPIVersion = "0.1.0"
	// runtimeName becomes the scheme of container IDs in pod statuses. dockershim and
	// cri-dockerd have the same, so that adopted containers keep theirs.
	runtimeName       = "docker"
	runtimeAPIVersion = "v1"
	// hostPortsReady is a condition that the CRI does not define, for people: the
	// kubelet ignores unknown conditions. A node without host ports is ready.
	hostPortsReady = "HostPortsReady"
	// unknownVersion is reported until Docker has been reached once: the kubelet
	// wants a semantic version and does not start without an answer.
	unknownVersion = "0.0.0"
)

// Version names the runtime; it answers without Docker.
func (s *Service) Version(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{
		Version:           kubeAPIVersion,
		RuntimeName:       runtimeName,
		RuntimeVersion:    semanticVersion(s.Host().EngineVersion),
		RuntimeApiVersion: runtimeAPIVersion,
	}, nil
}

// semanticVersion converts Docker's version to a semantic version, or returns
// unknownVersion: distributions append what semver does not allow, and older
// releases have leading zeros.
func semanticVersion(v string) string {
	v, _, _ = strings.Cut(v, "+")
	v = "v" + strings.NewReplacer("~", "-", "_", "-").Replace(v)
	if !semver.IsValid(v) {
		return unknownVersion
	}
	return strings.TrimPrefix(v, "v")
}

// Status reports problems as conditions rather than errors.
func (s *Service) Status(ctx context.Context, r *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	h := s.Host()
	resp := &runtimeapi.StatusResponse{
		Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
			condition(runtimeapi.RuntimeReady, "DockerDaemonNotReady", s.index.Health()),
			condition(runtimeapi.NetworkReady, "NetworkPluginNotReady", s.networks.Status(ctx)),
			condition(hostPortsReady, "NoPortMappingsCapability", s.networks.HostPorts()),
		}},
		RuntimeHandlers: translate.CRIRuntimeHandlers(h),
		Features:        translate.CRIRuntimeFeatures(h),
	}
	if r.GetVerbose() {
		info, err := s.statusInfo()
		if err != nil {
			return nil, err
		}
		resp.Info = info
	}
	return resp, nil
}

func condition(kind, reason string, err error) *runtimeapi.RuntimeCondition {
	if err == nil {
		return &runtimeapi.RuntimeCondition{Type: kind, Status: true}
	}
	return &runtimeapi.RuntimeCondition{Type: kind, Reason: reason, Message: err.Error()}
}

// statusInfo returns the verbose information; each value is a JSON document.
func (s *Service) statusInfo() (map[string]string, error) {
	config := struct {
		Version        string `json:"version"`
		RootDir        string `json:"rootDirectory"`
		SandboxImage   string `json:"sandboxImage"`
		DockerNetwork  string `json:"dockerNetwork,omitempty"`
		LogMaxSize     string `json:"logMaxSize"`
		LogMaxFile     int    `json:"logMaxFile"`
		MinOOMScoreAdj int    `json:"minOOMScoreAdj"`
	}{s.cfg.Version, s.cfg.RootDir, s.images.pause.Name(), s.cfg.DockerNetwork, s.cfg.LogMaxSize, s.cfg.LogMaxFile, s.cfg.MinOOMScoreAdj}
	docs := map[string]any{"config": config, ActivityInfo: s.activity(time.Now())}
	if caps := s.engine.Capabilities(); caps != nil {
		docs["engine"] = caps
		docs[DeprecationsInfo] = append([]engine.Deprecation{}, caps.Deprecations()...) // [] rather than null
	}
	if cni := s.networks.DescribeNode(); cni != nil {
		docs["cniconfig"] = cni
	}
	return jsonInfo(docs)
}

// jsonInfo encodes the documents of a verbose response.
func jsonInfo(docs map[string]any) (map[string]string, error) {
	info := make(map[string]string, len(docs))
	for k, v := range docs {
		b, err := json.Marshal(v)
		if err != nil {
			return nil, fmt.Errorf("verbose information %q: %w", k, err)
		}
		info[k] = string(b)
	}
	return info, nil
}

// RuntimeConfig returns Docker's cgroup driver. The kubelet asks once, at its start,
// so this waits for Docker.
func (s *Service) RuntimeConfig(ctx context.Context, _ *runtimeapi.RuntimeConfigRequest) (*runtimeapi.RuntimeConfigResponse, error) {
	if err := s.index.Ready(ctx); err != nil {
		return nil, err
	}
	driver, err := cgroupDriver(s.engine.Capabilities())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.RuntimeConfigResponse{Linux: &runtimeapi.LinuxRuntimeConfiguration{CgroupDriver: driver}}, nil
}

func cgroupDriver(c *engine.Capabilities) (runtimeapi.CgroupDriver, error) {
	switch c.CgroupDriver {
	case "systemd":
		return runtimeapi.CgroupDriver_SYSTEMD, nil
	case "cgroupfs":
		return runtimeapi.CgroupDriver_CGROUPFS, nil
	default:
		return 0, fmt.Errorf("docker's cgroup driver is %q: %w: the kubelet supports systemd and cgroupfs; set exec-opts native.cgroupdriver in daemon.json",
			c.CgroupDriver, errdefs.ErrFailedPrecondition)
	}
}

// UpdateRuntimeConfig sets the node's pod CIDRs, one or two separated by a comma.
// The kubelet repeats the call; the last value applies.
func (s *Service) UpdateRuntimeConfig(_ context.Context, r *runtimeapi.UpdateRuntimeConfigRequest) (*runtimeapi.UpdateRuntimeConfigResponse, error) {
	cidrs := r.GetRuntimeConfig().GetNetworkConfig().GetPodCidr()
	if cidrs != "" {
		if err := s.networks.SetPodCIDRs(cidrs); err != nil {
			return nil, err
		}
	}
	return &runtimeapi.UpdateRuntimeConfigResponse{}, nil
}
