package translate

import (
	"testing"

	"github.com/docker/docker/api/types/container"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"google.golang.org/protobuf/proto"
)

// TestUsernsRemap: pods are in the daemon's user namespace unless they cannot be,
// and containers are in the same one as their sandbox.
func TestUsernsRemap(t *testing.T) {
	node := runtimeapi.NamespaceMode_NODE
	type sc = runtimeapi.LinuxSandboxSecurityContext
	for name, tc := range map[string]struct {
		sc   *sc
		want container.UsernsMode
	}{
		"nothing asked for":     {nil, ""},
		"the node's users":      {&sc{NamespaceOptions: &runtimeapi.NamespaceOption{UsernsOptions: &runtimeapi.UserNamespace{Mode: node}}}, ""},
		"privileged":            {&sc{Privileged: true}, "host"},
		"the host's network":    {&sc{NamespaceOptions: &runtimeapi.NamespaceOption{Network: node}}, "host"},
		"the host's processes":  {&sc{NamespaceOptions: &runtimeapi.NamespaceOption{Pid: node}}, "host"},
		"the host's semaphores": {&sc{NamespaceOptions: &runtimeapi.NamespaceOption{Ipc: node}}, "host"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := sandboxUsernsMode(tc.sc, fullHost); got != "" {
				t.Errorf("without userns-remap: %q", got)
			}
			host := fullHost
			host.UsernsRemap = true
			if got := sandboxUsernsMode(tc.sc, host); got != tc.want {
				t.Errorf("sandbox: %q, want %q", got, tc.want)
			}
			req := containerRequest(t)
			sandbox := *req.Sandbox
			sandbox.UsernsMode = string(tc.want)
			req.Sandbox, req.Config = &sandbox, proto.CloneOf(req.Config)
			created, err := DockerContainer(req, host)
			if err != nil || created.HostConfig.UsernsMode != tc.want {
				t.Errorf("container: %+v, %v; want %q", created, err, tc.want)
			}
		})
	}
	in := createdSandbox(t)
	in.HostConfig.UsernsMode = "host"
	if got, err := ReadSandbox(in, nil, fullHost); err != nil || got.UsernsMode != "host" {
		t.Errorf("read back: %+v, %v", got, err)
	}
}
