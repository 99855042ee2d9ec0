package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/versions"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/internal/seam"
)

// TestEarlyNetwork runs pods whose network namespaces cridock-runtime takes care of.
func TestEarlyNetwork(t *testing.T) {
	t.Parallel()
	u := newUsernsTest(t, "--early-network")
	if err := u.start(); err != nil {
		t.Fatal(err)
	}
	p := u.runPod(t)
	if len(u.records(t)) > 0 || p.status().Network.Ip == "" {
		t.Error("without cridock-runtime, a sandbox is not an ordinary one")
	}
	p.remove()
	u.mustRegister(t)
	u.restart(t, nil)
	for name, test := range map[string]func(*testing.T){
		"pod": u.earlyPod, "rollback": u.rollsBack, "killed": u.killedInRunPodSandbox,
	} {
		t.Run(name, test)
	}
	if left := u.records(t); len(left) > 0 {
		t.Errorf("records left behind: %v", left)
	}
}

// earlyPod: a pod has its addresses and sysctls, which its interface inherits, is reached
// by another, and outlives cridock.
func (u *usernsTest) earlyPod(t *testing.T) {
	p := u.runPod(t, func(cfg *runtimeapi.PodSandboxConfig) {
		cfg.Linux.Sysctls = map[string]string{"net.ipv4.conf.eth0.forwarding": "0", "net.ipv4.conf.default.arp_announce": "2", "net.core.somaxconn": "77"}
	})
	u.checkRecord(t, p)
	p.start("server", "echo served >/tmp/index.html; exec httpd -f -p 8080 -h /tmp")
	c := p.start("idle", "sleep 1000")
	if got := c.sh("cd /proc/sys/net; cat ipv4/conf/eth0/forwarding ipv4/conf/default/arp_announce ipv4/conf/eth0/arp_announce core/somaxconn | xargs"); got != "0 2 2 77" {
		t.Errorf("the sysctls are %s", got)
	}
	eventually(t, "the server listens", logLimit, func() bool {
		return c.sh("cat /proc/net/tcp /proc/net/tcp6 | grep -c ':1F90 0*:0000 0A' || true") != "0"
	})
	network := p.status().Network
	shown := c.sh("ip addr show dev eth0; ip addr show dev lo")
	for _, ip := range append([]*runtimeapi.PodIP{{Ip: network.Ip}, {Ip: "127.0.0.1"}}, network.AdditionalIps...) {
		if !strings.Contains(shown, ip.Ip+"/") {
			t.Errorf("the pod has not its address %s:\n%s", ip.Ip, shown)
		}
	}
	const disabled = "net.ipv6.conf.lo.disable_ipv6"
	other := u.runPod(t, func(cfg *runtimeapi.PodSandboxConfig) { cfg.Linux.Sysctls = map[string]string{disabled: "1"} })
	if got := strings.TrimSpace(other.output("sysctl", "cat /proc/sys/"+strings.ReplaceAll(disabled, ".", "/"))); got != "1" {
		t.Errorf("%s is %s", disabled, got)
	}
	client := "wget -qO- http://" + network.Ip + ":8080/"
	if got := other.output("client", client); lastLine(got) != "served" {
		t.Errorf("another pod gets %q", got)
	}
	u.restart(t, nil)
	if got := p.status(); got.State != runtimeapi.PodSandboxState_SANDBOX_READY || got.Network.Ip != network.Ip {
		t.Errorf("after a restart the pod is %v with %v", got.State, got.Network)
	}
	if got := other.output("client-again", client); lastLine(got) != "served" {
		t.Errorf("after a restart another pod gets %q", got)
	}
	p.remove()
	other.remove()
}

// checkRecord checks what cridock-runtime did for a sandbox.
func (u *usernsTest) checkRecord(t *testing.T, p *pod) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(u.runDir, seam.Records, seam.FileName(p.id)))
	if err != nil {
		t.Fatal(err)
	}
	record, err := seam.Decode(text)
	if err != nil || record.Network == nil {
		t.Fatalf("%s: %v", text, err)
	}
	info := p.info()
	pin := "/run/cridock/netns/" + p.id
	var engine struct{ Version string }
	u.docker.must(t, http.MethodGet, "/version", nil, &engine)
	if early := versions.GreaterThanOrEqualTo(engine.Version, "26.1"); early != (record.Network.Namespace == pin) {
		t.Errorf("the sandbox was started in the network namespace %q", record.Network.Namespace)
	}
	inode := func(path string) string { return u.run(t, "stat", "-L", "-c", "%i", path) }
	if have, want := inode(fmt.Sprintf("/proc/%d/ns/net", info.Pid)), inode(pin); have != want {
		t.Errorf("the sandbox is in the network namespace %s, pinned is %s", have, want)
	}
	if info.RuntimeSpec == nil || info.RuntimeSpec.Hooks == nil {
		return // Docker 28 and later have no hook
	}
	for _, hook := range info.RuntimeSpec.Hooks.Prestart { //nolint:staticcheck // Docker's hook
		if hook.Path != u.runtimeBinary || hook.Args[0] != "cridock-setkey" {
			t.Errorf("the sandbox has the hook %q %q", hook.Path, hook.Args)
		}
	}
}
