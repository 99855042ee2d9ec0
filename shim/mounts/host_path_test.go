package mounts_test

import (
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestHostPath: links are followed, and a missing path becomes a directory.
func TestHostPath(t *testing.T) {
	n := newNode(t)
	n.write("real/file", "")
	n.must(os.Symlink("real", n.path("link")))
	for path, want := range map[string]string{
		"real": "real", "link": "real", "link/file": "real/file", "a": "a", "b/c/d": "b/c/d", "link/e/f": "real/e/f",
	} {
		got, err := n.resolve("c", &runtimeapi.Mount{HostPath: n.path(path)})
		if err != nil || got[0].Source != n.path(want) {
			t.Errorf("the source of %s is %v, %v; want %s", path, got, err, n.path(want))
		}
		if info, err := os.Lstat(n.path(want)); err != nil || info.IsDir() == strings.HasSuffix(want, "file") {
			t.Errorf("%s: %v, %v", want, info, err)
		}
	}
}

// TestHostPathRefused: nothing is created through a dangling link, and nothing
// where the settings reject it, on whatever way a path leads there.
func TestHostPathRefused(t *testing.T) {
	n := newNode(t)
	n.options.AbsentSourcesToReject = []string{"/etc/no-such-file", n.path("rejected") + "/", n.path("around/as-written")}
	n.restart()
	n.write("file", "")
	for link, target := range map[string]string{"dangling": "nowhere", "loop": "loop", "around": "."} {
		n.must(os.Symlink(target, n.path(link)))
	}
	before := strings.Join(n.names("."), " ")
	for _, path := range []string{"dangling", "dangling/a", "loop/a", "file/a", "rejected", "rejected/below", "around/rejected", "x/../rejected", "around/as-written/a"} {
		_, err := n.resolve("c", &runtimeapi.Mount{HostPath: n.dir}, &runtimeapi.Mount{HostPath: n.dir + "/" + path})
		if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "mounts[1].host_path") {
			t.Errorf("%s: %v, want ErrFailedPrecondition of mounts[1].host_path", path, err)
		}
	}
	if after := strings.Join(n.names("."), " "); after != before {
		t.Errorf("there is %s, before there was %s", after, before)
	}
}
