package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var identityAttacks = []attack{
	{"docker run of a forged container writes to the host", forgedContainer},
	{"docker run of a forged sandbox takes a pod's place", forgedSandbox},
	{"a name that is a pattern removes another container", nameAsPattern},
}

var identityRestarts = []restartAttack{
	{"a forged container runs at the start", forgedAtStart},
	{"an adopted container has what its image says", adoptedFromHostileImage},
}

// forgedRecord is the record that cridock keeps of a container in a label,
// forged by an image's author.
func forgedRecord(t *testing.T, image string, config any) string {
	t.Helper()
	return asJSON(t, map[string]any{"version": 1, "config": config, "imageID": image, "imageName": image, "imageRef": image})
}

// forged builds an image whose containers look like a container of a pod, with
// a log path of the author's choice.
func forged(t *testing.T, c *cridock, name, log string) (image string) {
	t.Helper()
	ref := "localhost/hostile/" + name + ":1"
	return c.load(t, name, labelled(map[string]string{
		"io.kubernetes.docker.type":       "container",
		"io.kubernetes.container.logpath": log,
		"io.kubernetes.container.name":    "forged",
		"io.kubernetes.sandbox.id":        strings.Repeat("ab", 32),
		"io.kubernetes.pod.name":          "forged",
		"io.kubernetes.pod.namespace":     "forged",
		"io.kubernetes.pod.uid":           "forged-" + name,
		"io.cridock.config":               forgedRecord(t, ref, map[string]any{"metadata": map[string]any{"name": "forged"}, "logPath": log}),
	}))
}

func forgedContainer(t *testing.T, p *pod) {
	dir, before := outside(t)
	var ids []string
	for name, log := range map[string]string{"preload": "ld.so.preload", "append": "secret"} {
		id := p.dockerRun(t, forged(t, p.cridock, "forged-"+name, filepath.Join(dir, log)), "echo /evil.so; echo evil >&2")
		p.docker.must(t, http.MethodPost, "/containers/"+id+"/wait", nil, nil)
		ids = append(ids, id)
	}
	p.settled()
	for _, id := range ids {
		checkForeign(t, p.cridock, id)
	}
	if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
		t.Errorf("written on the host (-before +after):\n%s", diff)
	}
}

// checkForeign checks that cridock does not treat a container as its own.
func checkForeign(t *testing.T, c *cridock, id string) {
	t.Helper()
	for _, l := range rpc(t, c.runtime.ListContainers, &runtimeapi.ListContainersRequest{}).Containers {
		if l.Id == id {
			t.Errorf("it is listed: %v", l)
		}
	}
	for _, l := range rpc(t, c.runtime.ListPodSandbox, &runtimeapi.ListPodSandboxRequest{}).Items {
		if l.Id == id {
			t.Errorf("it is listed: %v", l)
		}
	}
	_, err := try(c.runtime.ContainerStatus, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	wantCode(t, err, codes.NotFound, id)
	_, err = try(c.runtime.PodSandboxStatus, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id})
	wantCode(t, err, codes.NotFound, id)
}

// forgedAtStart has such a container running while cridock starts.
func forgedAtStart(t *testing.T, c *cridock) (func(), func(*testing.T)) {
	dir, before := outside(t)
	id := c.dockerRun(t, forged(t, c, "forged-start", filepath.Join(dir, "ld.so.preload")), "while :; do echo /evil.so; sleep 1; done")
	p := c.runPod(t)
	return nil, func(t *testing.T) {
		p.in(t).settled()
		if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
			t.Errorf("written on the host (-before +after):\n%s", diff)
		}
		checkForeign(t, c, id)
		rpc(t, c.runtime.StopContainer, &runtimeapi.StopContainerRequest{ContainerId: id})
		rpc(t, c.runtime.RemoveContainer, &runtimeapi.RemoveContainerRequest{ContainerId: id})
		if !c.runs(id) {
			t.Error("a container that is not cridock's was stopped")
		}
	}
}

// forgedSandbox claims the identity of a running pod.
func forgedSandbox(t *testing.T, p *pod) {
	const server = "10.96.77.1"
	real := p.runPod(t, func(cfg *runtimeapi.PodSandboxConfig) { cfg.DnsConfig.Servers = []string{server} })
	files := filesWith(t, p.root(), server)
	if len(files) == 0 {
		t.Fatal("cridock keeps no resolv.conf of the pod; there is nothing to attack")
	}
	m := real.cfg.Metadata
	ref := "localhost/hostile/forged-sandbox:1"
	image := p.load(t, "forged-sandbox", labelled(map[string]string{
		"io.kubernetes.docker.type":    "podsandbox",
		"io.kubernetes.container.name": "POD",
		"io.kubernetes.pod.name":       m.Name,
		"io.kubernetes.pod.namespace":  m.Namespace,
		"io.cridock.config": forgedRecord(t, ref, map[string]any{
			"metadata": map[string]any{"name": m.Name, "namespace": m.Namespace, "uid": m.Uid}, "labels": real.cfg.Labels,
		}),
	}))
	for _, how := range []string{"the kubelet", "docker rm"} {
		id := p.dockerRun(t, image, "exec sleep 100000")
		p.settled()
		checkForeign(t, p.cridock, id)
		if how == "docker rm" {
			p.docker.must(t, http.MethodDelete, "/containers/"+id+"?force=1", nil, nil)
			p.settled()
		} else {
			rpc(t, p.runtime.StopPodSandbox, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id})
			rpc(t, p.runtime.RemovePodSandbox, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id})
			if !p.runs(id) {
				t.Error("a container that is not cridock's was stopped")
			}
		}
		if diff := cmp.Diff(files, filesWith(t, p.root(), server)); diff != "" {
			t.Fatalf("removed by %s, it took files of the pod along (-before +after):\n%s", how, diff)
		}
	}
	if got := real.output("later", "cat /etc/resolv.conf"); !strings.Contains(got, server) {
		t.Errorf("a container of the pod has %q", got)
	}
}

// filesWith returns the files below a directory that contain a text.
func filesWith(t *testing.T, dir, text string) (found []string) {
	t.Helper()
	files, err := filesBelow(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), text) {
			found = append(found, f)
		}
	}
	return found
}

// nameAsPattern creates a container whose name, read as a regular expression,
// also matches another container's.
func nameAsPattern(t *testing.T, p *pod) {
	first := p.start("a.b", "exit 3")
	first.exited()
	other := p.start("axb", "exit 4") // Docker lists the newest first
	other.exited()
	again := p.create("a.b", "exit 5")
	if s, err := try(p.runtime.ContainerStatus, &runtimeapi.ContainerStatusRequest{ContainerId: other.id}); err != nil || s.Status.ExitCode != 4 {
		t.Errorf("the other container: %v, %v", s, err)
	}
	if _, err := try(p.runtime.ContainerStatus, &runtimeapi.ContainerStatusRequest{ContainerId: first.id}); err == nil || again.id == first.id {
		t.Errorf("the container of the same name was not replaced: %v", err)
	}
}

// adoptedFromHostileImage has another adapter create containers from an image
// that claims another identity, and with log paths outside any pod's directory.
func adoptedFromHostileImage(t *testing.T, c *cridock) (func(), func(*testing.T)) {
	dir, before := outside(t)
	image := c.load(t, "adopted", labelled(map[string]string{
		"io.cridock.config":               forgedRecord(t, "localhost/hostile/adopted:1", forgedConfig),
		"io.kubernetes.container.name":    "forged",
		"io.kubernetes.container.logpath": filepath.Join(dir, "image.log"),
		"io.kubernetes.pod.uid":           "forged",
		"annotation.forged":               "yes",
		"forged":                          "yes",
	}))
	a := &foreign{cridock: c, mounts: true, root: c.root()}
	p := &pod{cridock: c, t: t, cfg: c.podConfig(t, func(cfg *runtimeapi.PodSandboxConfig) { cfg.Metadata.Attempt = foreignAttempt })}
	ctrs := map[string]*ctr{}
	const script = "i=0; while :; do echo line $i; i=$((i+1)); sleep 1; done"
	add := func(name, image, log string) {
		c := &ctr{pod: p, cfg: p.ctrConfig(name, script, ofImage(image), func(cfg *runtimeapi.ContainerConfig) {
			cfg.Metadata.Attempt, cfg.LogPath = 2, name+".log"
			cfg.Labels, cfg.Annotations = map[string]string{"mine": "yes"}, map[string]string{"mine": "yes"}
		})}
		c.id = a.createWithLog(t, c, log)
		ctrs[name] = c
		p.docker.must(t, http.MethodPost, "/containers/"+c.id+"/start", nil, nil)
	}
	away := func() {
		p.id = a.runPod(t, p.cfg)
		if err := os.MkdirAll(p.cfg.LogDirectory, 0o755); err != nil {
			t.Fatal(err)
		}
		add("good", c.image, filepath.Join(p.cfg.LogDirectory, "good.log"))
		add("claims", image, filepath.Join(p.cfg.LogDirectory, "claims.log"))
		add("nolog", image, "")
		add("elsewhere", c.image, filepath.Join(dir, "elsewhere.log"))
		add("dots", c.image, p.cfg.LogDirectory+"/../../../../../../../../../../.."+dir+"/dots.log")
	}
	t.Cleanup(func() { p.remove(); c.checkGone(t, p.cfg.Metadata.Uid, p.id) })
	return away, func(t *testing.T) {
		for name, ctr := range ctrs {
			ctr.in(t).checkClaims(name)
		}
		eventually(t, "the log of an adopted container is written", time.Minute, func() bool {
			b, err := os.ReadFile(ctrs["good"].logPath())
			return err == nil && strings.Contains(string(b), " F line ")
		})
		for _, c := range ctrs {
			rpc(t, p.runtime.StopContainer, &runtimeapi.StopContainerRequest{ContainerId: c.id})
		}
		p.in(t).remove()
		if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
			t.Errorf("written where no pod has its logs (-before +after):\n%s", diff)
		}
	}
}

// forgedConfig is the configuration of a container that nobody asked for.
var forgedConfig = map[string]any{
	"metadata": map[string]any{"name": "forged", "attempt": 9}, "labels": map[string]string{"forged": "yes"},
	"annotations": map[string]string{"forged": "yes"}, "mounts": []map[string]any{{"hostPath": "/etc/forged", "containerPath": "/forged"}},
}

// in returns the container for use in a subtest.
func (c *ctr) in(t *testing.T) *ctr { return &ctr{pod: c.pod.in(t), id: c.id, cfg: c.cfg} }

// checkClaims checks that a container has only the metadata that its creator
// has set.
func (c *ctr) checkClaims(name string) {
	c.t.Helper()
	s := c.status()
	list := rpc(c.t, c.runtime.ListContainers, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{Id: c.id}}).Containers
	if len(list) != 1 || list[0].Metadata.Name != name || list[0].Metadata.Attempt != 2 || list[0].PodSandboxId != c.pod.id {
		c.t.Errorf("%s is listed as %v", name, list)
	}
	mine := map[string]string{"mine": "yes"}
	if s.Metadata.Name != name || s.Metadata.Attempt != 2 || !cmp.Equal(s.Labels, mine) || !cmp.Equal(s.Annotations, mine) || len(s.Mounts) > 0 {
		c.t.Errorf("%s has the status %v", name, s)
	}
}

// createWithLog is create with a log path of the caller's choice; "" for none.
func (f *foreign) createWithLog(t *testing.T, c *ctr, log string) string {
	t.Helper()
	m := c.pod.cfg.Metadata
	internal := map[string]string{"io.kubernetes.docker.type": "container", "io.kubernetes.sandbox.id": c.pod.id}
	if log != "" {
		internal["io.kubernetes.container.logpath"] = log
	}
	name := strings.Join([]string{"k8s", c.cfg.Metadata.Name, m.Name, m.Namespace, m.Uid, "2"}, "_")
	return f.make(t, name, map[string]any{
		"Image": c.cfg.Image.Image, "Entrypoint": c.cfg.Command, "Labels": foreignLabels(c.cfg.Labels, c.cfg.Annotations, internal),
		"HostConfig": map[string]any{"NetworkMode": "container:" + c.pod.id, "IpcMode": "container:" + c.pod.id},
	})
}
