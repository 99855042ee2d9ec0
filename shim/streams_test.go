package shim

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"

	"github.com/cridock/cridock/translate"
)

// inspected is an engine that knows one sandbox.
type inspected struct {
	Engine
	state container.State
}

func (e inspected) ContainerInspect(context.Context, string) (container.InspectResponse, error) {
	return container.InspectResponse{ContainerJSONBase: &container.ContainerJSONBase{State: &e.state}}, nil
}

// A process ID whose sandbox has ended is another's, and so is its network.
func TestNetNSOfAnotherProcess(t *testing.T) {
	pid := os.Getpid()
	for name, c := range map[string]struct {
		state container.State
		ok    bool
	}{
		"runs":                  {container.State{Running: true, Pid: pid}, true},
		"has ended":             {container.State{}, false},
		"runs with another pid": {container.State{Running: true, Pid: pid + 1}, false},
	} {
		s := &Service{engine: inspected{state: c.state}}
		f, err := s.openSandboxNetNS(t.Context(), &translate.Sandbox{ID: "sandbox", Pid: pid})
		if (err == nil) != c.ok || !c.ok && !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%s: %v", name, err)
		}
		if f != nil {
			_ = f.Close()
		}
	}
}

// A pin whose mount is gone is a plain file.
func TestNetNSIsANamespace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{path, "/proc/self/ns/uts"} {
		if f, err := openNetNS(path); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%s: %v, %v", path, f, err)
		}
	}
}
