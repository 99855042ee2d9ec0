package e2e

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// attack is one way in which an image, a pod's author or a local user tries to
// gain more than they are entitled to. It fails the test if it works.
type attack struct {
	name string
	try  func(t *testing.T, p *pod)
}

// restartAttack is an attack that takes effect when cridock starts. prepare
// runs before cridock is killed; away, which may be nil, runs while it is down;
// check runs afterwards.
type restartAttack struct {
	name    string
	prepare func(t *testing.T, c *cridock) (away func(), check func(t *testing.T))
}

// TestHostile tries all attacks on one cridock: first those on a running one,
// in parallel, then those on its start, and last the one that tries to starve
// it.
func TestHostile(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	c := newCridock(t, n, "cni", append(podLogsFlag(t, n), "--metrics-bind-address="+hostileMetrics)...)
	t.Run("running", func(t *testing.T) {
		// Containers of one pod are created one at a time.
		pods := []*pod{c.runPod(t), c.runPod(t), c.runPod(t), c.runPod(t)}
		attacks := attacks()
		for i, a := range attacks {
			t.Run(a.name, func(t *testing.T) {
				t.Parallel()
				a.try(t, pods[i%len(pods)].in(t))
			})
		}
	})
	t.Run("restarted", func(t *testing.T) {
		checks := map[string]func(t *testing.T){}
		var away []func()
		for _, a := range restartAttacks() {
			while, check := a.prepare(t, c)
			if while != nil {
				away = append(away, while)
			}
			checks[a.name] = check
		}
		before := c.starts(t)
		c.restart(t, func() {
			for _, do := range away {
				do()
			}
		})
		eventually(t, "cridock's start is over", time.Minute, func() bool { return c.starts(t) > before })
		for name, check := range checks {
			t.Run(name, check)
		}
	})
	t.Run("half-open connections", func(t *testing.T) { starve(t, c) })
}

// podLogsFlag returns the flag that tells cridock where the tests' pods have
// their logs.
func podLogsFlag(t *testing.T, n *node) []string {
	t.Helper()
	help, err := exec.Command(binary, "serve", "--help").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, help)
	}
	if !strings.Contains(string(help), "--pod-logs-dir") {
		return nil
	}
	return []string{"--pod-logs-dir=" + filepath.Join(n.dir, "cridock", "logs")}
}

// starts counts how often cridock has finished its cleanup after an earlier
// process: its last log line says so.
func (c *cridock) starts(t *testing.T) int {
	t.Helper()
	return strings.Count(read(t, c.logFile()), `"Ready" engine=`)
}

func attacks() []attack {
	var all []attack
	for _, part := range [][]attack{
		identityAttacks, userAttacks, volumeAttacks, cgroupAttacks, logAttacks, imageAttacks, streamAttacks,
	} {
		all = append(all, part...)
	}
	return all
}

func restartAttacks() []restartAttack {
	var all []restartAttack
	for _, part := range [][]restartAttack{identityRestarts, labelRestarts, cgroupRestarts, logRestarts} {
		all = append(all, part...)
	}
	return all
}

// entry is a file of an image.
type entry struct {
	tar.Header
	content string
}

func regular(name string, mode int64, content string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode, Size: int64(len(content))}, content}
}

func directory(name string) entry {
	return entry{Header: tar.Header{Name: name + "/", Typeflag: tar.TypeDir, Mode: 0o755}}
}

func symlink(name, target string) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target, Mode: 0o777}}
}

func fifo(name string) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeFifo, Mode: 0o666}}
}

func device(name string, major, minor int64) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: tar.TypeChar, Devmajor: major, Devminor: minor, Mode: 0o666}}
}

// archive returns a tar file.
func archive(entries ...entry) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if err := w.WriteHeader(&e.Header); err != nil {
			return nil, err
		}
		if _, err := w.Write([]byte(e.content)); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), w.Close()
}

// busyboxLayer is the lowest layer of all hostile images.
var busyboxLayer = sync.OnceValues(func() ([]byte, error) {
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return nil, err
	}
	applets, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil {
		return nil, err
	}
	entries := []entry{
		regular("bin/busybox", 0o755, string(program)), regular("etc/passwd", 0o644, "root:x:0:0::/:/bin/sh\n"), regular("etc/group", 0o644, "root:x:0:\n"),
		directory("proc"), directory("sys"), directory("dev"), directory("tmp"),
	}
	for applet := range strings.FieldsSeq(string(applets)) {
		if applet != "busybox" {
			entries = append(entries, symlink("bin/"+applet, "busybox"))
		}
	}
	return archive(entries...)
})

// imageConfig is the part of an image's configuration that its author can write
// freely. No tool checks it when it is loaded or pulled.
type imageConfig map[string]any

func labelled(labels map[string]string) imageConfig { return imageConfig{"Labels": labels} }

// load builds an image of busybox and more files, loads it as docker load does,
// and returns its name once cridock knows it. The files replace those of
// busybox.
func (c *cridock) load(t *testing.T, name string, config imageConfig, files ...entry) string {
	t.Helper()
	base, err := busyboxLayer()
	if err != nil {
		t.Fatal(err)
	}
	more, err := archive(append([]entry{directory("srv")}, files...)...)
	if err != nil {
		t.Fatal(err)
	}
	merged := map[string]any{"Cmd": []string{"sh"}, "Env": []string{"PATH=/bin"}}
	for k, v := range config {
		merged[k] = v
	}
	image := map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "config": merged,
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{sum(base), sum(more)}},
	}
	ref := "localhost/hostile/" + name + ":1"
	configJSON := asJSON(t, image)
	manifest := []map[string]any{{"Config": "config.json", "RepoTags": []string{ref}, "Layers": []string{"base.tar", "more.tar"}}}
	saved, err := archive(
		regular("config.json", 0o644, configJSON), regular("manifest.json", 0o644, asJSON(t, manifest)),
		regular("base.tar", 0o644, string(base)), regular("more.tar", 0o644, string(more)),
	)
	if err != nil {
		t.Fatal(err)
	}
	c.docker.stream(t, "/images/load?quiet=1", http.Header{"Content-Type": {"application/x-tar"}}, bytes.NewReader(saved))
	eventually(t, "cridock knows "+ref, time.Minute, func() bool { return c.imageStatus(t, ref) != nil })
	return ref
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(s[:])
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// dockerRun is docker run --detach; the container is removed when the test
// ends.
func (n *node) dockerRun(t *testing.T, image, script string) (id string) {
	t.Helper()
	var made struct {
		ID string `json:"Id"`
	}
	body := map[string]any{"Image": image, "Cmd": []string{"sh", "-c", script}, "HostConfig": map[string]any{"NetworkMode": "none"}}
	n.docker.must(t, http.MethodPost, "/containers/create", body, &made)
	t.Cleanup(func() {
		// cridock may have removed it, and the test has failed for that
		_, _ = n.docker.call(http.MethodDelete, "/containers/"+made.ID+"?force=1", nil, nil)
	})
	n.docker.must(t, http.MethodPost, "/containers/"+made.ID+"/start", nil, nil)
	return made.ID
}

// runs reports whether Docker has a container and it is running.
func (n *node) runs(id string) bool {
	b, err := n.docker.call(http.MethodGet, "/containers/"+url.PathEscape(id)+"/json", nil, nil)
	var c dockerContainer
	return err == nil && json.Unmarshal(b, &c) == nil && c.State.Pid > 0
}

// ofImage creates a container from another image.
func ofImage(image string) ctrOption {
	return func(cfg *runtimeapi.ContainerConfig) { cfg.Image = &runtimeapi.ImageSpec{Image: image} }
}

// mounting mounts a directory of the node in a container.
func mounting(hostPath, path string) ctrOption {
	return func(cfg *runtimeapi.ContainerConfig) {
		cfg.Mounts = append(cfg.Mounts, &runtimeapi.Mount{HostPath: hostPath, ContainerPath: path})
	}
}

// patience is how long a call that must not hang may take on a busy machine.
const patience = 5 * time.Minute

// inTime is try for a call that an attack may cause to hang.
func inTime[Req, Resp any](t *testing.T, m method[Req, Resp], req Req) (Resp, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	resp, err := m(ctx, req)
	if status.Code(err) == codes.DeadlineExceeded {
		t.Errorf("%T hangs: %v", req, err)
	}
	return resp, err
}

// settled waits until cridock has processed all Docker events so far: it
// handles events in order.
func (p *pod) settled() {
	p.t.Helper()
	for i := range 2 {
		p.output(fmt.Sprintf("settled-%d-%d", podCount.Add(1), i), "echo ran")
	}
}

// tree returns the files below a directory with their contents.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		all[path] = d.Type().String()
		if d.Type().IsRegular() {
			b, err := os.ReadFile(path)
			all[path] += fmt.Sprintf(" %d bytes, %.200q", len(b), b)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// outside creates a directory that no pod may touch.
func outside(t *testing.T) (dir string, before map[string]string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "outside")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, tree(t, dir)
}
