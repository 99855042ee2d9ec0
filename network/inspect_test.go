package network

import (
	"context"
	"errors"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestInstalledPlugins(t *testing.T) {
	n := newNode(t)
	n.writeConf("10-two.conflist", `{"cniVersion":"1.0.0","name":"two","plugins":[
		{"type":"bridge","ipam":{"type":"host-local"}},{"type":"old"},{"type":"broken"},{"type":"bridge"},{"type":"missing"}]}`)
	c := n.start()
	n.exec.missing = map[string]bool{"missing": true}
	n.exec.answer(func(_ context.Context, c call) (string, error) {
		switch {
		case c.command != "VERSION":
			t.Errorf("%s of %s", c.command, c.plugin)
		case c.plugin == "broken":
			return "", errPlugin
		case c.plugin == "old":
			return `{"cniVersion":"0.4.0","supportedVersions":["0.3.1","0.4.0"]}`, nil
		}
		return `{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}`, nil
	})
	got, err := c.InstalledPlugins(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	dir := n.cfg.BinDirs[0]
	want := []InstalledPlugin{
		{Type: "bridge", Path: dir + "/bridge", Versions: []string{"0.4.0", "1.0.0"}},
		{Type: "host-local", Path: dir + "/host-local", Versions: []string{"0.4.0", "1.0.0"}},
		{Type: "old", Path: dir + "/old", Versions: []string{"0.3.1", "0.4.0"}},
		{Type: "broken", Path: dir + "/broken", Err: errPlugin},
		{Type: "missing", Err: cmpopts.AnyError},
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateErrors()); diff != "" {
		t.Errorf("plugins (-want +got):\n%s", diff)
	}
	if got[0].Speaks("1.1.0") || !got[0].Speaks("1.0.0") {
		t.Error("Speaks is wrong about the first plugin")
	}
}

func TestInstalledPluginsWithoutNetwork(t *testing.T) {
	if got, err := newNode(t).start().InstalledPlugins(t.Context()); err == nil {
		t.Errorf("got %v, want why there is no network", got)
	}
}

// TestStale: Stale returns what GC would release, and does not release it.
func TestStale(t *testing.T) {
	n := newNode(t)
	n.writeConf("10-one.conflist", oneConf)
	before := n.start()
	for _, id := range []string{"live", "stale"} {
		if _, err := before.Setup(t.Context(), n.pod(id)); err != nil {
			t.Fatal(err)
		}
	}
	if stale, err := before.Stale(nil); err != nil || len(stale) != 0 {
		t.Errorf("for the process that attached them: %q, %v", stale, err)
	}
	c := n.start()
	for range 2 {
		stale, err := c.Stale([]string{"live"})
		if diff := cmp.Diff([]string{"stale"}, stale); err != nil || diff != "" {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
	}
	if len(n.exec.of("DEL")) != 0 {
		t.Error("it ran DEL")
	}
	if _, err := os.Stat(n.cfg.CacheDir + "/results/one-stale-eth0"); errors.Is(err, os.ErrNotExist) {
		t.Error("it removed the result")
	}
}
