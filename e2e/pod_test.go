package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// pod is a sandbox that a test has made.
type pod struct {
	*cridock
	t   *testing.T
	cfg *runtimeapi.PodSandboxConfig
	id  string
}

// podOption changes a pod's configuration.
type podOption func(*runtimeapi.PodSandboxConfig)

var podCount atomic.Int64

// podConfig is a pod's configuration as the kubelet sends it, with a name of
// its own.
func (c *cridock) podConfig(t testing.TB, options ...podOption) *runtimeapi.PodSandboxConfig {
	t.Helper()
	name := fmt.Sprintf("pod-%d", podCount.Add(1))
	cfg := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "e2e", Uid: fmt.Sprintf("%s-%d", name, os.Getpid())},
		Hostname:     name,
		LogDirectory: c.path("logs", name),
		Labels:       map[string]string{"app": name},
		Annotations:  map[string]string{"e2e.test/name": t.Name()},
		DnsConfig:    &runtimeapi.DNSConfig{Servers: []string{"10.96.0.10"}},
		Linux:        &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}}},
	}
	for _, o := range options {
		o(cfg)
	}
	return cfg
}

// runPod runs a pod, which is removed and checked for leftovers when the test
// ends.
func (c *cridock) runPod(t *testing.T, options ...podOption) *pod {
	t.Helper()
	return c.runPodWith(t, "", options...)
}

// runPodWith is runPod with a runtime handler.
func (c *cridock) runPodWith(t *testing.T, handler string, options ...podOption) *pod {
	t.Helper()
	p := &pod{cridock: c, t: t, cfg: c.podConfig(t, options...)}
	p.id = rpc(t, c.runtime.RunPodSandbox, &runtimeapi.RunPodSandboxRequest{Config: p.cfg, RuntimeHandler: handler}).PodSandboxId
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("sandbox %s, lines of cridock's log about it:\n%s", p.id, c.logOf(p.id))
		}
		p.remove()
		c.checkGone(t, p.cfg.Metadata.Uid, p.id)
	})
	return p
}

// logOf returns the last lines of cridock's log that name an object.
func (c *cridock) logOf(id string) string {
	b, _ := os.ReadFile(c.logFile())
	lines := containing(strings.Split(string(b), "\n"), id)
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}

// in returns the pod for use in a subtest.
func (p *pod) in(t *testing.T) *pod {
	q := *p
	q.t = t
	return &q
}

func (p *pod) stop() {
	p.t.Helper()
	rpc(p.t, p.runtime.StopPodSandbox, &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.id})
}

func (p *pod) remove() {
	p.t.Helper()
	p.stop()
	rpc(p.t, p.runtime.RemovePodSandbox, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.id})
}

func (p *pod) status() *runtimeapi.PodSandboxStatus {
	p.t.Helper()
	return rpc(p.t, p.runtime.PodSandboxStatus, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.id}).Status
}

// ctr is a container that a test has created. It is removed with its pod.
type ctr struct {
	*pod
	id  string
	cfg *runtimeapi.ContainerConfig
}

// ctrOption changes a container's configuration.
type ctrOption func(*runtimeapi.ContainerConfig)

// ctrConfig is a container that runs a shell script.
func (p *pod) ctrConfig(name, script string, options ...ctrOption) *runtimeapi.ContainerConfig {
	cfg := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name},
		Image:    &runtimeapi.ImageSpec{Image: p.image},
		Command:  []string{"sh", "-c", script},
		LogPath:  name + "_0.log",
		Linux:    &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{NamespaceOptions: p.cfg.GetLinux().GetSecurityContext().GetNamespaceOptions()}},
	}
	for _, o := range options {
		o(cfg)
	}
	return cfg
}

func (p *pod) tryCreate(cfg *runtimeapi.ContainerConfig) (string, error) {
	r, err := try(p.runtime.CreateContainer, &runtimeapi.CreateContainerRequest{PodSandboxId: p.id, Config: cfg, SandboxConfig: p.cfg})
	return r.GetContainerId(), err
}

func (p *pod) create(name, script string, options ...ctrOption) *ctr {
	p.t.Helper()
	c := &ctr{pod: p, cfg: p.ctrConfig(name, script, options...)}
	var err error
	if c.id, err = p.tryCreate(c.cfg); err != nil {
		p.t.Fatalf("CreateContainer %s: %v", name, err)
	}
	return c
}

// start creates and starts a container.
func (p *pod) start(name, script string, options ...ctrOption) *ctr {
	p.t.Helper()
	c := p.create(name, script, options...)
	rpc(p.t, p.runtime.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: c.id})
	return c
}

// output runs a container until it exits, which must be with code 0, and
// returns what it printed.
func (p *pod) output(name, script string, options ...ctrOption) string {
	p.t.Helper()
	c := p.start(name, script, options...)
	s := c.exited()
	out := c.logText()
	if s.ExitCode != 0 {
		p.t.Fatalf("%s: exit code %d, %s: %s", name, s.ExitCode, s.Message, out)
	}
	return out
}

func (c *ctr) status() *runtimeapi.ContainerStatus {
	c.t.Helper()
	return rpc(c.t, c.runtime.ContainerStatus, &runtimeapi.ContainerStatusRequest{ContainerId: c.id}).Status
}

// exited waits for a container to exit.
func (c *ctr) exited() *runtimeapi.ContainerStatus {
	c.t.Helper()
	var s *runtimeapi.ContainerStatus
	// Longer than the loops of scripts that give up by themselves: they say why.
	eventually(c.t, "container "+c.cfg.Metadata.Name+" exits", 5*time.Minute, func() bool {
		s = c.status()
		return s.State == runtimeapi.ContainerState_CONTAINER_EXITED
	})
	return s
}

// longTimeout is a timeout or a grace period, in seconds, of what ends by itself: only
// what hangs uses it up.
const longTimeout = 600

func (c *ctr) stop(grace int64) {
	c.t.Helper()
	rpc(c.t, c.runtime.StopContainer, &runtimeapi.StopContainerRequest{ContainerId: c.id, Timeout: grace})
}

func (c *ctr) exec(timeout int64, cmd ...string) (*runtimeapi.ExecSyncResponse, error) {
	return try(c.runtime.ExecSync, &runtimeapi.ExecSyncRequest{ContainerId: c.id, Cmd: cmd, Timeout: timeout})
}

// sh runs a script in the container; the script must succeed.
func (c *ctr) sh(script string) string {
	c.t.Helper()
	r, err := c.exec(longTimeout, "sh", "-c", script)
	if err != nil {
		c.t.Fatalf("exec %q: %v", script, err)
	}
	if r.ExitCode != 0 {
		c.t.Fatalf("exec %q: exit code %d, %s%s", script, r.ExitCode, r.Stdout, r.Stderr)
	}
	return strings.TrimSpace(string(r.Stdout))
}

func (c *ctr) logPath() string { return filepath.Join(c.pod.cfg.LogDirectory, c.cfg.LogPath) }

// logLine is a line of a CRI log.
type logLine struct {
	time   time.Time
	stream string
	full   bool
	text   string
}

func parseLog(t testing.TB, content []byte) (lines []logLine) {
	t.Helper()
	for line := range strings.Lines(string(content)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(f) != 4 || !strings.HasSuffix(line, "\n") || (f[2] != "F" && f[2] != "P") || (f[1] != "stdout" && f[1] != "stderr") {
			t.Fatalf("not a line of a CRI log: %q", line)
		}
		at, err := time.Parse(time.RFC3339Nano, f[0])
		if err != nil {
			t.Fatalf("time of log line %q: %v", line, err)
		}
		lines = append(lines, logLine{time: at, stream: f[1], full: f[2] == "F", text: f[3]})
	}
	return lines
}

// logLines returns the lines of the log, which may grow: a reader can see the first
// part of what is being written.
func (c *ctr) logLines() []logLine {
	c.t.Helper()
	var b []byte
	eventually(c.t, "the log ends with a whole line", time.Minute, func() bool {
		var err error
		if b, err = os.ReadFile(c.logPath()); err != nil {
			c.t.Fatal(err)
		}
		return len(b) == 0 || b[len(b)-1] == '\n'
	})
	return parseLog(c.t, b)
}

// logText returns what was printed to both streams.
func (c *ctr) logText() string {
	c.t.Helper()
	return join(c.logLines(), "")
}

// join reassembles the lines of one stream, or of both if it is "".
func join(lines []logLine, stream string) string {
	var b strings.Builder
	for _, l := range lines {
		if stream != "" && l.stream != stream {
			continue
		}
		b.WriteString(l.text)
		if l.full {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// wantCode checks an error's gRPC code, and that its message contains a text.
func wantCode(t testing.TB, err error, code codes.Code, text string) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(fmt.Sprint(err), text) {
		t.Errorf("error is %v; want %v with %q", err, code, text)
	}
}
