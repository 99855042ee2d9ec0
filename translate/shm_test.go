package translate

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestShmSize(t *testing.T) {
	type annotations = map[string]string
	for name, tc := range map[string]struct {
		in   annotations
		want int64 // 0: refused
	}{
		"none":              {nil, 64 * mib},
		"CRI-O's":           {annotations{"shm-size.crio.io": "128Mi"}, 128 * mib},
		"its older name":    {annotations{"io.kubernetes.cri-o.ShmSize": "1M"}, 1e6},
		"both":              {annotations{"io.kubernetes.cri-o.ShmSize": "1M", "shm-size.crio.io": "2M"}, 2e6},
		"no quantity":       {annotations{"shm-size.crio.io": "128MB"}, 0},
		"empty":             {annotations{"io.kubernetes.cri-o.ShmSize": ""}, 0},
		"negative":          {annotations{"shm-size.crio.io": "-1"}, 0},
		"nothing":           {annotations{"shm-size.crio.io": "0"}, 0},
		"less than a page":  {annotations{"shm-size.crio.io": "4095"}, 0},
		"the largest":       {annotations{"shm-size.crio.io": "1Ti"}, 1 << 40},
		"more than any RAM": {annotations{"shm-size.crio.io": "1025Gi"}, 0},
	} {
		cfg := exampleSandbox()
		cfg.Annotations = tc.in
		created, err := DockerSandbox(SandboxRequest{Config: cfg, ImageID: pauseID}, exampleHost)
		switch {
		case tc.want == 0:
			if !errdefs.IsInvalidArgument(err) || !strings.HasPrefix(err.Error(), "annotations[") {
				t.Errorf("%s: %+v, %v", name, created, err)
			}
		case err != nil || created.HostConfig.ShmSize != tc.want:
			t.Errorf("%s: %+v, %v", name, created, err)
		}
	}
	cfg := exampleSandbox()
	cfg.Annotations = annotations{"shm-size.crio.io": "128Mi"}
	cfg.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{Ipc: runtimeapi.NamespaceMode_NODE}
	if err := ValidateSandboxConfig(cfg); !errdefs.IsInvalidArgument(err) {
		t.Errorf("the host's: %v", err)
	}
}

// TestUlimits: all containers have the operator's limits.
func TestUlimits(t *testing.T) {
	host := exampleHost
	host.Ulimits = []*container.Ulimit{{Name: "nofile", Soft: 5, Hard: 6}}
	created, err := DockerContainer(containerRequest(t), host)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(host.Ulimits, created.HostConfig.Ulimits); diff != "" {
		t.Error(diff)
	}
}
