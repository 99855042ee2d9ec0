package shim_test

import (
	"archive/tar"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/system"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/shim/engine/enginetest"
)

// restoring is a node whose engine is experimental and has an image that the
// checkpoint in archive, and in an image, is based on.
type restoring struct {
	*node
	sandbox, archive, image string
	base                    string // the directory of the base image's layer
}

const oldLog = "2026-01-01T00:00:00.5Z stdout F of the old one\n"

// checkpointOf are the files of a checkpoint, with changes: "" removes one.
func checkpointOf(t *testing.T, changes map[string]string) map[string]string {
	t.Helper()
	files := map[string]string{
		"config.dump": `{"rootfsImageName":"registry.test/base:1"}`, "spec.dump": `{"mounts":[]}`,
		"checkpoint/inventory.img": "inventory", "container.log": "no CRI line\n" + oldLog + "torn", "rootfs-diff.tar": tarText(t, map[string]string{"new": "file", ".wh.removed": ""}),
	}
	for name, content := range changes {
		if files[name] = content; content == "" {
			delete(files, name)
		}
	}
	return files
}

func tarText(t *testing.T, files map[string]string) string {
	t.Helper()
	var b strings.Builder
	w := tar.NewWriter(&b)
	for name, content := range files {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(content)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func newRestoring(t *testing.T, changes map[string]string) *restoring {
	r := &restoring{base: t.TempDir(), archive: filepath.Join(t.TempDir(), "main.tar"), image: "registry.test/checkpoints/main:1"}
	files, layer := checkpointOf(t, changes), t.TempDir()
	r.node = newNode(t, func(n *node) {
		n.cfg.CheckpointImages = []string{filepath.Dir(r.archive) + "/*", "registry.test/checkpoints/*"}
		n.docker.SetInfo(func(i *system.Info) { i.ExperimentalBuild, i.Driver = true, "overlay2" })
		n.docker.Program("serve", func(p *enginetest.Process) int {
			_, _ = p.Stdout.Write([]byte("serving\n"))
			select {
			case <-p.Signals:
			case <-p.Killed:
			}
			return 0
		})
		n.docker.AddImage("registry.test/base:1", enginetest.Image{Layers: []string{r.base}})
		n.docker.AddImage(r.image, enginetest.Image{Layers: []string{layer}})
		n.docker.AddImage("registry.test/other:1", enginetest.Image{Layers: []string{layer}, Config: imagespec.ImageConfig{Labels: map[string]string{"org.criu.checkpoint.container.name": "main"}}})
	})
	for _, name := range []string{"removed", "kept"} {
		r.must(os.WriteFile(filepath.Join(r.base, name), nil, 0o644))
	}
	r.must(os.WriteFile(r.archive, []byte(tarText(t, files)), 0o600))
	r.must(os.Mkdir(filepath.Join(layer, "checkpoint"), 0o700))
	for name, content := range files {
		r.must(os.WriteFile(filepath.Join(layer, name), []byte(content), 0o600))
	}
	r.sandbox = r.runPod(r.podConfig("web"))
	return r
}

func (r *restoring) config(ref string) *runtimeapi.ContainerConfig {
	cfg := containerConfig("main", "serve")
	cfg.Image.Image = ref
	return cfg
}

// files returns the directory of a container's checkpoint files, and that of its
// writable layer.
func (r *restoring) files(id string) (checkpoints, upper string) {
	in, err := r.call().ContainerInspect(r.ctx, id)
	r.must(err)
	return filepath.Join(filepath.Dir(filepath.Dir(in.HostnamePath)), id, "checkpoints"), in.GraphDriver.Data["UpperDir"]
}

// TestRestoreContainer: the files are there before the start, and those of CRIU gone
// after it. All that the CRI shows is the request's.
func TestRestoreContainer(t *testing.T) {
	for _, form := range []string{"archive", "image"} {
		t.Run(form, func(t *testing.T) {
			r := newRestoring(t, nil)
			cfg := r.config(map[string]string{"archive": r.archive, "image": r.image}[form])
			id := r.create(r.sandbox, cfg)
			checkpoints, upper := r.files(id)
			if b, err := os.ReadFile(filepath.Join(checkpoints, "cridock", "inventory.img")); err != nil || string(b) != "inventory" {
				t.Errorf("CRIU's file is %q, %v", b, err)
			}
			if b, err := os.ReadFile(filepath.Join(upper, "new")); err != nil || string(b) != "file" {
				t.Errorf("the new file is %q, %v", b, err)
			}
			if info, err := os.Lstat(filepath.Join(upper, "removed")); err != nil || info.Mode()&os.ModeCharDevice == 0 {
				t.Errorf("the removed file is %v, %v", info, err)
			}
			r.stop()
			r.start()
			if again := r.create(r.sandbox, cfg); again != id {
				t.Errorf("the repeated call returns %s, want %s", again, id)
			}
			r.startContainer(id)
			r.eventually("the log goes on", func() bool {
				b, err := os.ReadFile(r.status(id).LogPath)
				rest, ok := strings.CutPrefix(string(b), oldLog)
				return err == nil && ok && strings.HasSuffix(rest, " stdout F serving\n")
			})
			if s := r.status(id); s.Image.Image != "registry.test/base:1" || s.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
				t.Errorf("its status is %v", s)
			}
			if left, err := os.ReadDir(checkpoints); err != nil || len(left) > 0 {
				t.Errorf("left are %v, %v", left, err)
			}
		})
	}
}

// TestRestoreInterrupted: a container without all files is not started, and is replaced.
func TestRestoreInterrupted(t *testing.T) {
	r := newRestoring(t, nil)
	cfg := r.config(r.archive)
	id := r.create(r.sandbox, cfg)
	checkpoints, _ := r.files(id)
	r.must(os.Rename(filepath.Join(checkpoints, "cridock"), filepath.Join(checkpoints, ".cridock.part")))
	if err := r.tryStart(id); err == nil || !strings.Contains(err.Error(), "not complete") {
		t.Errorf("error = %v, want that it is not complete", err)
	}
	again := r.create(r.sandbox, cfg)
	if again == id {
		t.Error("it was not replaced")
	}
	r.startContainer(again)
}

// TestRestoreRefused: nothing is left of what is not restored.
func TestRestoreRefused(t *testing.T) {
	for _, tc := range []struct {
		name    string
		changes map[string]string
		breaks  func(r *restoring) (ref string)
		code    codes.Code
		words   string
	}{
		{"no pattern matches the image", nil, func(*restoring) string { return "registry.test/other:1" }, codes.FailedPrecondition, "checkpoint-images"},
		{"no pattern matches the archive", nil, func(*restoring) string { return "/etc/passwd" }, codes.FailedPrecondition, "checkpoint-images"},
		{"the path leaves the pattern", nil, func(r *restoring) string { return filepath.Dir(r.archive) + "/../x.tar" }, codes.InvalidArgument, "clean"},
		{"there is no archive", nil, func(r *restoring) string { return r.archive + "x" }, codes.FailedPrecondition, "no such file"},
		{"others can write to it", nil, func(r *restoring) string { r.must(os.Chmod(r.archive, 0o666)); return r.archive }, codes.FailedPrecondition, "chmod"},
		{"it is another user's", nil, func(r *restoring) string { r.must(os.Chown(r.archive, 1000, 0)); return r.archive }, codes.FailedPrecondition, "chown"},
		{"it is a link", nil, func(r *restoring) string {
			r.must(os.Symlink(r.archive, filepath.Join(filepath.Dir(r.archive), "link")))
			return filepath.Join(filepath.Dir(r.archive), "link")
		}, codes.FailedPrecondition, "symbolic link"},
		{"the image is no checkpoint", map[string]string{"config.dump": ""}, func(r *restoring) string { return r.image }, codes.FailedPrecondition, "config.dump"},
		{"the base image is missing", map[string]string{"config.dump": `{"rootfsImageRef":"registry.test/gone@sha256:` + strings.Repeat("ab", 32) + `","rootfsImageName":"registry.test/base:1"}`},
			func(r *restoring) string { return r.archive }, codes.FailedPrecondition, "pull it first"},
		{"a mount is missing", map[string]string{"spec.dump": `{"mounts":[{"destination":"/data","type":"bind"}]}`}, func(r *restoring) string { return r.image }, codes.FailedPrecondition, "/data"},
		{"a file leads out", map[string]string{"rootfs-diff.tar": tarText(t, map[string]string{"../x": ""})}, func(r *restoring) string { return r.image }, codes.FailedPrecondition, "out of the container"},
		{"there are no processes", map[string]string{"checkpoint/inventory.img": ""}, func(r *restoring) string { return r.archive }, codes.FailedPrecondition, "CRIU"},
		{"Docker has another storage driver", nil, func(r *restoring) string {
			r.docker.SetInfo(func(i *system.Info) { i.Driver = "btrfs" })
			r.stop()
			r.start()
			return r.image
		}, codes.Unimplemented, "overlay2"},
		{"Docker is not experimental", nil, func(r *restoring) string {
			r.docker.SetInfo(func(i *system.Info) { i.ExperimentalBuild = false })
			r.stop()
			r.start()
			return r.image
		}, codes.Unimplemented, "experimental"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newRestoring(t, tc.changes)
			before := r.remains()
			_, err := r.tryCreate(r.sandbox, r.config(tc.breaks(r)))
			wantCode(t, err, tc.code, tc.words)
			r.unchanged(t, before)
			logs, err := filepath.Glob(filepath.Join(r.cfg.PodLogsDir, "*", "main", "*"))
			if more, _ := filepath.Glob(filepath.Join(r.cfg.PodLogsDir, "*", "*.log")); err != nil || len(logs)+len(more) > 0 {
				t.Errorf("left are %v %v, %v", logs, more, err)
			}
		})
	}
}

// TestRestoreFails: the start says why.
func TestRestoreFails(t *testing.T) {
	r := newRestoring(t, nil)
	id := r.create(r.sandbox, r.config(r.image))
	r.docker.FailNext("container start", 1, http.StatusInternalServerError, `OCI runtime restore failed: exec: "criu": executable file not found in $PATH`)
	if err := r.tryStart(id); err == nil || !strings.Contains(err.Error(), "CRIU, which is not installed") {
		t.Errorf("error = %v, want that CRIU is missing", err)
	}
	r.must(r.removeContainer(id))
}
