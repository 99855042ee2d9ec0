package app

import (
	"io"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/klog/v2"
)

// TestServiceSettings: the migration has the settings with which the service is started.
func TestServiceSettings(t *testing.T) {
	defer klog.CaptureState().Restore() // --v
	file := filepath.Join(t.TempDir(), "cridock.yaml")
	write(t, file, "root-directory: /srv/cridock\ncontainer-log-mode: symlink\nnetwork-plugin: no-op\n")
	none := "--config-dir=" + t.TempDir()
	s, err := serviceSettings([]string{"serve", "--config", file, none, "--v=4", "--container-runtime-endpoint=fd://", "--cni-bin-dir=/a,/b"})
	if err != nil {
		t.Fatal(err)
	}
	if s.RootDir != "/srv/cridock" || s.Endpoint != "fd://" || !s.LinkedLogs || s.NetworkPlugin != "docker" || strings.Join(s.CNIBinDirs, ",") != "/a,/b" || "--config-dir="+s.ConfigDir != none {
		t.Errorf("settings are %+v", s)
	}
	for _, args := range [][]string{{"serve", "--no-such-flag"}, {"doctor"}, {"serve", "more"}, {none, "--config=" + file + ".none"}, {none, "--container-log-mode=other"}} {
		if _, err := serviceSettings(args); err == nil {
			t.Errorf("%q are settings", args)
		}
	}
}

// TestMigrateTakesNoSettings: a setting on its command line would have no effect.
func TestMigrateTakesNoSettings(t *testing.T) {
	defer klog.CaptureState().Restore()
	cmd := NewCommand("")
	cmd.SetOut(io.Discard)
	cmd.SetErr(io.Discard)
	cmd.SetArgs([]string{"migrate", "--from=cri-dockerd", "--dry-run", "--v=0", "--root-directory=/x"})
	if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), "--root-directory: migrate takes cridock's settings from cridock.service") || strings.Contains(err.Error(), "--v") {
		t.Errorf("error is %v", err)
	}
}
