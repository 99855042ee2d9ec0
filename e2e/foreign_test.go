package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/version"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maker creates pods on a node; it is not the cridock under test.
type maker interface {
	runPod(t *testing.T, cfg *runtimeapi.PodSandboxConfig) (id string)
	create(t *testing.T, p *pod, cfg *runtimeapi.ContainerConfig) (id string)
	start(t *testing.T, c *ctr) error
}

// foreign creates pods through Docker's API as dockershim and cri-dockerd do.
// Its requests were derived from their pods with docker inspect: names, labels,
// modes, the link to Docker's log, the checkpoint, CNI's loopback and result
// cache.
type foreign struct {
	*cridock
	// mounts: cri-dockerd since 0.3.17 sets Mounts; earlier versions and dockershim
	// set Binds.
	mounts bool
	// root holds the checkpoints of sandboxes.
	root string
}

const foreignAttempt = 1

func (f *foreign) runPod(t *testing.T, cfg *runtimeapi.PodSandboxConfig) string {
	t.Helper()
	labels := foreignLabels(cfg.Labels, cfg.Annotations, map[string]string{
		"io.kubernetes.docker.type": "podsandbox", "io.kubernetes.container.name": "POD",
	})
	ports := map[string][]map[string]string{}
	for _, m := range cfg.PortMappings {
		key := fmt.Sprintf("%d/%s", m.ContainerPort, strings.ToLower(m.Protocol.String()))
		ports[key] = append(ports[key], map[string]string{"HostIp": m.HostIp, "HostPort": fmt.Sprint(m.HostPort)})
	}
	host := map[string]any{
		"NetworkMode": "none", "IpcMode": "shareable", "PortBindings": ports, "CpuShares": 2, "SecurityOpt": []string{"no-new-privileges"},
	}
	hostNetwork := cfg.Linux.SecurityContext.NamespaceOptions.Network == runtimeapi.NamespaceMode_NODE
	if hostNetwork {
		host["NetworkMode"] = "host"
	}
	m := cfg.Metadata
	id := f.make(t, fmt.Sprintf("k8s_POD_%s_%s_%s_%d", m.Name, m.Namespace, m.Uid, m.Attempt), map[string]any{
		"Hostname": cfg.Hostname, "Image": f.image, "Entrypoint": []string{"sleep", "100000"}, "Labels": labels, "HostConfig": host,
	})
	f.checkpoint(t, id, cfg, hostNetwork)
	f.docker.must(t, http.MethodPost, "/containers/"+id+"/start", nil, nil)
	sandbox := f.docker.inspect(t, id)
	if err := os.WriteFile(sandbox.ResolvConfPath, []byte("nameserver "+cfg.DnsConfig.Servers[0]+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if !hostNetwork {
		f.attach(t, id, sandbox.State.Pid, cfg)
	}
	return id
}

// foreignLabels stores annotations as labels too, as Docker has no annotations.
func foreignLabels(labels, annotations, internal map[string]string) map[string]string {
	all := map[string]string{}
	for k, v := range labels {
		all[k] = v
	}
	for k, v := range annotations {
		all["annotation."+k] = v
	}
	for k, v := range internal {
		all[k] = v
	}
	return all
}

// make creates a container.
func (f *foreign) make(t *testing.T, name string, body map[string]any) string {
	t.Helper()
	var made struct {
		ID string `json:"Id"`
	}
	f.docker.must(t, http.MethodPost, "/containers/create?name="+url.QueryEscape(name), body, &made)
	return made.ID
}

// checkpoint writes the file that the adapters keep for each sandbox.
func (f *foreign) checkpoint(t *testing.T, id string, cfg *runtimeapi.PodSandboxConfig, hostNetwork bool) {
	t.Helper()
	var ports []map[string]any
	for _, m := range cfg.PortMappings {
		ports = append(ports, map[string]any{"protocol": strings.ToLower(m.Protocol.String()), "container_port": m.ContainerPort, "host_port": m.HostPort})
	}
	b, err := json.Marshal(map[string]any{
		"version": "v1", "name": cfg.Metadata.Name, "namespace": cfg.Metadata.Namespace, "checksum": 1,
		"data": map[string]any{"port_mappings": ports, "host_network": hostNetwork},
	})
	if err == nil {
		err = os.MkdirAll(filepath.Join(f.root, "sandbox"), 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(f.root, "sandbox", id), b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// attach runs CNI's ADD, for a loopback first.
func (f *foreign) attach(t *testing.T, id string, pid int, cfg *runtimeapi.PodSandboxConfig) {
	t.Helper()
	plugins := libcni.NewCNIConfigWithCacheDir([]string{f.binDir(), cniBinDir}, f.cacheDir(), &pluginsOn{node: f.node})
	var ports []map[string]any
	for _, m := range cfg.PortMappings {
		ports = append(ports, map[string]any{"hostPort": m.HostPort, "containerPort": m.ContainerPort, "protocol": strings.ToLower(m.Protocol.String()), "hostIP": m.HostIp})
	}
	rt := &libcni.RuntimeConf{
		ContainerID: id, NetNS: fmt.Sprintf("/proc/%d/ns/net", pid), IfName: "eth0",
		Args: [][2]string{
			{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", cfg.Metadata.Namespace}, {"K8S_POD_NAME", cfg.Metadata.Name}, {"K8S_POD_INFRA_CONTAINER_ID", id},
		},
		CapabilityArgs: map[string]any{"portMappings": ports, "ipRanges": [][]map[string]string{{{"subnet": ""}}}},
	}
	for _, conf := range []string{`{"cniVersion": "0.2.0", "name": "cni-loopback", "plugins": [{"type": "loopback"}]}`, f.conflist()} {
		list, err := libcni.NetworkConfFromBytes([]byte(conf))
		if err == nil {
			_, err = plugins.AddNetworkList(t.Context(), list, rt)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func (f *foreign) create(t *testing.T, p *pod, cfg *runtimeapi.ContainerConfig) string {
	t.Helper()
	c := &ctr{pod: p, cfg: cfg}
	m := p.cfg.Metadata
	labels := foreignLabels(cfg.Labels, cfg.Annotations, map[string]string{
		"io.kubernetes.docker.type": "container", "io.kubernetes.sandbox.id": p.id, "io.kubernetes.container.logpath": c.logPath(),
	})
	network := "container:" + p.id
	if p.cfg.Linux.SecurityContext.NamespaceOptions.Network == runtimeapi.NamespaceMode_NODE {
		network = "host"
	}
	host := map[string]any{
		"NetworkMode": network, "IpcMode": "container:" + p.id, "RestartPolicy": map[string]any{"Name": "no"}, "SecurityOpt": []string{"seccomp=unconfined"},
		"Memory": cfg.Linux.GetResources().GetMemoryLimitInBytes(), "CpuShares": cfg.Linux.GetResources().GetCpuShares(),
	}
	var binds []string
	var mounts []map[string]any
	for _, m := range cfg.Mounts {
		bind := m.HostPath + ":" + m.ContainerPath
		if m.Readonly {
			bind += ":ro"
		}
		binds = append(binds, bind)
		mounts = append(mounts, map[string]any{"Type": "bind", "Source": m.HostPath, "Target": m.ContainerPath, "ReadOnly": m.Readonly})
	}
	if f.mounts {
		host["Mounts"] = mounts
	} else {
		host["Binds"] = binds
	}
	if driver := cfg.Annotations["e2e.test/log-driver"]; driver != "" {
		host["LogConfig"] = map[string]any{"Type": driver}
	}
	return f.make(t, fmt.Sprintf("k8s_%s_%s_%s_%s_%d", cfg.Metadata.Name, m.Name, m.Namespace, m.Uid, cfg.Metadata.Attempt), map[string]any{
		"Image": cfg.Image.Image, "Entrypoint": cfg.Command, "Tty": cfg.Tty, "Labels": labels, "Healthcheck": map[string]any{"Test": []string{"NONE"}}, "HostConfig": host,
	})
}

// start also links to Docker's log, even after a failure. With another log
// driver there is nothing to link to.
func (f *foreign) start(t *testing.T, c *ctr) error {
	t.Helper()
	_, err := f.docker.call(http.MethodPost, "/containers/"+c.id+"/start", http.Header{}, nil)
	if log := f.docker.inspect(t, c.id).LogPath; log != "" {
		if err := os.Symlink(log, c.logPath()); err != nil {
			t.Fatal(err)
		}
	}
	return err
}

// pluginsOn runs CNI plugins on a node.
type pluginsOn struct {
	version.PluginDecoder
	node *node
}

func (p *pluginsOn) ExecPlugin(_ context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	cmd := p.node.command(path)
	cmd.Env, cmd.Stdin = environ, bytes.NewReader(stdin)
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", path, err, out)
	}
	return out, nil
}

func (p *pluginsOn) FindInPath(plugin string, paths []string) (string, error) {
	return invoke.FindInPath(plugin, paths)
}
