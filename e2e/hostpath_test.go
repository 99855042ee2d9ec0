package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestAbsentHostPath: a host path that does not exist is created as a
// directory, but not through an obstacle on the way, and not where the settings
// reject it. cridock runs with a narrow umask, as a service manager may set
// one.
func TestAbsentHostPath(t *testing.T) {
	t.Parallel()
	needEngine(t)
	n := newNode(t)
	dir := t.TempDir()
	rejected := filepath.Join(dir, "rejected")
	c := installCridock(t, n, "cni", "--absent-mount-sources-to-reject=/etc/no-such-file,"+rejected+"/")
	args := append([]string{"sh", "-c", `umask 077; exec "$@"`, "sh", binary}, c.serve()...)
	if err := c.launchAs(c.command(args...)); err != nil {
		t.Fatal(err)
	}
	if err := c.awaitReady(time.Minute); err != nil {
		t.Fatal(err)
	}
	for link, target := range map[string]string{"link": "real", "dangling": "nowhere", "loop": "loop", "around": "."} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "real"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	p := c.runPod(t)
	mount := func(path string, change func(*runtimeapi.Mount)) ctrOption {
		m := &runtimeapi.Mount{HostPath: filepath.Join(dir, path), ContainerPath: "/dir"}
		change(m)
		return func(cfg *runtimeapi.ContainerConfig) { cfg.Mounts = []*runtimeapi.Mount{m} }
	}
	plain := func(*runtimeapi.Mount) {}
	for name, tc := range map[string]struct {
		path, real string
		change     func(*runtimeapi.Mount)
	}{
		"plain":         {"a", "a", plain},
		"parents":       {"b/c/d", "b/c/d", plain},
		"readonly":      {"ro/e", "ro/e", func(m *runtimeapi.Mount) { m.Readonly = true }},
		"bidirectional": {"bi/f", "bi/f", func(m *runtimeapi.Mount) { m.Propagation = runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL }},
		"behind-a-link": {"link/g/h", "real/g/h", plain},
	} {
		t.Run(name, func(t *testing.T) {
			main := p.in(t).start(name, "touch /dir/file; sleep 1000", mount(tc.path, tc.change))
			if got := main.status().Mounts[0].HostPath; got != filepath.Join(dir, tc.real) {
				t.Errorf("the status has host path %s", got)
			}
			for made := tc.real; made != "." && made != "real"; made = filepath.Dir(made) {
				wantRootDirectory(t, filepath.Join(dir, made))
			}
			main.stop(0)
		})
	}
	before := pathsBelow(t, dir)
	for _, path := range []string{"dangling", "dangling/a", "loop/a", "file/a", "rejected", "rejected/below", "around/rejected"} {
		_, err := p.tryCreate(p.ctrConfig("refused", "true", mount(path, plain)))
		wantCode(t, err, codes.FailedPrecondition, "mounts[0].host_path")
	}
	if after := pathsBelow(t, dir); after != before {
		t.Errorf("refused host paths have left\n%s\nbefore there was\n%s", after, before)
	}
}

// wantRootDirectory wants a directory that root owns and all can read.
func wantRootDirectory(t *testing.T, path string) {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if owner := info.Sys().(*syscall.Stat_t); info.Mode() != os.ModeDir|0o755 || owner.Uid != 0 || owner.Gid != 0 {
		t.Errorf("%s is %v of %d:%d, want drwxr-xr-x of root", path, info.Mode(), owner.Uid, owner.Gid)
	}
}

// pathsBelow lists all paths below a directory.
func pathsBelow(t *testing.T, dir string) string {
	t.Helper()
	var paths []string
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		paths = append(paths, path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(paths, "\n")
}
