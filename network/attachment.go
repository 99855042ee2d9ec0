package network

import (
	"errors"
	"fmt"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
)

// Attachment is a container's completed attachment to a network.
type Attachment struct {
	ContainerID string `json:"containerID"`
	// Network is the name of the network, from its configuration.
	Network string `json:"network"`
	// IfName is the interface inside the sandbox.
	IfName string `json:"ifName"`
	// NetNS is the namespace's path at ADD.
	NetNS string `json:"netns"`
	// IPs are the sandbox's addresses without prefix length, in the order of
	// the result; the first is the primary. There is at least one.
	IPs []string `json:"ips"`
	// Result is the result of ADD, converted to the newest CNI version known here.
	Result *types100.Result `json:"result"`
}

// newAttachment reads an ADD result of any version. A result without an address
// for the sandbox is an error: the pod would be unreachable.
func newAttachment(network string, rt *libcni.RuntimeConf, result types.Result) (*Attachment, error) {
	current, err := types100.NewResultFromResult(result)
	if err != nil {
		return nil, fmt.Errorf("result: %w", err)
	}
	ips := sandboxIPs(current, rt.IfName)
	if len(ips) == 0 {
		return nil, errors.New("result has no address for the sandbox")
	}
	return &Attachment{
		ContainerID: rt.ContainerID,
		Network:     network,
		IfName:      rt.IfName,
		NetNS:       rt.NetNS,
		IPs:         ips,
		Result:      current,
	}, nil
}

// sandboxIPs returns the addresses of the result, without those of the host's
// interfaces and of the sandbox's other interfaces. Results need not name
// interfaces (before 0.3 they could not).
func sandboxIPs(result *types100.Result, ifName string) []string {
	var ips []string
	for _, ip := range result.IPs {
		if ip == nil || len(ip.Address.IP) == 0 {
			continue
		}
		if i := ip.Interface; i != nil && *i >= 0 && *i < len(result.Interfaces) && result.Interfaces[*i] != nil {
			owner := result.Interfaces[*i]
			if owner.Sandbox == "" || owner.Name != ifName {
				continue
			}
		}
		ips = append(ips, ip.Address.IP.String())
	}
	return ips
}
