package limits

import (
	"errors"
	"fmt"
	"io/fs"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/translate"
)

// PodStore keeps a document per sandbox across restarts.
type PodStore interface {
	// Read returns the document of the sandbox with a Docker name; a missing one is
	// fs.ErrNotExist.
	Read(sandboxName string) ([]byte, error)
	// Write replaces a document atomically.
	Write(sandboxName string, document []byte) error
}

// Pods records the resources and the overhead of pods. It sets no limits.
type Pods struct{ store PodStore }

// NewPods returns the records in a store.
func NewPods(store PodStore) *Pods { return &Pods{store} }

// Update merges an update of a sandbox into what is stored. The caller holds the
// lock of the pod.
func (p *Pods) Update(sb *translate.Sandbox, r *runtimeapi.UpdatePodSandboxResourcesRequest) error {
	stored, err := p.read(sb)
	if err != nil {
		return err
	}
	if stored == nil {
		stored = &runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: sb.ID}
	}
	if r.GetOverhead() != nil {
		stored.Overhead = r.GetOverhead()
	}
	if r.GetResources() != nil {
		stored.Resources = r.GetResources()
	}
	b, err := protojson.Marshal(stored)
	if err != nil {
		return err
	}
	return p.store.Write(translate.SandboxName(sb.Metadata), b)
}

// Config returns a copy of a sandbox's configuration with its updates applied; nil
// if there were none.
func (p *Pods) Config(sb *translate.Sandbox, cfg *runtimeapi.PodSandboxConfig) (*runtimeapi.PodSandboxConfig, error) {
	update, err := p.read(sb)
	if err != nil || update == nil {
		return nil, err
	}
	cfg = proto.CloneOf(cfg)
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

// read returns the merged updates of a sandbox; nil if there was none.
func (p *Pods) read(sb *translate.Sandbox) (*runtimeapi.UpdatePodSandboxResourcesRequest, error) {
	name := translate.SandboxName(sb.Metadata)
	b, err := p.store.Read(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	stored := &runtimeapi.UpdatePodSandboxResourcesRequest{}
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, stored); err != nil {
		return nil, fmt.Errorf("stored resources of %s: %w", name, err)
	}
	if stored.PodSandboxId != sb.ID {
		return nil, nil // of an earlier sandbox with this name
	}
	return stored, nil
}
