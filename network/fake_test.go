package network

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/version"
)

// call is one execution of a plugin.
type call struct {
	plugin, command, containerID, netns, ifName, args string
	conf                                              map[string]any
}

// plugins answers executions; respond may be nil.
type plugins struct {
	version.PluginDecoder
	mu      sync.Mutex
	calls   []call
	respond func(context.Context, call) (string, error)
	missing map[string]bool
}

func (p *plugins) FindInPath(plugin string, paths []string) (string, error) {
	if p.missing[plugin] {
		return "", errors.New("failed to find plugin " + plugin)
	}
	return filepath.Join(paths[0], plugin), nil
}

func (p *plugins) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	env := map[string]string{}
	for _, e := range environ {
		k, v, _ := strings.Cut(e, "=")
		env[k] = v
	}
	c := call{
		plugin: filepath.Base(path), command: env["CNI_COMMAND"], containerID: env["CNI_CONTAINERID"],
		netns: env["CNI_NETNS"], ifName: env["CNI_IFNAME"], args: env["CNI_ARGS"],
	}
	if err := json.Unmarshal(stdin, &c.conf); err != nil {
		return nil, err
	}
	p.mu.Lock()
	p.calls = append(p.calls, c)
	respond := p.respond
	p.mu.Unlock()
	if respond != nil {
		out, err := respond(ctx, c)
		return []byte(out), err
	}
	if c.command == "ADD" {
		return []byte(goodResult), nil
	}
	return nil, nil
}

// of returns the executions of one command since the last reset.
func (p *plugins) of(command string) []call {
	p.mu.Lock()
	defer p.mu.Unlock()
	var found []call
	for _, c := range p.calls {
		if c.command == command {
			found = append(found, c)
		}
	}
	return found
}

func (p *plugins) answer(respond func(context.Context, call) (string, error)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.respond, p.calls = respond, nil
}

const goodResult = `{"cniVersion":"1.0.0",
 "interfaces":[{"name":"br0"},{"name":"eth0","sandbox":"/ns"}],
 "ips":[{"interface":1,"address":"10.1.0.2/24"},{"interface":1,"address":"fd00::2/64"}]}`

const oneConf = `{"cniVersion":"1.0.0","name":"one","plugins":[{"type":"fake","mark":"first","capabilities":{"portMappings":true,"ipRanges":true}}]}`

// node is a machine with its directories, which outlive a CNI.
type node struct {
	t    *testing.T
	cfg  Config
	exec *plugins
}

func newNode(t *testing.T) *node {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("needs root: makes network namespaces")
	}
	dir := t.TempDir()
	exec := &plugins{}
	n := &node{t: t, exec: exec, cfg: Config{
		ConfDir: filepath.Join(dir, "net.d"), BinDirs: []string{"/bin1", "/bin2"},
		CacheDir: filepath.Join(dir, "cache"), NetNSDir: filepath.Join(dir, "netns"), Exec: exec,
	}}
	if err := os.Mkdir(n.cfg.ConfDir, 0o755); err != nil {
		t.Fatal(err)
	}
	return n
}

// start returns the CNI of a newly started process.
func (n *node) start() *CNI {
	n.t.Helper()
	c, err := New(n.cfg)
	if err != nil {
		n.t.Fatalf("New: %v", err)
	}
	return c
}

func (n *node) writeConf(name, data string) {
	n.t.Helper()
	if err := os.WriteFile(filepath.Join(n.cfg.ConfDir, name), []byte(data), 0o644); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) removeConf(name string) {
	n.t.Helper()
	if err := os.Remove(filepath.Join(n.cfg.ConfDir, name)); err != nil {
		n.t.Fatal(err)
	}
}

// pod creates a pinned namespace and the runtime configuration of a pod.
func (n *node) pod(id string) *libcni.RuntimeConf {
	n.t.Helper()
	pin := filepath.Join(n.cfg.NetNSDir, id)
	newNetNS(n.t, pin)
	return &libcni.RuntimeConf{
		ContainerID: id, NetNS: pin, IfName: "eth0",
		Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAME", "pod-" + id}},
		CapabilityArgs: map[string]any{
			"portMappings": []map[string]any{{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}},
		},
	}
}

// files returns the names of the files that record ADDs and attachments.
func (n *node) files() []string {
	n.t.Helper()
	var names []string
	for _, pattern := range []string{"results/*", "cridock/results/*", "cridock/*.tmp"} {
		found, err := filepath.Glob(filepath.Join(n.cfg.CacheDir, pattern))
		if err != nil {
			n.t.Fatal(err)
		}
		for _, f := range found {
			rel, _ := filepath.Rel(n.cfg.CacheDir, f)
			names = append(names, rel)
		}
	}
	return names
}

// newNetNS creates a network namespace pinned at path until the test ends.
func newNetNS(t *testing.T, path string) {
	t.Helper()
	if err := MakeNetNS(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := UnpinNetNS(path); err != nil {
			t.Errorf("UnpinNetNS: %v", err)
		}
	})
}
