package network

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

func TestSetPodCIDRs(t *testing.T) {
	tests := []struct {
		cidrs string
		want  []string // nil: refused
	}{
		{"10.244.1.0/24", []string{"10.244.1.0/24"}},
		{"10.244.1.0/24,fd00:1::/64", []string{"10.244.1.0/24", "fd00:1::/64"}},
		{"fd00:1::/64, 10.244.1.0/24", []string{"fd00:1::/64", "10.244.1.0/24"}},
		{"10.244.1.7/24", []string{"10.244.1.0/24"}},
		{"10.244.1.0", nil},
		{"10.244.1.0/33", nil},
		{"10.244.1.0/24,", nil},
		{"10.244.1.0/24,10.244.2.0/24", nil},
	}
	for _, tt := range tests {
		n := newNode(t)
		c := n.start()
		for range 2 {
			if err := c.SetPodCIDRs(tt.cidrs); (tt.want == nil) != errdefs.IsInvalidArgument(err) {
				t.Errorf("SetPodCIDRs(%q) = %v", tt.cidrs, err)
			}
		}
		if diff := cmp.Diff(tt.want, n.start().Describe().PodCIDRs); diff != "" {
			t.Errorf("%q after a restart (-want +got):\n%s", tt.cidrs, diff)
		}
	}
}

func TestIPRanges(t *testing.T) {
	n := newNode(t)
	n.writeConf("10-one.conflist", oneConf)
	c := n.start()
	for _, cidrs := range []string{"10.1.0.0/24", "", "10.2.0.0/24,fd00::/64"} {
		if err := c.SetPodCIDRs(cidrs); err != nil {
			t.Fatal(err)
		}
	}
	rt := n.pod("a")
	if _, err := c.Setup(t.Context(), rt); err != nil {
		t.Fatal(err)
	}
	if _, changed := rt.CapabilityArgs["ipRanges"]; changed {
		t.Error("Setup changed the caller's capability arguments")
	}
	if err := c.SetPodCIDRs("10.3.0.0/24"); err != nil {
		t.Fatal(err)
	}
	if err := n.start().Teardown(t.Context(), rt); err != nil {
		t.Fatal(err)
	}
	want := []any{[]any{map[string]any{"subnet": "10.2.0.0/24"}}, []any{map[string]any{"subnet": "fd00::/64"}}}
	for _, command := range []string{"ADD", "DEL"} {
		got := n.exec.of(command)[0].conf["runtimeConfig"].(map[string]any)["ipRanges"]
		if diff := cmp.Diff(any(want), got); diff != "" {
			t.Errorf("ipRanges of %s (-want +got):\n%s", command, diff)
		}
	}
}

func TestDamagedPodCIDRsAreIgnored(t *testing.T) {
	n := newNode(t)
	c := n.start()
	if err := os.MkdirAll(filepath.Dir(c.cidrFile()), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.cidrFile(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := n.start().Describe().PodCIDRs; got != nil {
		t.Errorf("pod CIDRs = %v, want none", got)
	}
}

func TestConfTemplate(t *testing.T) {
	const text = `{"cniVersion":"1.0.0","name":"rendered","plugins":[{"type":"fake","ranges":[{{range $i, $r := .PodCIDRRanges}}{{if $i}},{{end}}"{{$r}}"{{end}}],"first":"{{.PodCIDR}}","routes":"{{.Routes}}"}]}`
	n := newNode(t)
	n.cfg.ConfTemplate = filepath.Join(t.TempDir(), "conf.tmpl")
	if err := os.WriteFile(n.cfg.ConfTemplate, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(n.cfg.ConfDir); err != nil {
		t.Fatal(err)
	}
	c := n.start()
	for cidrs, want := range map[string]string{
		"10.1.0.0/24,fd00::/64": `"ranges":["10.1.0.0/24","fd00::/64"],"first":"10.1.0.0/24","routes":"[0.0.0.0/0 ::/0]"`,
		"10.2.0.0/24":           `"ranges":["10.2.0.0/24"],"first":"10.2.0.0/24"`,
	} {
		if err := c.SetPodCIDRs(cidrs); err != nil {
			t.Fatal(err)
		}
		if conf, err := c.active(); err != nil || !strings.Contains(string(conf.list.Bytes), want) {
			t.Errorf("%s: in use is %+v, %v", cidrs, conf, err)
		}
	}
	n.removeConf(renderedConf)
	n.writeConf("50-other.conflist", oneConf)
	if err := c.SetPodCIDRs("10.4.0.0/24"); err != nil {
		t.Fatal(err)
	}
	if d := c.Describe(); d.File != "50-other.conflist" {
		t.Errorf("a network that was there already was overruled: %+v", d)
	}
	n.removeConf("50-other.conflist")
	if err := os.WriteFile(n.cfg.ConfTemplate, []byte("{{.PodCIDR}}"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := c.SetPodCIDRs("10.4.0.0/24"); err == nil {
		t.Error("a template that makes no configuration was accepted")
	}
}
