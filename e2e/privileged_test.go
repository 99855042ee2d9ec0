package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// boundedRunc is runc for a machine without CAP_SYS_RESOURCE, as one that is itself a
// container may be: runc can then give a container neither all capabilities, nor a negative
// oom_score_adj, which cri-dockerd wants for sandboxes.
const boundedRunc = `#!/bin/sh
for argument; do
	[ "$previous" != --bundle ] || config=$argument/config.json
	previous=$argument
done
if [ -e "$config" ]; then
	jq -c '(.process.capabilities[]?) -= ["CAP_SYS_RESOURCE"] | .process.oomScoreAdj |= (if . and . < 0 then 0 else . end)' "$config" >"$config.new" && mv "$config.new" "$config" || exit
fi
exec runc "$@"
`

// boundedRuntime returns dockerd's flag for a runtime with the given name, which is
// [boundedRunc].
func boundedRuntime(t *testing.T, name string) (flag string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(boundedRunc), 0o755); err != nil {
		t.Fatal(err)
	}
	return "--add-runtime=" + name + "=" + path
}

func privilegedPod(cfg *runtimeapi.PodSandboxConfig) { cfg.Linux.SecurityContext.Privileged = true }

func privileged(cfg *runtimeapi.ContainerConfig) { cfg.Linux.SecurityContext.Privileged = true }

// TestPrivilegedSysfs: in a pod with its own network, /sys is writable for the
// privileged containers and for no others, and the sandbox is like any other
// pod's.
func TestPrivilegedSysfs(t *testing.T) {
	t.Parallel()
	needEngine(t)
	n := newNode(t, boundedRuntime(t, "bounded"))
	for _, plugin := range []string{"cni", "docker"} {
		t.Run(plugin, func(t *testing.T) {
			c := newCridock(t, n, plugin)
			plain, p := c.runPodWith(t, "bounded"), c.runPodWith(t, "bounded", privilegedPod)
			const script = "echo 1400 >/sys/class/net/lo/mtu && echo writable; cat /sys/class/net/lo/mtu"
			if got := p.output("main", script, privileged); got != "writable\n1400\n" {
				t.Errorf("a privileged container prints %q", got)
			}
			first := p.output("unprivileged", "grep ' /sys sysfs ' /proc/mounts")
			if !strings.Contains(first, " ro,") {
				t.Errorf("the unprivileged container beside it has %s", first)
			}
			if got := p.output("second", script, privileged); got != "writable\n1400\n" {
				t.Errorf("a later privileged container prints %q", got)
			}
			want, got := plain.sandboxProcess(), p.sandboxProcess()
			if got != want || !strings.Contains(got, "/sys sysfs ro,") {
				t.Errorf("the sandbox of a privileged pod has\n%s\nwant, as in another pod,\n%s", got, want)
			}
		})
	}
}

// sandboxProcess returns what confines a sandbox's process besides seccomp,
// which a privileged pod does not have.
func (p *pod) sandboxProcess() string {
	p.t.Helper()
	pid := p.docker.inspect(p.t, p.id).State.Pid
	return p.run(p.t, "sh", "-c", fmt.Sprintf("grep -E '^(Cap|NoNewPrivs|Uid)' /proc/%d/status; grep -oE '/(sys|proc)[^ ]* [a-z]+ r[wo],' /proc/%[1]d/mounts", pid))
}
