package kubelet

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	// nodeIP is on an interface that hack/kubelet.sh creates.
	nodeIP = "192.0.2.10"
	// podNet is the prefix of the pods' addresses.
	podNet = "10.88."
	cniDir = "/var/lib/cni" // the node's own, as all of /var/lib
)

// node is the machine that the tests run on, as hack/kubelet.sh has set it up.
type node struct {
	dir      string
	socket   string // of the engine
	image    string
	registry string
	cgroup   string
	engine   *http.Client
}

func thisNode() *node {
	socket := strings.TrimPrefix(os.Getenv("CRIDOCK_E2E_DOCKER"), "unix://")
	return &node{
		dir: filepath.Dir(socket), socket: socket,
		image: os.Getenv("CRIDOCK_E2E_IMAGE"), registry: os.Getenv("CRIDOCK_E2E_REGISTRY"), cgroup: os.Getenv("CRIDOCK_E2E_CGROUP"),
		engine: &http.Client{Timeout: time.Minute, Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "unix", socket)
			},
			DisableKeepAlives: true,
		}},
	}
}

func (n *node) path(parts ...string) string {
	return filepath.Join(append([]string{n.dir}, parts...)...)
}

// ask calls Docker's API. body is sent unchanged; it and out may be nil.
func (n *node) ask(method, path string, body io.Reader, out any) error {
	req, err := http.NewRequest(method, "http://docker"+path, body)
	if err != nil {
		return err
	}
	resp, err := n.engine.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("docker: %s %s: %s: %s", method, path, resp.Status, answer)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(answer, out)
}

// containers returns the names of the containers, running or not, that match
// Docker's filters, given as the inside of a JSON object.
func (n *node) containers(filters string) ([]string, error) {
	var list []struct{ Names []string }
	if err := n.ask(http.MethodGet, "/containers/json?all=1&filters="+url.QueryEscape("{"+filters+"}"), nil, &list); err != nil {
		return nil, err
	}
	var names []string
	for _, c := range list {
		names = append(names, strings.Join(c.Names, ","))
	}
	return names, nil
}

// images returns the tags of all images, and the IDs of untagged ones.
func (n *node) images() ([]string, error) {
	var list []struct {
		ID       string `json:"Id"`
		RepoTags []string
	}
	if err := n.ask(http.MethodGet, "/images/json", nil, &list); err != nil {
		return nil, err
	}
	var names []string
	for _, i := range list {
		if len(i.RepoTags) == 0 {
			names = append(names, i.ID)
		}
		names = append(names, i.RepoTags...)
	}
	return names, nil
}

// writeCNI writes the pods' network configuration: a bridge with both IP
// versions.
func (n *node) writeCNI() error {
	conf := fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "kubelet", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": %q,
    "ranges": [[{"subnet": "10.88.0.0/16"}], [{"subnet": "fd88::/64"}]],
    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}`, cniDir+"/ipam")
	if err := os.MkdirAll(cniDir+"/net.d", 0o755); err != nil {
		return err
	}
	return os.WriteFile(cniDir+"/net.d/10-kubelet.conflist", []byte(conf), 0o644)
}

// process is a daemon on the node whose output goes to a file.
type process struct {
	cmd    *exec.Cmd
	log    string
	logged int64         // the size of the log before it started
	done   chan struct{} // closed when it has exited
}

// startProcess appends to the log of an earlier process.
func startProcess(log string, args ...string) (*process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // the process has its own descriptor
	before, err := f.Stat()
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(args[0], args[1:]...), log: log, logged: before.Size(), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = f, f
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = p.cmd.Wait() // ProcessState has the result
		close(p.done)
	}()
	return p, nil
}

// stop stops the process as systemd does.
func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("%s had ended by itself: %w\n%s", p.cmd.Path, err, p.tail())
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(limit):
		_ = p.cmd.Process.Kill()
		<-p.done
		return fmt.Errorf("%s did not end within %v of SIGTERM\n%s", p.cmd.Path, limit, p.tail())
	}
}

// tail returns the end of the log.
func (p *process) tail() string {
	b, _ := os.ReadFile(p.log)
	return p.log + " ends with:\n" + string(b[max(0, len(b)-4000):])
}

// startCridock starts cridock and waits for its socket; the kubelet waits for
// the rest.
func (n *node) startCridock() (*process, error) {
	p, err := startProcess(n.path("cridock.log"), os.Getenv("CRIDOCK_E2E_CRIDOCK"), "serve",
		"--container-runtime-endpoint=unix://"+n.criSocket(), "--docker-endpoint=unix://"+n.socket,
		"--cni-conf-dir="+cniDir+"/net.d", "--cni-cache-dir="+cniDir+"/cache", "--v=4")
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(limit); ; time.Sleep(50 * time.Millisecond) {
		if conn, err := net.Dial("unix", n.criSocket()); err == nil {
			return p, conn.Close()
		}
		select {
		case <-p.done:
			return nil, fmt.Errorf("cridock ended: %v\n%s", p.cmd.ProcessState, p.tail())
		default:
		}
		if time.Now().After(end) {
			_ = p.stop()
			return nil, fmt.Errorf("cridock does not listen\n%s", p.tail())
		}
	}
}

func (n *node) criSocket() string { return "/run/cridock/cridock.sock" }

// leftovers returns what pods have left on the node once there are none.
func (n *node) leftovers() ([]string, error) {
	left, err := n.containers(`"label":["io.kubernetes.pod.uid"]`)
	if err != nil {
		return nil, err
	}
	for _, pattern := range []string{
		"/run/cridock/netns/*", "/run/cridock/oci/*", "/run/cridock/image-volumes/[^.]*", "/var/lib/cridock/sandboxes/*", "/var/lib/cridock/containers/*",
		"/var/lib/kubelet/pods/*", "/var/log/pods/*", "/var/log/containers/*",
		cniDir + "/ipam/kubelet/10.*", cniDir + "/ipam/kubelet/fd88*", cniDir + "/cache/results/*",
	} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		left = append(left, found...)
	}
	for _, save := range []string{"iptables-save", "ip6tables-save"} {
		out, err := exec.Command(save).Output()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", save, err)
		}
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, podNet) || strings.Contains(line, "CNI-DN-") {
				left = append(left, strings.TrimSpace(line))
			}
		}
	}
	return left, nil
}

// eventually waits for a condition that nothing signals. It asks seldom: most conditions
// ask the kubelet for all pods.
func eventually(t testing.TB, what string, limit time.Duration, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !ok(); time.Sleep(300 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// persistently repeats what a daemon on a busy machine may fail to answer in time.
func persistently(t testing.TB, do func() error) {
	t.Helper()
	for end := time.Now().Add(limit); ; time.Sleep(100 * time.Millisecond) {
		err := do()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}
