package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestDockerfile builds the image from bases that the engine has, runs cridock
// in it as the Dockerfile describes, and runs a pod with it.
func TestDockerfile(t *testing.T) {
	if testing.Short() {
		t.Skip("it compiles cridock in a container, which takes a minute or two")
	}
	t.Parallel()
	n := newNode(t)
	goBase, err := n.script("go-base")
	if err != nil {
		t.Fatal(err)
	}
	n.importRunBase(t, "localhost/e2e/base")
	args, err := json.Marshal(map[string]string{
		"BUILD_IMAGE": goBase, "RUN_IMAGE": "localhost/e2e/base:1", "RUN_PACKAGES": "", "GOPROXY": "off", "VERSION": "v0.0.0-e2e",
		"GOFLAGS": `"-gcflags=all=-N -l"`, // without optimization, which takes a third of the compiler's time
	})
	if err != nil {
		t.Fatal(err)
	}
	// The engine has no network access: the modules come with the sources.
	vendor := filepath.Join(n.dir, "vendored", "vendor")
	if out, err := exec.Command("go", "-C", "..", "mod", "vendor", "-o", vendor).CombinedOutput(); err != nil {
		t.Fatalf("go mod vendor: %v: %s", err, out)
	}
	n.postTar(t, "/build?networkmode=none&t=localhost/e2e/cridock&buildargs="+url.QueryEscape(string(args)),
		"-C", "..", "--exclude=./.git", "--exclude=./bin", ".", "-C", filepath.Dir(vendor), "vendor")

	c, err := install(n, "cni")
	if err != nil {
		t.Fatal(err)
	}
	// Where a client on the node sees it, in its /run.
	c.runDir = fmt.Sprintf("/proc/%d/root/run/cridock", n.pid)
	id := c.runInContainer(t, "localhost/e2e/cridock")
	t.Cleanup(func() {
		if t.Failed() {
			out, err := c.docker.call(http.MethodGet, "/containers/"+id+"/logs?stdout=1&stderr=1&tail=60", nil, nil)
			t.Logf("cridock's container says (%v):\n%s", err, out)
		}
		if err := c.leftovers(); err != nil {
			t.Error(err)
		}
	})
	p := c.runPod(t)
	p.start("server", "echo served >/tmp/index.html; exec httpd -f -p 8080 -h /tmp")
	if got := p.output("client", "for i in $(seq 600); do wget -qO- http://"+p.status().Network.Ip+":8080/ && exit; sleep 0.1; done; exit 1"); lastLine(got) != "served" {
		t.Errorf("the pod's client got %q", got)
	}
	// Pods outlive the container that cridock runs in.
	before := p.status()
	c.docker.must(t, http.MethodPost, "/containers/"+id+"/restart?t=20", nil, nil)
	if err := c.awaitReady(time.Minute); err != nil {
		t.Fatal(err)
	}
	if after := p.status(); after.State != before.State || after.Network.Ip != before.Network.Ip {
		t.Errorf("after a restart of cridock's container the pod is %v, before %v", after, before)
	}
}

// postTar posts an archive made by tar, as a build's context or an import.
func (n *node) postTar(t *testing.T, path string, tarArgs ...string) {
	t.Helper()
	r, w := io.Pipe()
	var stderr bytes.Buffer
	cmd := exec.Command("tar", append([]string{"-c", "--owner=0", "--group=0"}, tarArgs...)...)
	cmd.Stdout, cmd.Stderr = w, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = w.CloseWithError(cmd.Wait()) }() // nil means the end of the archive
	n.docker.stream(t, path, http.Header{"Content-Type": {"application/x-tar"}}, r)
	if stderr.Len() > 0 {
		t.Logf("tar: %s", &stderr)
	}
}

// importRunBase imports a base image with what Debian's CNI plugins need: a C
// library and iptables.
func (n *node) importRunBase(t *testing.T, name string) {
	t.Helper()
	script := `
cd "$1" && mkdir -p usr/sbin bin etc lib64 tmp && cp -L /bin/busybox bin/busybox && ln -s busybox bin/sh
for f in iptables ip6tables iptables-save iptables-restore ip6tables-save ip6tables-restore; do cp -L "$(command -v $f)" usr/sbin/$f; done
dir=$(dirname "$(find /usr/lib -name libxt_comment.so | head -n 1)")
mkdir -p ".$dir" && cp "$dir"/*.so ".$dir/"
for lib in $(ldd usr/sbin/iptables "$dir"/*.so /usr/lib/cni/bridge /usr/lib/cni/portmap | grep -o '/[^ ]*\.so[^ ]*' | sort -u); do
	case $lib in *:) continue ;; esac
	mkdir -p ".$(dirname "$lib")" && cp -L "$lib" ".$lib"
done`
	dir := t.TempDir()
	if out, err := exec.Command("sh", "-ec", script, "sh", dir).CombinedOutput(); err != nil {
		t.Fatalf("gather what plugins need: %v: %s", err, out)
	}
	n.postTar(t, "/images/create?fromSrc=-&repo="+url.QueryEscape(name)+"&tag=1", "-C", dir, ".")
}

// runInContainer runs cridock as the Dockerfile's header describes it for a
// machine without CAP_SYS_RESOURCE, with this node's directories instead of the
// usual ones.
func (c *cridock) runInContainer(t *testing.T, image string) (id string) {
	t.Helper()
	for _, dir := range []string{c.root(), c.cacheDir()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c.run(t, "mkdir", "-p", "/run/cridock")
	if err := c.connect(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.conn.Close() })
	var drop []string
	if c.docker.apiMinor(t) < 42 {
		// Later engines detect which capabilities the machine lacks, and refuse to drop
		// those.
		drop = []string{"SYS_RESOURCE"}
	}
	var created struct {
		ID string `json:"Id"`
	}
	c.docker.must(t, http.MethodPost, "/containers/create", map[string]any{
		"Image": image,
		"Cmd": append(c.serve(), "--container-runtime-endpoint=unix:///run/cridock/cridock.sock", "--runtime-directory=/run/cridock",
			"--docker-endpoint=unix://"+c.node.dir+"/docker.sock"),
		"HostConfig": map[string]any{
			"NetworkMode": "host", "PidMode": "host", "CgroupnsMode": "host",
			"CapAdd": []string{"ALL"}, "CapDrop": drop,
			"SecurityOpt": []string{"seccomp=unconfined", "apparmor=unconfined"}, "MaskedPaths": []string{}, "ReadonlyPaths": []string{},
			"Binds": []string{
				"/run:/run:rshared", "/sys/fs/cgroup:/sys/fs/cgroup", c.node.dir + "/docker.sock:" + c.node.dir + "/docker.sock",
				c.node.dir + "/root:" + c.node.dir + "/root:rslave", c.root() + ":" + c.root(), c.path("logs") + ":" + c.path("logs"),
				c.path("cni") + ":" + c.path("cni"), cniBinDir + ":" + cniBinDir + ":ro",
			},
		},
	}, &created)
	id = created.ID
	t.Cleanup(func() { c.docker.must(t, http.MethodDelete, "/containers/"+id+"?force=1", nil, nil) })
	c.docker.must(t, http.MethodPost, "/containers/"+id+"/start", nil, nil)
	if err := c.awaitReady(time.Minute); err != nil {
		out, _ := c.docker.call(http.MethodGet, "/containers/"+id+"/logs?stdout=1&stderr=1", nil, nil)
		t.Fatalf("%v\n%s", err, strings.ToValidUTF8(string(out), "?"))
	}
	return id
}
