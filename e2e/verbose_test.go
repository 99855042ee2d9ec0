package e2e

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// envValue is the value of an environment variable; no output may contain it.
const envValue = "hunter2"

// runtimeInfo is what scripts read from the verbose statuses.
type runtimeInfo struct {
	Pid                int         `json:"pid"`
	SandboxID          string      `json:"sandboxID"`
	RuntimeSpec        *specs.Spec `json:"runtimeSpec"`
	RuntimeSpecMissing string      `json:"runtimeSpecMissing"`
}

func readInfo(t *testing.T, info map[string]string) (out runtimeInfo) {
	t.Helper()
	if strings.Contains(info["info"], envValue) {
		t.Errorf("the value of an environment variable is in %s", info["info"])
	}
	if err := json.Unmarshal([]byte(info["info"]), &out); err != nil {
		t.Fatalf("%v in %q", err, info)
	}
	return out
}

func (p *pod) info() runtimeInfo {
	p.t.Helper()
	return readInfo(p.t, rpc(p.t, p.runtime.PodSandboxStatus, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.id, Verbose: true}).Info)
}

func (c *ctr) info() runtimeInfo {
	c.t.Helper()
	return readInfo(c.t, rpc(c.t, c.runtime.ContainerStatus, &runtimeapi.ContainerStatusRequest{ContainerId: c.id, Verbose: true}).Info)
}

func networkNamespace(spec *specs.Spec) string {
	if spec == nil || spec.Linux == nil {
		return ""
	}
	for _, ns := range spec.Linux.Namespaces {
		if ns.Type == specs.NetworkNamespace {
			return ns.Path
		}
	}
	return ""
}

// TestRuntimeSpec: verbose statuses contain the OCI specification where scripts
// written for containerd look for it.
func TestRuntimeSpec(t *testing.T) {
	onBothNetworks(t, func(t *testing.T, c *cridock) {
		p := c.runPod(t)
		main := p.start("main", "sleep 1000", func(cfg *runtimeapi.ContainerConfig) {
			cfg.Envs = []*runtimeapi.KeyValue{{Key: "TOKEN", Value: []byte(envValue)}}
			cfg.Linux.Resources = &runtimeapi.LinuxContainerResources{CpuShares: 512}
			cfg.Linux.SecurityContext.MaskedPaths = []string{"/proc/keys"}
		})
		sandbox := p.info()
		if sandbox.RuntimeSpec == nil || sandbox.RuntimeSpec.Hostname != p.cfg.Hostname || sandbox.Pid == 0 {
			t.Fatalf("sandbox: %+v", sandbox)
		}
		info := main.info()
		for of, spec := range map[string]*specs.Spec{"sandbox": sandbox.RuntimeSpec, "container": info.RuntimeSpec} {
			path := networkNamespace(spec)
			if seen := c.run(t, "nsenter", "--net="+path, "ip", "-o", "addr", "show", "eth0"); !strings.Contains(seen, p.status().GetNetwork().GetIp()) {
				t.Errorf("%s: in network namespace %q there is %s, not the pod's address", of, path, seen)
			}
		}
		checkContainerSpec(t, p, info)
		main.stop(0)
		if info := main.info(); info.RuntimeSpec != nil || info.RuntimeSpecMissing == "" {
			t.Errorf("after its end: %+v, want a reason", info)
		}
	})
}

func checkContainerSpec(t *testing.T, p *pod, info runtimeInfo) {
	t.Helper()
	if info.RuntimeSpec == nil || info.SandboxID != p.id {
		t.Fatalf("container: %+v", info)
	}
	process, linux := info.RuntimeSpec.Process, info.RuntimeSpec.Linux
	if !slices.Equal(process.Args, []string{"sh", "-c", "sleep 1000"}) || !slices.Contains(process.Env, "TOKEN") {
		t.Errorf("arguments %q, environment %q; want names only", process.Args, process.Env)
	}
	if !slices.Equal(linux.MaskedPaths, []string{"/proc/keys"}) || linux.Resources.CPU.Shares == nil || *linux.Resources.CPU.Shares != 512 {
		t.Errorf("masked paths %q, CPU %+v", linux.MaskedPaths, linux.Resources.CPU)
	}
}

// TestImageSpec: a verbose image status contains the image in the OCI's format.
func TestImageSpec(t *testing.T) {
	t.Parallel()
	c := sharedCridock(t, "docker")
	const image = "localhost/e2e/spec:1"
	c.docker.build(t, image, "FROM "+c.image+"\nRUN echo >/file\nENV A=b\nUSER 7\nCMD [\"run\"]\n")
	t.Cleanup(func() { c.docker.removeImage(t, image) })
	eventually(t, "what Docker built is there", time.Minute, func() bool { return c.imageStatus(t, image) != nil })
	r := rpc(t, c.images.ImageStatus, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: image}, Verbose: true})
	var info struct {
		ChainID   string        `json:"chainID"`
		ImageSpec ocispec.Image `json:"imageSpec"`
	}
	if err := json.Unmarshal([]byte(r.Info["info"]), &info); err != nil {
		t.Fatal(err)
	}
	s := info.ImageSpec
	if s.OS != "linux" || s.Architecture == "" || s.Created == nil || s.Config.User != "7" || !slices.Contains(s.Config.Env, "A=b") || !slices.Equal(s.Config.Cmd, []string{"run"}) {
		t.Errorf("image specification %+v", s)
	}
	layers := 0
	for _, h := range s.History {
		if !h.EmptyLayer {
			layers++
		}
	}
	if len(s.RootFS.DiffIDs) < 2 || s.RootFS.Type != "layers" || layers != len(s.RootFS.DiffIDs) || !strings.HasPrefix(info.ChainID, "sha256:") {
		t.Errorf("chain %q of %+v, history %+v", info.ChainID, s.RootFS, s.History)
	}
	if last := s.History[len(s.History)-1]; !strings.Contains(last.CreatedBy, "run") {
		t.Errorf("the last step is %+v, want the command", last)
	}
}
