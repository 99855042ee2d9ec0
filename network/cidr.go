package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"text/template"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
	"k8s.io/klog/v2"
)

// ipRangesCapability is the CNI convention for addresses chosen by the runtime.
const ipRangesCapability = "ipRanges"

// renderedConf is the file that Config.ConfTemplate is rendered into.
const renderedConf = "10-cridock.conflist"

// podCIDRs holds the node's address ranges, at most one of each family. The zero
// value has none.
type podCIDRs struct {
	update sync.Mutex // one SetPodCIDRs at a time

	mu     sync.RWMutex
	ranges []netip.Prefix
}

func (p *podCIDRs) get() []netip.Prefix {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.ranges
}

func (p *podCIDRs) set(ranges []netip.Prefix) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ranges = ranges
}

func (c *CNI) cidrFile() string { return filepath.Join(c.stateDir(), "pod-cidrs") }

// loadCIDRs reads the value saved by SetPodCIDRs; the kubelet does not repeat it
// when only the runtime restarts. A damaged file is ignored: it must not keep the
// runtime from starting.
func (c *CNI) loadCIDRs() error {
	data, err := os.ReadFile(c.cidrFile())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read pod CIDRs: %w", err)
	}
	ranges, err := parsePodCIDRs(strings.TrimSpace(string(data)))
	if err != nil {
		klog.Background().Error(err, "Ignoring the pod CIDRs saved on disk", "file", c.cidrFile())
		return nil
	}
	c.cidrs.set(ranges)
	return nil
}

// SetPodCIDRs sets the node's pod address ranges: one CIDR, or one of each family
// separated by a comma, as in the CRI's UpdateRuntimeConfig. They survive
// restarts, are passed to networks with the ipRanges capability, and are rendered
// into Config.ConfTemplate. It may be called at any time, with the same or another
// value; attached pods keep their addresses. An empty value changes nothing. An
// invalid one is ErrInvalidArgument.
//
// The template is text/template with .PodCIDR (the first), .PodCIDRRanges (all)
// and .Routes (the default route of each family), as in containerd. It is
// rendered to 10-cridock.conflist in the configuration directory, unless another
// configuration is already in use there.
func (c *CNI) SetPodCIDRs(cidrs string) error {
	if cidrs == "" {
		return nil
	}
	ranges, err := parsePodCIDRs(cidrs)
	if err != nil {
		return err
	}
	c.cidrs.update.Lock()
	defer c.cidrs.update.Unlock()
	if !slices.Equal(ranges, c.cidrs.get()) {
		if err := c.saveCIDRs(cidrs); err != nil {
			return err
		}
		c.cidrs.set(ranges)
	}
	if c.cfg.ConfTemplate == "" {
		return nil
	}
	return c.renderTemplate(ranges)
}

func (c *CNI) saveCIDRs(cidrs string) error {
	if err := os.MkdirAll(c.stateDir(), 0o700); err != nil {
		return fmt.Errorf("save pod CIDRs: %w", err)
	}
	file := c.cidrFile()
	if err := writeFileAtomically(file, file+".tmp", []byte(cidrs+"\n"), 0o600); err != nil {
		return fmt.Errorf("save pod CIDRs: %w", err)
	}
	return nil
}

func parsePodCIDRs(cidrs string) ([]netip.Prefix, error) {
	var ranges []netip.Prefix
	for _, text := range strings.Split(cidrs, ",") {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil {
			return nil, fmt.Errorf("pod CIDR %q: %w: %w", text, errdefs.ErrInvalidArgument, err)
		}
		for _, other := range ranges {
			if other.Addr().Is4() == prefix.Addr().Is4() {
				return nil, fmt.Errorf("pod CIDRs %q: %w: two of one family", cidrs, errdefs.ErrInvalidArgument)
			}
		}
		ranges = append(ranges, prefix.Masked())
	}
	return ranges, nil
}

// withIPRanges returns rt with the ipRanges capability if the network supports it
// and the caller did not set it. With one range set for each family, a pod gets
// one address of each.
func (c *CNI) withIPRanges(list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) *libcni.RuntimeConf {
	ranges := c.cidrs.get()
	if _, given := rt.CapabilityArgs[ipRangesCapability]; given || len(ranges) == 0 || !supports(list, ipRangesCapability) {
		return rt
	}
	sets := make([][]map[string]string, 0, len(ranges))
	for _, prefix := range ranges {
		sets = append(sets, []map[string]string{{"subnet": prefix.String()}})
	}
	changed := *rt
	changed.CapabilityArgs = maps.Clone(rt.CapabilityArgs)
	if changed.CapabilityArgs == nil {
		changed.CapabilityArgs = map[string]any{}
	}
	changed.CapabilityArgs[ipRangesCapability] = sets
	return &changed
}

// renderTemplate writes the configuration of Config.ConfTemplate and loads it.
func (c *CNI) renderTemplate(ranges []netip.Prefix) error {
	ctx := context.Background() // for the log only
	file := filepath.Join(c.cfg.ConfDir, renderedConf)
	c.reload(ctx)
	if conf, err := c.active(); err == nil && conf.path != file {
		return nil
	}
	data, err := executeTemplate(c.cfg.ConfTemplate, ranges)
	if err != nil {
		return fmt.Errorf("CNI configuration template %s: %w", c.cfg.ConfTemplate, err)
	}
	if now, err := os.ReadFile(file); err == nil && bytes.Equal(now, data) { //nolint:gosec // a flag names the directory
		return nil
	}
	if err := os.MkdirAll(c.cfg.ConfDir, 0o755); err != nil { //nolint:gosec // network add-ons make it like this
		return fmt.Errorf("write CNI configuration: %w", err)
	}
	if err := writeFileAtomically(file, file+".tmp", data, 0o644); err != nil {
		return fmt.Errorf("write CNI configuration: %w", err)
	}
	c.reload(ctx)
	return nil
}

// executeTemplate renders the template and makes sure that it is a usable
// configuration list.
func executeTemplate(path string, ranges []netip.Prefix) ([]byte, error) {
	tmpl, err := template.ParseFiles(path)
	if err != nil {
		return nil, err
	}
	var fields struct {
		PodCIDR       string
		PodCIDRRanges []string
		Routes        []string
	}
	fields.PodCIDR = ranges[0].String()
	for _, prefix := range ranges {
		fields.PodCIDRRanges = append(fields.PodCIDRRanges, prefix.String())
		route := "::/0"
		if prefix.Addr().Is4() {
			route = "0.0.0.0/0"
		}
		fields.Routes = append(fields.Routes, route)
	}
	var out bytes.Buffer
	if err := tmpl.Execute(&out, fields); err != nil {
		return nil, err
	}
	if _, err := libcni.NetworkConfFromBytes(out.Bytes()); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
