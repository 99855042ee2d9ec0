package engine_test

import (
	"net"
	"testing"

	"github.com/docker/docker/api/types/registry"
	"github.com/docker/docker/api/types/system"
	"github.com/google/go-cmp/cmp"

	"github.com/cridock/cridock/shim/engine"
	"github.com/cridock/cridock/shim/engine/enginetest"
)

func TestCapabilitiesOfTheConfiguration(t *testing.T) {
	server := enginetest.New(t)
	server.SetInfo(func(i *system.Info) {
		i.SecurityOptions = append(i.SecurityOptions, "name=no-new-privileges")
		i.RegistryConfig = &registry.ServiceConfig{
			InsecureRegistryCIDRs: []*registry.NetIPNet{{IP: net.IPv4(127, 0, 0, 0).To4(), Mask: net.CIDRMask(8, 32)}},
			IndexConfigs: map[string]*registry.IndexInfo{
				"docker.io": {Name: "docker.io", Secure: true}, "registry.internal:5000": {Name: "registry.internal:5000"},
			},
		}
	})
	c, err := engine.New(server.Endpoint(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	caps, err := c.Refresh(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !caps.NoNewPrivileges {
		t.Error("no-new-privileges is not seen")
	}
	if diff := cmp.Diff([]string{"127.0.0.0/8", "registry.internal:5000"}, caps.InsecureRegistries); diff != "" {
		t.Errorf("insecure registries (-want +got):\n%s", diff)
	}
}

func TestEngineAtLeast(t *testing.T) {
	for version, want := range map[string]bool{
		"20.10.24+dfsg1": false, "25.0.6": false, "26.0.2": false, "26.1.0": true, "26.1.5+dfsg1": true, "28.5.2": true, "master": false, "": false,
	} {
		if got := (&engine.Capabilities{EngineVersion: version}).EngineAtLeast("26.1"); got != want {
			t.Errorf("%q is at least 26.1: %t", version, got)
		}
	}
	if (*engine.Capabilities)(nil).EngineAtLeast("1") {
		t.Error("an unknown engine has a version")
	}
}
