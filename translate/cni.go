package translate

import (
	"math"
	"math/big"
	"regexp"
	"strings"

	"github.com/containernetworking/cni/libcni"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	// CNIInterface is the name of the interface CNI creates in a sandbox.
	CNIInterface = "eth0"

	ingressBandwidth = "kubernetes.io/ingress-bandwidth"
	egressBandwidth  = "kubernetes.io/egress-bandwidth"
)

// CNIPortMapping is an entry of the portMappings capability.
type CNIPortMapping struct {
	HostPort      int32  `json:"hostPort"`
	ContainerPort int32  `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP,omitempty"`
}

// CNIBandwidth is the bandwidth capability: rates in bits per second, bursts in
// bits.
type CNIBandwidth struct {
	IngressRate  int64 `json:"ingressRate,omitempty"`
	IngressBurst int64 `json:"ingressBurst,omitempty"`
	EgressRate   int64 `json:"egressRate,omitempty"`
	EgressBurst  int64 `json:"egressBurst,omitempty"`
}

// CNIDNS is the dns capability.
type CNIDNS struct {
	Servers  []string `json:"servers,omitempty"`
	Searches []string `json:"searches,omitempty"`
	Options  []string `json:"options,omitempty"`
}

// CNIRuntimeConf returns a sandbox's CNI configuration: its identity, its
// annotations, and the standard capabilities portMappings, bandwidth, dns and
// cgroupPath; libcni passes on those a plugin declares. Empty capabilities are
// left out. netns may be "" for DEL. A malformed bandwidth annotation is
// ErrInvalidArgument.
func CNIRuntimeConf(cfg *runtimeapi.PodSandboxConfig, sandboxID, netns string) (*libcni.RuntimeConf, error) {
	if err := validateSandboxMetadata(cfg.GetMetadata()); err != nil {
		return nil, err
	}
	bandwidth, err := cniBandwidth(cfg.GetAnnotations())
	if err != nil {
		return nil, err
	}
	capabilities := map[string]any{}
	if ports := cniPortMappings(cfg.GetPortMappings()); len(ports) > 0 {
		capabilities["portMappings"] = ports
	}
	if bandwidth != nil {
		capabilities["bandwidth"] = *bandwidth
	}
	if dns := cfg.GetDnsConfig(); len(dns.GetServers())+len(dns.GetSearches())+len(dns.GetOptions()) > 0 {
		capabilities["dns"] = CNIDNS{Servers: dns.GetServers(), Searches: dns.GetSearches(), Options: dns.GetOptions()}
	}
	if parent := cfg.GetLinux().GetCgroupParent(); parent != "" {
		capabilities["cgroupPath"] = parent
	}
	if annotations := cfg.GetAnnotations(); len(annotations) > 0 {
		// Not in the CNI conventions, but containerd offers it to plugins.
		capabilities["io.kubernetes.cri.pod-annotations"] = annotations
	}
	return &libcni.RuntimeConf{
		ContainerID: sandboxID,
		NetNS:       netns,
		IfName:      CNIInterface,
		Args: [][2]string{
			{"IgnoreUnknown", "1"},
			{"K8S_POD_NAMESPACE", cfg.GetMetadata().GetNamespace()},
			{"K8S_POD_NAME", cfg.GetMetadata().GetName()},
			{"K8S_POD_INFRA_CONTAINER_ID", sandboxID},
			{"K8S_POD_UID", cfg.GetMetadata().GetUid()},
		},
		CapabilityArgs: capabilities,
	}, nil
}

func cniPortMappings(mappings []*runtimeapi.PortMapping) []CNIPortMapping {
	var out []CNIPortMapping
	for _, m := range mappings {
		if m.GetHostPort() <= 0 {
			continue
		}
		out = append(out, CNIPortMapping{
			HostPort:      m.GetHostPort(),
			ContainerPort: m.GetContainerPort(),
			Protocol:      strings.ToLower(m.GetProtocol().String()),
			HostIP:        m.GetHostIp(),
		})
	}
	return out
}

func cniBandwidth(annotations map[string]string) (*CNIBandwidth, error) {
	ingress, err := bandwidth(annotations, ingressBandwidth)
	if err != nil {
		return nil, err
	}
	egress, err := bandwidth(annotations, egressBandwidth)
	if err != nil || (ingress == 0 && egress == 0) {
		return nil, err
	}
	out := &CNIBandwidth{IngressRate: ingress, EgressRate: egress}
	// The plugin requires a burst with every rate. Like kubenet, set the largest it
	// accepts, which limits nothing.
	if ingress > 0 {
		out.IngressBurst = math.MaxInt32
	}
	if egress > 0 {
		out.EgressBurst = math.MaxInt32
	}
	return out, nil
}

// Kubernetes' limits on a bandwidth, in bits per second.
const (
	minBandwidth = 1e3
	maxBandwidth = 1e15
)

func bandwidth(annotations map[string]string, key string) (int64, error) {
	text, ok := annotations[key]
	if !ok {
		return 0, nil
	}
	bits, ok := parseQuantity(text)
	if !ok {
		return 0, invalid("annotations["+key+"]", "%q is not a quantity like 10M", text)
	}
	if bits < minBandwidth || bits > maxBandwidth {
		return 0, invalid("annotations["+key+"]", "%q is not in 1k..1P", text)
	}
	return bits, nil
}

// quantity is Kubernetes' notation: a decimal number with a suffix or an
// exponent. Lengths are bounded so that a hostile one is cheap to parse:
// apimachinery's resource.ParseQuantity takes a minute for 1e-99999999.
var quantity = regexp.MustCompile(`^\+?([0-9]{0,30}(?:\.[0-9]{0,30})?)(?:([KMGTPE]i|[numkMGTPE])|[eE]([+-]?[0-9]{1,2}))?$`)

var quantitySuffixes = map[string]*big.Rat{
	"n": big.NewRat(1, 1e9), "u": big.NewRat(1, 1e6), "m": big.NewRat(1, 1e3),
	"k": big.NewRat(1e3, 1), "M": big.NewRat(1e6, 1), "G": big.NewRat(1e9, 1),
	"T": big.NewRat(1e12, 1), "P": big.NewRat(1e15, 1), "E": big.NewRat(1e18, 1),
	"Ki": big.NewRat(1<<10, 1), "Mi": big.NewRat(1<<20, 1), "Gi": big.NewRat(1<<30, 1),
	"Ti": big.NewRat(1<<40, 1), "Pi": big.NewRat(1<<50, 1), "Ei": big.NewRat(1<<60, 1),
}

// parseQuantity parses a Kubernetes quantity, rounded up to a whole number as
// Kubernetes does.
func parseQuantity(text string) (int64, bool) {
	parts := quantity.FindStringSubmatch(text)
	if parts == nil || strings.Trim(parts[1], ".") == "" {
		return 0, false
	}
	number := parts[1]
	if parts[3] != "" {
		number += "e" + parts[3]
	}
	value, ok := new(big.Rat).SetString(number)
	if !ok {
		return 0, false
	}
	if suffix, ok := quantitySuffixes[parts[2]]; ok {
		value.Mul(value, suffix)
	}
	whole, rest := new(big.Int).QuoRem(value.Num(), value.Denom(), new(big.Int))
	if rest.Sign() > 0 {
		whole.Add(whole, big.NewInt(1))
	}
	if !whole.IsInt64() {
		return 0, false
	}
	return whole.Int64(), true
}
