package network

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// eventually waits until the expected network is in use.
func eventually(t *testing.T, c *CNI, what, want string) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for c.Describe().Network != want {
		if time.Now().After(deadline) {
			t.Fatalf("%s: network in use is %+v, want %q", what, c.Describe(), want)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// watching runs c until the test ends.
func watching(t *testing.T, c *CNI) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func named(name string) string { return strings.Replace(oneConf, `"one"`, `"`+name+`"`, 1) }

func TestRunFollowsTheDirectory(t *testing.T) {
	n := newNode(t)
	parent := filepath.Join(filepath.Dir(n.cfg.ConfDir), "etc")
	n.cfg.ConfDir = filepath.Join(parent, "cni", "net.d") // parent is missing too
	c := n.start()
	watching(t, c)

	mkdir := func() {
		t.Helper()
		if err := os.MkdirAll(n.cfg.ConfDir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mkdir()
	n.writeConf("10-one.conflist", oneConf)
	eventually(t, c, "directory appears", "one")
	n.writeConf("05-two.conflist", named("two"))
	eventually(t, c, "earlier file added", "two")
	n.removeConf("05-two.conflist")
	eventually(t, c, "it is removed", "one")
	if err := os.Rename(filepath.Join(n.cfg.ConfDir, "10-one.conflist"), filepath.Join(n.cfg.ConfDir, "10-one.off")); err != nil {
		t.Fatal(err)
	}
	eventually(t, c, "file renamed away", "")
	n.writeConf("10-three.conf", `{"cniVersion":"1.0.0","name":"three","type":"fake"}`)
	eventually(t, c, "single configuration", "three")
	if err := os.RemoveAll(parent); err != nil {
		t.Fatal(err)
	}
	eventually(t, c, "directory removed", "")
	mkdir()
	n.writeConf("10-four.conflist", named("four"))
	eventually(t, c, "directory made again", "four")
	if err := os.Rename(n.cfg.ConfDir, n.cfg.ConfDir+".old"); err != nil {
		t.Fatal(err)
	}
	eventually(t, c, "directory renamed away", "")
	mkdir()
	n.writeConf("10-five.conflist", named("five"))
	eventually(t, c, "directory replaced", "five")
	n.writeConf("10-five.conflist", named("six"))
	eventually(t, c, "file changed in the replaced directory", "six")
}

// A half-written configuration file must not move pods to another network.
func TestBrokenFileKeepsItsLastContent(t *testing.T) {
	n := newNode(t)
	n.writeConf("10-one.conflist", oneConf)
	n.writeConf("20-two.conflist", named("two"))
	c := n.start()
	n.writeConf("10-one.conflist", oneConf[:20])
	c.reload(t.Context())
	if d := c.Describe(); d.Network != "one" || d.BrokenFiles["10-one.conflist"] == "" {
		t.Errorf("after a torn write: %+v", d)
	}
	n.removeConf("10-one.conflist")
	c.reload(t.Context())
	if d := c.Describe(); d.Network != "two" || len(d.BrokenFiles) != 0 {
		t.Errorf("after the file is gone: %+v", d)
	}
}

// Plugins in the network's own folder are part of what DEL gets.
func TestPluginFolderIsKeptForDEL(t *testing.T) {
	n := newNode(t)
	c := n.start()
	watching(t, c)
	folder := filepath.Join(n.cfg.ConfDir, "one")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "10.conf"), []byte(`{"type":"extra"}`), 0o644); err != nil {
		t.Fatal(err)
	}
	n.writeConf("10-one.conflist", oneConf)
	eventually(t, c, "network with folder", "one")
	if _, err := c.Setup(t.Context(), n.pod("a")); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(n.cfg.ConfDir); err != nil {
		t.Fatal(err)
	}
	eventually(t, c, "all removed", "")
	if err := c.Teardown(t.Context(), n.pod("a")); err != nil {
		t.Fatal(err)
	}
	if dels := n.exec.of("DEL"); len(dels) != 2 || dels[0].plugin != "extra" || dels[1].plugin != "fake" {
		t.Errorf("DEL calls %+v, want extra, then fake", dels)
	}
}
