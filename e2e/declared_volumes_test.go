package e2e

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestImageDeclaredVolumes: the setting image-volumes decides what becomes of VOLUME.
func TestImageDeclaredVolumes(t *testing.T) {
	t.Parallel()
	u := newUsernsTest(t)
	if err := u.start(); err != nil {
		t.Fatal(err)
	}
	v := &declaredTest{u, "localhost/e2e/declared:1"}
	u.docker.build(t, v.image, "FROM "+u.image+`
RUN mkdir -p /full/sub /empty /etc/inner && echo content >/full/file && ln -s /etc /full/link && echo inside >/etc/inner/file && chown 1000:2000 /full/file /full && chmod 2751 /full && chown 12:34 /empty && chmod 1777 /empty && ln -s /etc/inner /linked
VOLUME /full /empty /none /linked /full/
`)
	t.Run("docker", v.byDocker)
	v.set(t, "directory")
	t.Run("directory", v.directory)
	t.Run("directories of others", v.directoriesOfOthers)
	t.Run("hostile images", v.hostile)
	v.set(t, "ignore")
	t.Run("ignore without cridock-runtime", v.unmet)
	u.mustRegister(t)
	v.set(t, "ignore")
	t.Run("ignore", v.ignored)
	v.set(t, "directory")
	t.Run("directory in a user namespace", v.mappedDirectory)
	if left := v.volumes(t); left != 0 {
		t.Errorf("the engine has %d volumes", left)
	}
}

// declaredTest is a node with an image that declares volumes.
type declaredTest struct {
	*usernsTest
	image string
}

// set restarts cridock with another value of the setting.
func (v *declaredTest) set(t *testing.T, value string) {
	t.Helper()
	v.flags = append(v.flags, "--image-volumes="+value)
	v.restart(t, nil)
}

// volumes counts the engine's volumes.
func (v *declaredTest) volumes(t *testing.T) int {
	t.Helper()
	var list struct{ Volumes []any }
	v.docker.must(t, http.MethodGet, "/volumes", nil, &list)
	return len(list.Volumes)
}

// attempt is one of the starts of a container.
func attempt(n uint32) ctrOption {
	return func(cfg *runtimeapi.ContainerConfig) {
		cfg.Metadata.Attempt, cfg.LogPath = n, fmt.Sprintf("%s_%d.log", cfg.Metadata.Name, n)
	}
}

// asDeclared says what a volume's directory, and what is in it, is to a container; but
// the path that the image does not have comes last.
const asDeclared = "stat -c '%n %u:%g %a' /full /full/file /empty; cat /full/file; readlink /full/link; cat /linked/file; stat -c '%n %u:%g' /none"

const wantDeclared = "/full 1000:2000 2751\n/full/file 1000:2000 644\n/empty 12:34 1777\ncontent\n/etc\ninside\n/none 0:0\n"

// byDocker: volumes are the container's own.
func (v *declaredTest) byDocker(t *testing.T) {
	p := v.runPod(t)
	if got := p.output("main", asDeclared+"; echo more >/none/new", ofImage(v.image)); got != wantDeclared {
		t.Errorf("%q", got)
	}
	if got := p.output("main", asDeclared+"; ls /none", ofImage(v.image), attempt(1)); got != wantDeclared {
		t.Errorf("restarted: %q", got)
	}
}

// directory: a restarted container finds its data, and what it removed stays removed.
func (v *declaredTest) directory(t *testing.T) {
	p := v.runPod(t)
	first := p.start("main", asDeclared+"; for d in full empty none; do echo $d >/$d/new; done; rm /linked/file; chmod 700 /empty; chown 5:6 /none; exec sleep 1000", ofImage(v.image))
	eventuallyLog(t, first, "/none 0:0")
	if got := first.logText(); got != wantDeclared {
		t.Errorf("%q", got)
	}
	if got := first.sh("cat /proc/mounts | grep -c -e ' /full ' -e ' /empty ' -e ' /none ' -e ' /etc/inner '"); got != "4" {
		t.Errorf("%s volumes are mounted", got)
	}
	if mounts := first.status().Mounts; len(mounts) != 0 {
		t.Errorf("the status has the mounts %v", mounts)
	}
	repeated, err := p.tryCreate(p.ctrConfig("other", "true", ofImage(v.image)))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := p.tryCreate(p.ctrConfig("other", "true", ofImage(v.image))); err != nil || again != repeated {
		t.Errorf("a repeated request created %s, %v; want %s", again, err, repeated)
	}
	v.restart(t, nil) // cridock is killed
	first.stop(0)
	rpc(t, v.runtime.RemoveContainer, &runtimeapi.RemoveContainerRequest{ContainerId: first.id})
	const found = "cat /full/file /full/new /empty/new /none/new; ls /linked; stat -c '%n %u:%g %a' /full /empty /none | xargs"
	const want = "content\nfull\nempty\nnone\n/full 1000:2000 2751 /empty 12:34 700 /none 5:6 755\n"
	readOnly := func(cfg *runtimeapi.ContainerConfig) { cfg.Linux.SecurityContext.ReadonlyRootfs = true }
	if got := p.output("main", found+"; touch /empty/more && ! touch /denied 2>/dev/null", ofImage(v.image), attempt(1), readOnly); got != want {
		t.Errorf("restarted: %q, want %q", got, want)
	}
	// Somebody else removes it, with its volumes.
	gone := p.start("main", "exec sleep 1000", ofImage(v.image), attempt(2))
	v.docker.must(t, http.MethodDelete, "/containers/"+gone.id+"?force=1&v=1", nil, nil)
	if got := p.output("main", found, ofImage(v.image), attempt(3)); got != want {
		t.Errorf("after docker rm: %q, want %q", got, want)
	}
	dirs, err := filepath.Glob(v.root() + "/sandboxes/*/volumes/*/*/new")
	if err != nil || len(dirs) != 3 {
		t.Errorf("in cridock's directory: %v, %v", dirs, err)
	}
	p.remove()
	if left, err := filepath.Glob(v.root() + "/sandboxes/*/volumes"); err != nil || len(left) > 0 {
		t.Errorf("after the pod's removal: %v, %v", left, err)
	}
}

// directoriesOfOthers: only the same container of the same pod has the same directory, and
// a mount takes the volume's place.
func (v *declaredTest) directoriesOfOthers(t *testing.T) {
	p, q := v.runPod(t), v.runPod(t)
	p.start("main", "echo secret >/none/secret; sleep 1000", ofImage(v.image)).sh("until [ -e /none/secret ]; do usleep 50000; done")
	for _, other := range []*ctr{p.start("other", "sleep 1000", ofImage(v.image)), q.start("main", "sleep 1000", ofImage(v.image))} {
		if got := other.sh("ls /none"); got != "" {
			t.Errorf("another container finds %q", got)
		}
	}
	if got := p.output("mounts", "cat /full/file; ls -A /full", ofImage(v.image), mounting(v.instead(t), "/full/")); got != "mounted\nfile\n" {
		t.Errorf("with a mount there: %q", got)
	}
}

// instead returns a directory of the node to mount in a volume's place.
func (v *declaredTest) instead(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(v.node.dir, "instead")
	v.run(t, "sh", "-ec", "mkdir -p "+dir+"; echo mounted >"+dir+"/file; chmod 644 "+dir+"/file")
	return dir
}

// hostile: what an image declares does not lead out of the container.
func (v *declaredTest) hostile(t *testing.T) {
	dir, before := outside(t)
	p := v.runPod(t)
	many := map[string]any{}
	for i := range 200 {
		many[fmt.Sprint("/many/", i)] = struct{}{}
	}
	for i, volumes := range []map[string]any{
		{"/../.." + dir: struct{}{}}, {"../../../../../../../.." + dir: struct{}{}}, {dir + ":/data": struct{}{}}, {"/proc/self/root" + dir: struct{}{}},
		{"/": struct{}{}}, {"/proc": struct{}{}}, {"/dev": struct{}{}}, {"/a\nb": struct{}{}}, {"/a\x00b": struct{}{}}, {"": struct{}{}},
		{"/leads-out": struct{}{}}, {"/up": struct{}{}}, {"/up/below": struct{}{}}, many,
	} {
		image := v.load(t, fmt.Sprint("declared-", i), imageConfig{"Volumes": volumes}, symlink("leads-out", dir), symlink("up", "../../../../../../../../../../../.."+dir))
		cfg := p.ctrConfig(fmt.Sprint("c", i), "for d in "+dir+" /leads-out /up /up/below; do cat $d/secret; echo x >$d/written; done; echo ran", ofImage(image))
		id, err := p.tryCreate(cfg)
		if err == nil {
			_, err = try(p.runtime.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: id})
		}
		if err != nil {
			t.Logf("%d is refused: %.300v", i, err)
			continue
		}
		c := &ctr{pod: p, id: id, cfg: cfg}
		c.exited()
		if out := c.logText(); strings.HasPrefix(out, "secret\n") || strings.Contains(out, "\nsecret\n") || !strings.Contains(out, "ran\n") {
			t.Errorf("%d: %q", i, out)
		}
	}
	if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
		t.Errorf("on the node (-before +after):\n%s", diff)
	}
}

// unmet: without cridock-runtime, only images without volumes can be used.
func (v *declaredTest) unmet(t *testing.T) {
	p := v.runPod(t)
	_, err := p.tryCreate(p.ctrConfig("main", "true", ofImage(v.image)))
	wantCode(t, err, codes.FailedPrecondition, "cridock runtime install")
	p.output("plain", "true")
	mounts := func(cfg *runtimeapi.ContainerConfig) {
		for _, path := range []string{"/full", "/empty", "/none", "/linked"} {
			mounting(v.node.dir, path)(cfg)
		}
	}
	p.output("mounts", "true", ofImage(v.image), mounts)
}

// ignored: the paths are the root file system's, and gone with the container.
func (v *declaredTest) ignored(t *testing.T) {
	for name, options := range map[string][]podOption{"host": nil, "user namespace": {inUserNamespace(100000)}} {
		t.Run(name, func(t *testing.T) {
			p := v.runPod(t, options...)
			want := strings.TrimSuffix(wantDeclared, "/none 0:0\n") + "none\n0\n"
			if got := p.output("main", strings.TrimSuffix(asDeclared, "; stat -c '%n %u:%g' /none")+"; [ -e /none ] || echo none; grep -c -e ' /full ' -e ' /empty ' -e ' /none ' -e ' /etc/inner ' /proc/mounts; echo new >/full/new", ofImage(v.image)); got != want {
				t.Errorf("%q, want %q", got, want)
			}
			if got := p.output("main", "ls /full/new 2>/dev/null; echo ran", ofImage(v.image), attempt(1)); got != "ran\n" {
				t.Errorf("restarted: %q", got)
			}
			readOnly := func(cfg *runtimeapi.ContainerConfig) { cfg.Linux.SecurityContext.ReadonlyRootfs = true }
			if got := p.output("ro", "touch /empty/x 2>/dev/null || echo read-only", ofImage(v.image), readOnly); got != "read-only\n" {
				t.Errorf("with a read-only root: %q", got)
			}
			if got := p.output("mounts", "cat /full/file", ofImage(v.image), mounting(v.instead(t), "/full/")); got != "mounted\n" {
				t.Errorf("with a mount there: %q", got)
			}
		})
	}
	image := v.load(t, "declared-shm", imageConfig{"Volumes": map[string]any{"/dev/shm": struct{}{}}})
	p := v.runPod(t)
	_, err := p.tryCreate(p.ctrConfig("shm", "true", ofImage(image)))
	wantCode(t, err, codes.FailedPrecondition, "/dev/shm")
}

// mappedDirectory: files belong to whom the image says, and to the same after a restart.
func (v *declaredTest) mappedDirectory(t *testing.T) {
	p := v.runPod(t, inUserNamespace(100000))
	if got := p.output("main", asDeclared+"; touch /none/new; chown 7:8 /none/new", ofImage(v.image)); got != wantDeclared {
		t.Errorf("%q", got)
	}
	if got := p.output("main", "stat -c '%n %u:%g' /full /none/new /linked/file", ofImage(v.image), attempt(1)); got != "/full 1000:2000\n/none/new 7:8\n/linked/file 0:0\n" {
		t.Errorf("restarted: %q", got)
	}
}

// TestImageDeclaredVolumesLiveRestore: no data is lost when dockerd restarts under a
// container with directories, and the container is removed afterwards.
func TestImageDeclaredVolumesLiveRestore(t *testing.T) {
	t.Parallel()
	e := newOwnEngine(t, "--live-restore")
	c := newCridock(t, e.node, "cni", "--docker-endpoint=unix://"+e.socket(), "--image-volumes=directory")
	const image = "localhost/e2e/declared-live:1"
	c.docker.build(t, image, "FROM "+c.image+"\nVOLUME /volume\n")
	for _, signal := range []string{"TERM", "KILL"} {
		p := c.runPod(t)
		first := p.start("main", "echo before >/volume/file; exec sleep 1000", ofImage(image))
		first.sh("until [ -e /volume/file ]; do usleep 50000; done")
		for range 2 {
			e.restartDockerd(t, c, signal, func() {})
		}
		if got := first.sh("echo after >>/volume/file; cat /volume/file"); got != "before\nafter" {
			t.Errorf("%s: in the running container: %q", signal, got)
		}
		first.stop(0)
		if got := p.output("main", "cat /volume/file; echo second >>/volume/file", ofImage(image), attempt(1)); got != "before\nafter\n" {
			t.Errorf("%s: in the next container: %q", signal, got)
		}
		rpc(t, c.runtime.RemoveContainer, &runtimeapi.RemoveContainerRequest{ContainerId: first.id})
		if got := p.output("main", "cat /volume/file", ofImage(image), attempt(2)); got != "before\nafter\nsecond\n" {
			t.Errorf("%s: after the removal of the first: %q", signal, got)
		}
		p.remove()
	}
}
