package stats

import (
	"os"
	"path/filepath"
	"testing"
)

// TestLayerBelow: a container that may mount can make any directory of the host
// look like its writable layer.
func TestLayerBelow(t *testing.T) {
	dir := t.TempDir()
	store, link := filepath.Join(dir, "store"), filepath.Join(dir, "link")
	if err := os.Mkdir(store, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(store, link); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		root, dir string
		ok        bool
	}{
		{store, store + "/snapshots/1/fs", true},
		{link, store + "/snapshots/1/fs", true},
		{link, link + "/snapshots/1/fs", true},
		{store, "", false},
		{store, store, false},
		{store, "/", false},
		{store, "/etc", false},
		{store, store + "/../other", false},
		{store, store + "-other/1", false},
		{"/nowhere", store + "/1", false},
	} {
		want := ""
		if tc.ok {
			want = tc.dir
		}
		if got := layerBelow(tc.root, tc.dir); got != want {
			t.Errorf("layerBelow(%q, %q) = %q, want %q", tc.root, tc.dir, got, want)
		}
	}
}
