package shim_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"google.golang.org/grpc/codes"

	"github.com/cridock/cridock/translate"
)

// outside creates a directory beside the logs with a file of each name.
func (n *node) outside(names ...string) (dir string) {
	n.t.Helper()
	dir = filepath.Join(n.dir, "outside")
	n.must(os.MkdirAll(dir, 0o755))
	for _, name := range names {
		n.must(os.WriteFile(filepath.Join(dir, name), []byte("precious\ntorn"), 0o600))
	}
	return dir
}

// checkOutside checks that the directory is unchanged.
func (n *node) checkOutside(dir string, names ...string) {
	n.t.Helper()
	entries, err := os.ReadDir(dir)
	n.must(err)
	if len(entries) != len(names) {
		n.t.Errorf("outside there is %v, want %q", entries, names)
	}
	for _, name := range names {
		if b, err := os.ReadFile(filepath.Join(dir, name)); string(b) != "precious\ntorn" || err != nil {
			n.t.Errorf("%s outside holds %q, %v", name, b, err)
		}
	}
}

// TestHostileLogDirectory: a pod replaces its log directory by a link to
// elsewhere. Nothing is changed there; no container starts without a log, the
// error states the reason, and nothing waits for the log.
func TestHostileLogDirectory(t *testing.T) {
	for _, mode := range []string{"cri", "symlink"} {
		t.Run(mode, func(t *testing.T) {
			n := newNode(t, func(n *node) { n.cfg.SymlinkLogs, n.cfg.DrainTimeout = mode == "symlink", time.Hour })
			outside := n.outside("main_0.log", "later_0.log")
			n.must(os.Symlink("precious", filepath.Join(outside, "link_0.log")))
			cfg := n.podConfig("web")
			pod := n.runPod(cfg)
			running := n.runContainer(pod, containerConfig("main", "sh", "-c", "echo hello; sleep 1000"))
			linked := n.create(pod, containerConfig("link", "sleep", "1"))
			later := n.create(pod, containerConfig("later", "sleep", "1"))
			n.must(os.Rename(cfg.LogDirectory, cfg.LogDirectory+".aside"))
			n.must(os.Symlink(outside, cfg.LogDirectory))

			for _, id := range []string{later, linked} {
				wantCode(t, n.tryStart(id), codes.FailedPrecondition, "log of container "+id, cfg.LogDirectory, "symbolic link")
			}
			begun := time.Now()
			n.must(n.stopContainer(running, 0))
			if took := time.Since(begun); took > time.Minute { // far less than the wait for a log
				t.Errorf("the stop took %v", took)
			}
			for _, id := range []string{running, later, linked} {
				n.must(n.removeContainer(id))
			}
			n.must(n.removePod(pod))

			// As with other runtimes, which do not check it.
			pod = n.runPod(cfg)
			id := n.create(pod, containerConfig("main", "sleep", "1"))
			wantCode(t, n.tryStart(id), codes.FailedPrecondition, "symbolic link")
			n.must(os.Remove(cfg.LogDirectory))
			n.startContainer(id)
			n.must(n.removePod(pod))
			if link, err := os.Readlink(filepath.Join(outside, "link_0.log")); link != "precious" || err != nil {
				t.Errorf("the link outside leads to %q, %v", link, err)
			}
			n.must(os.Remove(filepath.Join(outside, "link_0.log")))
			n.checkOutside(outside, "main_0.log", "later_0.log")
		})
	}
}

// TestLogDirectoryElsewhere: a directory chosen by the client is used, but
// nothing below it is trusted.
func TestLogDirectoryElsewhere(t *testing.T) {
	n := newNode(t)
	outside := n.outside("main_0.log")
	cfg := n.podConfig("web")
	cfg.LogDirectory = filepath.Join(n.dir, "link", "..", "link", "else") + "/"
	n.must(os.Mkdir(filepath.Join(n.dir, "real"), 0o755))
	n.must(os.Symlink("real", filepath.Join(n.dir, "link")))
	pod := n.runPod(cfg)
	ctr := containerConfig("main", "echo", "hello")
	ctr.LogPath = "sub/./main_0.log"
	id := n.runContainer(pod, ctr)
	n.eventually("the line is in the log", func() bool {
		b, err := os.ReadFile(filepath.Join(n.dir, "real/else/sub/main_0.log"))
		return err == nil && strings.HasSuffix(string(b), " F hello\n")
	})
	other := containerConfig("other", "echo", "hello")
	other.LogPath = "trap/main_0.log"
	n.must(os.Symlink(outside, filepath.Join(n.dir, "real/else/trap")))
	wantCode(t, n.tryStart(n.create(pod, other)), codes.FailedPrecondition, "symbolic link")
	n.must(n.removeContainer(id))
	n.must(n.removePod(pod))
	n.checkOutside(outside, "main_0.log")
}

// TestAdoptedLogElsewhere: the label of another adapter's container names no
// file outside the pods' log directory.
func TestAdoptedLogElsewhere(t *testing.T) {
	n := newNode(t)
	outside := n.outside("linked.log", "file.log")
	n.must(os.Remove(filepath.Join(outside, "linked.log")))
	n.must(os.Symlink("file.log", filepath.Join(outside, "linked.log")))
	logs := filepath.Join(n.dir, "pods")
	n.must(os.MkdirAll(logs, 0o755))
	var ids []string
	for i, path := range []string{outside + "/linked.log", outside + "/file.log", outside + "/new.log", logs + "/../outside/file.log", logs, logs + "/good.log"} {
		name := "k8s_c" + string(rune('a'+i)) + "_pod_default_uid_0"
		ids = append(ids, n.adopted(name, path))
	}
	n.stop()
	n.start()
	for _, id := range ids[:5] {
		if lines := n.logs.Lines("is not below pod-logs-dir"); !strings.Contains(lines, id) {
			t.Errorf("the log does not say that the log of %s is not written", id)
		}
		n.must(n.stopContainer(id, 0))
	}
	if _, err := os.Stat(logs + "/good.log"); err != nil {
		t.Errorf("the log of the one that may have it: %v", err)
	}
	for _, id := range ids {
		n.must(n.removeContainer(id))
	}
	if link, err := os.Readlink(outside + "/linked.log"); link != "file.log" || err != nil {
		t.Errorf("the link outside leads to %q, %v", link, err)
	}
	n.must(os.Remove(outside + "/linked.log"))
	n.checkOutside(outside, "file.log")
}

// adopted runs a container as cri-dockerd would, with the given CRI log.
func (n *node) adopted(name, logPath string) string {
	n.t.Helper()
	c := n.call()
	id, err := c.ContainerCreate(n.ctx, name, &container.Config{Image: testImage, Cmd: []string{"sleep", "1000"}, Labels: map[string]string{
		translate.LabelType: string(translate.KindContainer), translate.LabelLogPath: logPath, translate.LabelSandboxID: strings.Repeat("a", 64),
		translate.LabelPodName: "pod", translate.LabelPodNamespace: "default", translate.LabelPodUID: "uid",
	}}, &container.HostConfig{LogConfig: container.LogConfig{Type: "json-file"}}, nil)
	n.must(err)
	n.must(c.ContainerStart(n.ctx, id))
	return id
}

// TestStoredUpdates: names of cgroup files are checked when they are read, and
// a container with a damaged file is still listed.
func TestStoredUpdates(t *testing.T) {
	group, with := withCgroup(t, map[string]string{"memory.high": "max", "cgroup.freeze": "0"})
	n := newNode(t, with)
	n.engine.app.Store(int64(os.Getpid()))
	id := n.runContainer(n.runPod(n.podConfig("pod")), containerConfig("a", "sleep", "1000"))
	wantCode(t, n.update(id, &linuxResources{Unified: map[string]string{"cgroup.freeze": "1"}}), codes.InvalidArgument, "cgroup.freeze")
	n.must(n.update(id, &linuxResources{Unified: map[string]string{"memory.high": "60000000"}}))
	n.stop()
	file := filepath.Join(n.cfg.RootDir, "containers", id, "resources.json")
	if _, err := os.Stat(file); err != nil {
		t.Fatal(err)
	}
	n.must(os.WriteFile(file, []byte(`{"unified":{"cgroup.freeze":"1"}}`), 0o600))
	n.start()
	n.engine.app.Store(int64(os.Getpid()))
	n.checkResources(id, &linuxResources{})
	for range 2 { // the first update tells this process the container's cgroup
		n.must(n.update(id, &linuxResources{Unified: map[string]string{"memory.high": "50000000"}}))
	}
	if !group.has(t, "cgroup.freeze", "0") || !group.has(t, "memory.high", "50000000") {
		t.Error("the cgroup is not as the last update says")
	}
}

// TestStateOverLinks: links in cridock's own directories are not followed
// either.
func TestStateOverLinks(t *testing.T) {
	n := newNode(t)
	outside := n.outside("file")
	n.must(os.MkdirAll(n.cfg.RootDir, 0o755))
	n.must(os.Symlink(outside, filepath.Join(n.cfg.RootDir, "sandboxes")))
	_, err := n.tryRunPod(n.podConfig("web"))
	wantCode(t, err, codes.FailedPrecondition, "symbolic link")
	n.must(os.Remove(filepath.Join(n.cfg.RootDir, "sandboxes")))
	cfg := n.podConfig("web")
	pod := n.runPod(cfg)
	dirs, err := filepath.Glob(filepath.Join(n.cfg.RootDir, "sandboxes", "*"))
	if err != nil || len(dirs) != 1 {
		t.Fatal(dirs, err)
	}
	n.must(os.RemoveAll(dirs[0]))
	n.must(os.Symlink(outside, dirs[0]))
	n.must(n.removePod(pod))
	if _, err := os.Lstat(dirs[0]); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the link is left: %v", err)
	}
	n.checkOutside(outside, "file")
}
