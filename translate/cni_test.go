package translate

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestCNIRuntimeConf(t *testing.T) {
	got, err := CNIRuntimeConf(&runtimeapi.PodSandboxConfig{
		Metadata:  &runtimeapi.PodSandboxMetadata{Name: "p", Namespace: "n", Uid: "u"},
		DnsConfig: &runtimeapi.DNSConfig{Servers: []string{"10.0.0.10"}},
		PortMappings: []*runtimeapi.PortMapping{
			{ContainerPort: 80, HostPort: 8080, HostIp: "127.0.0.1"},
			{ContainerPort: 81},
			{ContainerPort: 82, HostPort: 82, Protocol: runtimeapi.Protocol_SCTP},
		},
		Annotations: map[string]string{ingressBandwidth: "10M", egressBandwidth: "1Gi"},
		Linux:       &runtimeapi.LinuxPodSandboxConfig{CgroupParent: "/kubepods/x"},
	}, "id", "/run/netns")
	if err != nil {
		t.Fatal(err)
	}
	args := [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "n"}, {"K8S_POD_NAME", "p"}, {"K8S_POD_INFRA_CONTAINER_ID", "id"}, {"K8S_POD_UID", "u"}}
	if diff := cmp.Diff(args, got.Args); diff != "" || got.ContainerID != "id" || got.NetNS != "/run/netns" || got.IfName != "eth0" {
		t.Errorf("%+v %s", got, diff)
	}
	capabilities, err := json.Marshal(got.CapabilityArgs)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"bandwidth":{"ingressRate":10000000,"ingressBurst":2147483647,"egressRate":1073741824,"egressBurst":2147483647},` +
		`"cgroupPath":"/kubepods/x","dns":{"servers":["10.0.0.10"]},` +
		`"io.kubernetes.cri.pod-annotations":{"kubernetes.io/egress-bandwidth":"1Gi","kubernetes.io/ingress-bandwidth":"10M"},` +
		`"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp","hostIP":"127.0.0.1"},{"hostPort":82,"containerPort":82,"protocol":"sctp"}]}`
	if diff := cmp.Diff(want, string(capabilities)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestCNIRuntimeConfRefuses(t *testing.T) {
	pod := &runtimeapi.PodSandboxMetadata{Name: "p"}
	for name, cfg := range map[string]*runtimeapi.PodSandboxConfig{
		"nil":                           nil,
		"a name that forges arguments":  {Metadata: &runtimeapi.PodSandboxMetadata{Name: "p;K8S_POD_UID=x"}},
		"a bandwidth that is no number": {Metadata: pod, Annotations: map[string]string{ingressBandwidth: "fast"}},
		"a bandwidth that is too small": {Metadata: pod, Annotations: map[string]string{ingressBandwidth: "1"}},
		"a bandwidth that is too large": {Metadata: pod, Annotations: map[string]string{egressBandwidth: "2P"}},
	} {
		if got, err := CNIRuntimeConf(cfg, "id", ""); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestParseQuantity(t *testing.T) {
	for text, want := range map[string]int64{
		"1": 1, "1k": 1000, "10M": 1e7, "1.5G": 1.5e9, "1Ki": 1024, "2Mi": 2 << 20, "1e6": 1e6, "1E3": 1000, "1E": 1e18,
		"100m": 1, "1500m": 2, "+5": 5, ".5k": 500, "5.": 5, "0": 0, "9223372036854775807": math.MaxInt64,
	} {
		if got, ok := parseQuantity(text); !ok || got != want {
			t.Errorf("%q is %d %v, want %d", text, got, ok, want)
		}
	}
	for _, text := range []string{"", ".", "-1", "k", "1 k", "1K", "1ki", "1e", "1e999", "0x10", "1_000", "10E", "1e99", strings.Repeat("9", 100), "1M\n"} {
		if got, ok := parseQuantity(text); ok {
			t.Errorf("%q is %d", text, got)
		}
	}
}
