package network

import (
	"net"

	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/cridock/cridock/internal/netns"
)

// Adopt returns the attachment of a container that another runtime has attached
// and that may have no result cache entry: the one that Attachment returns, or
// else one read from the pod's interface in the network namespace, which is then
// kept in memory until Teardown. false means that the container has no address.
//
// Adopt writes no record: Teardown runs DEL of the default network.
func (c *CNI) Adopt(containerID, path string) (*Attachment, bool) {
	if a, ok := c.Attachment(containerID); ok {
		return a, true
	}
	result := &types100.Result{
		CNIVersion: types100.ImplementedSpecVersion,
		Interfaces: []*types100.Interface{{Name: defaultIfName, Sandbox: path}},
	}
	err := netns.DoAt(path, func() (err error) {
		result.IPs, err = addresses(defaultIfName)
		return err
	})
	if err != nil || len(result.IPs) == 0 {
		return nil, false
	}
	a := &Attachment{ContainerID: containerID, IfName: defaultIfName, NetNS: path, Result: result}
	for _, ip := range result.IPs {
		a.IPs = append(a.IPs, ip.Address.IP.String())
	}
	if conf, err := c.active(); err == nil {
		a.Network = conf.list.Name
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.attachments[containerID] = a
	return a, true
}

// addresses returns the global unicast addresses of an interface in the thread's
// network namespace, IPv4 before IPv6.
func addresses(ifName string) (v4 []*types100.IPConfig, err error) {
	i, err := net.InterfaceByName(ifName)
	if err != nil {
		return nil, err
	}
	addrs, err := i.Addrs()
	if err != nil {
		return nil, err
	}
	var v6 []*types100.IPConfig
	for _, addr := range addrs {
		ipnet, ok := addr.(*net.IPNet)
		if !ok || !ipnet.IP.IsGlobalUnicast() {
			continue
		}
		ip := &types100.IPConfig{Interface: types100.Int(0), Address: *ipnet}
		if ipnet.IP.To4() != nil {
			v4 = append(v4, ip)
		} else {
			v6 = append(v6, ip)
		}
	}
	return append(v4, v6...), nil
}
