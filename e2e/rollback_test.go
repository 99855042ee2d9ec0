package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// plugIn installs a CNI plugin that runs a shell command for ADD and, if that
// succeeds, passes the previous plugin's result on.
func (c *cridock) plugIn(t *testing.T, name, add string) {
	t.Helper()
	// prevResult is the last key that libcni writes to the configuration of this
	// plugin, which has no other settings.
	script := `#!/bin/sh
case $CNI_COMMAND in
VERSION) echo '{"cniVersion": "1.0.0", "supportedVersions": ["0.4.0", "1.0.0"]}' ;;
ADD) ` + add + ` && jq -c .prevResult ;;
esac
`
	// Renamed into place: a running program cannot be written to.
	path := filepath.Join(c.binDir(), name)
	if err := os.WriteFile(path+".new", []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// useConf changes the configuration and waits until cridock reports its
// plugins, so has read it.
func (c *cridock) useConf(t *testing.T, conf string) {
	t.Helper()
	if err := c.writeConf(conf); err != nil {
		t.Fatal(err)
	}
	want := pluginTypes(t, conf)
	eventually(t, fmt.Sprintf("a CNI configuration with the plugins %q in use", want), time.Minute, func() bool {
		return slices.Equal(pluginTypes(t, rpc(t, c.runtime.Status, &runtimeapi.StatusRequest{Verbose: true}).Info["cniconfig"]), want)
	})
}

// pluginTypes returns the plugin types in a configuration, or in cridock's
// description of it.
func pluginTypes(t *testing.T, conf string) []string {
	t.Helper()
	var list struct{ Plugins []struct{ Type string } }
	if err := json.Unmarshal([]byte(conf), &list); err != nil {
		t.Fatalf("%v in %s", err, conf)
	}
	var types []string
	for _, p := range list.Plugins {
		types = append(types, p.Type)
	}
	return types
}

// TestRollback makes RunPodSandbox fail at each step that can fail on a real
// node. Nothing may be left, and the next pod must run.
func TestRollback(t *testing.T) {
	t.Parallel()
	newCridock(t, newNode(t), "cni").rollsBack(t)
}

func (c *cridock) rollsBack(t *testing.T) {
	if err := os.WriteFile(c.path("a-file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, plugin, want string
		option             podOption
	}{
		{"the last plugin fails", `{"type": "e2e-fails"}`, "says no", nil},
		{"a plugin dies without a word", `{"type": "e2e-dies"}`, "e2e-dies", nil},
		{"a plugin is not there", `{"type": "e2e-absent"}`, "e2e-absent", nil},
		{"a plugin talks nonsense", `{"type": "e2e-nonsense"}`, "", nil},
		{"a sysctl is refused", "", "ip_unprivileged_port_start", func(cfg *runtimeapi.PodSandboxConfig) {
			cfg.Linux.Sysctls = map[string]string{"net.ipv4.ip_unprivileged_port_start": "nonsense"}
		}},
		{"an interface's sysctl is refused", "", "sysctl", func(cfg *runtimeapi.PodSandboxConfig) {
			cfg.Linux.Sysctls = map[string]string{"net.ipv4.conf.eth0.mtu_of_e2e": "1"}
		}},
		{"the log directory cannot be made", "", "log_directory", func(cfg *runtimeapi.PodSandboxConfig) { cfg.LogDirectory = c.path("a-file", "logs") }},
		{"the host port is taken by another rule", `{"type": "e2e-fails"}`, "says no", func(cfg *runtimeapi.PodSandboxConfig) {
			cfg.PortMappings = []*runtimeapi.PortMapping{{ContainerPort: 80, HostPort: 18080}}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c.plugIn(t, "e2e-fails", `{ echo '{"cniVersion": "1.0.0", "code": 100, "msg": "e2e says no"}'; exit 1; }`)
			c.plugIn(t, "e2e-dies", "exit 1")
			c.plugIn(t, "e2e-nonsense", "{ echo nonsense; exit 0; }")
			if tc.plugin != "" {
				// After all other plugins, when these have done their work.
				c.useConf(t, strings.TrimSuffix(c.conflist(), "]}")+","+tc.plugin+"]}")
			}
			cfg := c.podConfig(t)
			if tc.option != nil {
				tc.option(cfg)
			}
			_, err := try(c.runtime.RunPodSandbox, &runtimeapi.RunPodSandboxRequest{Config: cfg})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error is %v; want %q in it", err, tc.want)
			}
			if err := c.leftovers(); err != nil {
				t.Errorf("%v\n%s", err, c.logTail())
			}
			c.useConf(t, c.conflist())
			c.runPod(t).remove()
		})
	}
}

// TestRollbackOnDockerNetwork requests a port that is taken: Docker fails when
// it starts the container.
func TestRollbackOnDockerNetwork(t *testing.T) {
	t.Parallel()
	c := sharedCridock(t, "docker")
	taken := func(cfg *runtimeapi.PodSandboxConfig) {
		cfg.PortMappings = []*runtimeapi.PortMapping{{ContainerPort: 80, HostPort: 18090}}
	}
	c.runPod(t, taken)
	cfg := c.podConfig(t, taken)
	_, err := try(c.runtime.RunPodSandbox, &runtimeapi.RunPodSandboxRequest{Config: cfg})
	if err == nil || !strings.Contains(err.Error(), "18090") {
		t.Errorf("error is %v; want the port in it", err)
	}
	c.checkGone(t, cfg.Metadata.Uid, "")
}

// TestNoPauseImage configures a sandbox image that does not exist.
func TestNoPauseImage(t *testing.T) {
	t.Parallel()
	c := newCridock(t, newNode(t), "cni", "--pod-infra-container-image=127.0.0.1:1/e2e/pause:1")
	_, err := try(c.runtime.RunPodSandbox, &runtimeapi.RunPodSandboxRequest{Config: c.podConfig(t)})
	if err == nil || !strings.Contains(err.Error(), "127.0.0.1:1/e2e/pause:1") {
		t.Errorf("error is %v; want the image in it", err)
	}
	if err := c.leftovers(); err != nil {
		t.Error(err)
	}
	// The image may appear at any time.
	c.docker.build(t, "127.0.0.1:1/e2e/pause:1", fmt.Sprintf("FROM %s\nCMD [\"sleep\", \"1000000\"]\n", c.image))
	eventually(t, "the image is seen", time.Minute, func() bool { return c.imageStatus(t, "127.0.0.1:1/e2e/pause:1") != nil })
	p := c.runPod(t)
	var sandbox struct{ Image string }
	c.docker.must(t, http.MethodGet, "/containers/"+p.id+"/json", nil, &sandbox)
	if i := c.imageStatus(t, "127.0.0.1:1/e2e/pause:1"); i.GetId() != sandbox.Image || !i.GetPinned() {
		t.Errorf("the sandbox runs %s, the image is %v; want it, pinned", sandbox.Image, i)
	}
}
