package images

import (
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/cridock/cridock/translate"
)

// TestLayers: what Docker does not report about a container's layer is read
// from its process, and kept after the process exits but not after the
// container is removed.
func TestLayers(t *testing.T) {
	var l layers
	processes := map[int]string{7: "/snapshots/7", 8: ""}
	upperDir := func(_ string, pid int) (string, error) {
		dir, ok := processes[pid]
		if !ok {
			return "", errdefs.ErrNotFound
		}
		return dir, nil
	}
	want := func(dirs []string, containers ...*translate.Container) {
		t.Helper()
		if diff := cmp.Diff(dirs, l.dirs(containers, upperDir)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	told := &translate.Container{ID: "told", Pid: 7, UpperDir: "/overlay2/told/diff"}
	noOverlay := &translate.Container{ID: "no overlay", Pid: 8}
	neverSeen := &translate.Container{ID: "never seen running"}
	want([]string{"/overlay2/told/diff", "/snapshots/7"}, told, noOverlay, neverSeen, &translate.Container{ID: "runs", Pid: 7})
	delete(processes, 7)
	want([]string{"/snapshots/7"}, noOverlay, &translate.Container{ID: "runs"})
	want([]string{}, &translate.Container{ID: "ended too soon", Pid: 9})
	if len(l.learned) != 1 {
		t.Errorf("kept of containers that are gone: %v", l.learned)
	}
}
