package translate

import (
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"google.golang.org/protobuf/proto"

	"github.com/cridock/cridock/internal/seam"
)

const baseText = `{"ociVersion": "1.0.2",
	"process": {"env": ["A=base", "B=base", "C=base"], "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 5, "hard": 9}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 18446744073709551615}]},
	"linux": {"sysctl": {"net.core.somaxconn": "99", "kernel.msgmax": "8", "net/ipv4/tcp_syncookies": "1"}},
	"hooks": {"poststop": [{"path": "/bin/two"}], "createRuntime": [{"path": "/bin/one", "args": ["one"], "env": ["X=1"], "timeout": 2}]}}`

func parseBase(t *testing.T) *BaseSpec {
	t.Helper()
	base, err := ParseBaseSpec([]byte(baseText))
	if err != nil {
		t.Fatal(err)
	}
	return base
}

func TestParseBaseSpec(t *testing.T) {
	want := &BaseSpec{
		Env:     []string{"A=base", "B=base", "C=base"},
		Sysctls: map[string]string{"net.core.somaxconn": "99", "kernel.msgmax": "8", "net/ipv4/tcp_syncookies": "1"},
		Ulimits: []*container.Ulimit{{Name: "nofile", Soft: 5, Hard: 9}, {Name: "core", Hard: -1}},
		Hooks:   []seam.Hook{{Name: "createRuntime", Path: "/bin/one", Args: []string{"one"}, Env: []string{"X=1"}, Timeout: 2}, {Name: "poststop", Path: "/bin/two"}},
	}
	if diff := cmp.Diff(want, parseBase(t)); diff != "" {
		t.Error(diff)
	}
	for text, want := range map[string]string{
		`{"root": {}}`:                                   "only process.env",
		`{"process": {"user": {}}}`:                      "only process.env",
		`{"linux": {"namespaces": []}}`:                  "only process.env",
		`{}{}`:                                           "something follows",
		`{"process": {"env": ["A"]}}`:                    "NAME=value",
		`{"process": {"env": ["=a"]}}`:                   "NAME=value",
		`{"process": {"rlimits": [{"type": "NOFILE"}]}}`: "RLIMIT_",
		`{"process": {"rlimits": [{"type": "RLIMIT_CORE", "soft": 1}]}}`:               "exceeds",
		`{"process": {"rlimits": [{"type": "RLIMIT_CORE"}, {"type": "RLIMIT_CORE"}]}}`: "twice",
		`{"linux": {"sysctl": {"vm.swappiness": "1"}}}`:                                "not namespaced",
		`{"linux": {"sysctl": {"net.ipv4.conf.eth0.forwarding": "1"}}}`:                "network interface",
		`{"hooks": {"prestop": [{"path": "/bin/one"}]}}`:                               "not one of",
		`{"hooks": {"poststop": [{"path": "one"}]}}`:                                   "absolute path",
		`{"hooks": {"poststop": [{"path": "/bin/one", "uid": 0}]}}`:                    "only process.env",
	} {
		if base, err := ParseBaseSpec([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %+v, %v; want %q", text, base, err, want)
		}
	}
}

// TestBaseSpec: the base adds to requests and images, and changes nothing that they set.
func TestBaseSpec(t *testing.T) {
	host := exampleHost
	host.Base, host.Ulimits = parseBase(t), []*container.Ulimit{{Name: "nofile", Soft: 1, Hard: 2}}
	req := containerRequest(t)
	req.Config = proto.CloneOf(req.Config)
	req.Config.Linux, req.Config.Envs, req.Image.EnvNames = nil, []*runtimeapi.KeyValue{{Key: "B", Value: []byte("requested")}}, []string{"C"}
	created, err := DockerContainer(req, host)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"A=base", "B=requested"}, []string(created.Config.Env)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]*container.Ulimit{{Name: "nofile", Soft: 1, Hard: 2}, {Name: "core", Hard: -1}}, created.HostConfig.Ulimits); diff != "" {
		t.Error(diff)
	}
	if created.Seam == nil || !slices.EqualFunc(created.Seam.Record.Hooks, host.Base.Hooks, func(a, b seam.Hook) bool { return a.Path == b.Path }) {
		t.Errorf("hooks: %+v", created.Seam)
	}
	for name, tc := range map[string]struct {
		linux *runtimeapi.LinuxPodSandboxConfig
		want  map[string]string
	}{
		"none requested": {nil, host.Base.Sysctls},
		"one requested":  {&runtimeapi.LinuxPodSandboxConfig{Sysctls: map[string]string{"net.ipv4.tcp_syncookies": "0"}}, map[string]string{"net.core.somaxconn": "99", "kernel.msgmax": "8", "net.ipv4.tcp_syncookies": "0"}},
		"the host's network": {&runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE}}},
			map[string]string{"kernel.msgmax": "8"}},
	} {
		cfg := proto.CloneOf(podConfig)
		cfg.Linux, cfg.PortMappings = tc.linux, nil
		created, err := DockerSandbox(SandboxRequest{Config: cfg, RuntimeHandler: "crun", ImageID: pauseID}, host)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tc.want, created.HostConfig.Sysctls); diff != "" || created.Seam == nil || len(created.Config.Env) > 0 {
			t.Errorf("%s: %+v, %s", name, created, diff)
		}
	}
	host.SeamRuntime = ""
	if created, err := DockerContainer(req, host); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "cridock runtime install") {
		t.Errorf("without cridock-runtime: %+v, %v", created, err)
	}
	host.Base.Hooks = nil
	if created, err := DockerContainer(req, host); err != nil || created.Seam != nil {
		t.Errorf("without hooks: %+v, %v", created, err)
	}
}
