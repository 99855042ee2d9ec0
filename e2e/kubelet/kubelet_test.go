package kubelet

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

const (
	kubeletAddr = "127.0.0.1:10250"
	// nodeName is appended to the names of static pods.
	nodeName = "node"
)

// kubelet is a running kubelet.
type kubelet struct {
	*node
	process *process
	http    *http.Client
	// api is the API server that it is registered with; nil if it runs standalone.
	api *apiServer
	// criStats is whether containers' and pods' statistics come from the CRI.
	criStats bool
	// ownUsers is whether all pods have hostUsers: false; see withOwnUsers.
	ownUsers bool
}

// settings are what differs between the starts of the kubelet.
type settings struct {
	gates map[string]bool
	// api is whether the pods come from an API server.
	api bool
	// collectImages makes the kubelet remove every image that it can.
	collectImages bool
}

// config is the kubelet's configuration file. The intervals are the shortest
// that it accepts, so that tests do not have to wait.
func (n *node) config(s settings) map[string]any {
	c := map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"containerRuntimeEndpoint": "unix://" + n.criSocket(),
		"address":                  "0.0.0.0", // the API server reads the node's
		"authentication":           map[string]any{"anonymous": map[string]any{"enabled": true}, "webhook": map[string]any{"enabled": false}},
		"authorization":            map[string]any{"mode": "AlwaysAllow"},
		"volumePluginDir":          n.path("volume-plugins"), // the default is the machine's
		"staticPodPath":            n.manifests(), "fileCheckFrequency": "1s", "syncFrequency": "5s",
		"cgroupDriver": "cgroupfs", "cgroupRoot": n.cgroup, "failCgroupV1": false, "failSwapOn": false,
		"oomScoreAdj": 0, // a negative one needs CAP_SYS_RESOURCE
		"podCIDR":     "10.88.0.0/16",
		"resolvConf":  n.path("resolv.conf"),
		// Tests share the node: none may be evicted because of the others.
		"evictionHard":        map[string]string{"memory.available": "1Mi", "nodefs.available": "1Mi", "imagefs.available": "1Mi"},
		"containerLogMaxSize": "48Ki", "containerLogMaxFiles": 30, "containerLogMonitorInterval": "3s",
		"crashLoopBackOff":               map[string]any{"maxContainerRestartPeriod": "2s"},
		"imageGCHighThresholdPercent":    100,
		"imageGCLowThresholdPercent":     99,
		"shutdownGracePeriod":            "0s",
		"serializeImagePulls":            false,
		"registryPullQPS":                0,
		"eventRecordQPS":                 0,
		"volumeStatsAggPeriod":           "2s",
		"nodeStatusUpdateFrequency":      "10s", // the kubelet also waits this long for the API server
		"enableDebuggingHandlers":        true,
		"runtimeRequestTimeout":          "2m",
		"seccompDefault":                 false,
		"featureGates":                   map[string]bool{"KubeletCrashLoopBackOffMax": true},
		"containerLogMaxWorkers":         2,
		"streamingConnectionIdleTimeout": "5m",
	}
	if s.collectImages {
		// Static pods are critical: they are not evicted.
		c["evictionHard"] = map[string]string{"nodefs.available": "99%", "imagefs.available": "99%"}
		c["imageMinimumGCAge"] = "1s"
	}
	for gate, on := range s.gates {
		c["featureGates"].(map[string]bool)[gate] = on
	}
	return c
}

func (n *node) manifests() string { return n.path("manifests") }

// startKubelet starts a kubelet, with or without an API server, and waits until
// it serves its API and the runtime is ready.
func (n *node) startKubelet(s settings, api *apiServer) (*kubelet, error) {
	config, err := yaml.Marshal(n.config(s))
	if err != nil {
		return nil, err
	}
	err = errors.Join(os.MkdirAll(n.manifests(), 0o755),
		os.WriteFile(n.path("resolv.conf"), []byte("nameserver 192.0.2.53\nsearch test\n"), 0o644),
		os.WriteFile(n.path("kubelet.yaml"), config, 0o644))
	if err != nil {
		return nil, err
	}
	args := []string{
		os.Getenv("CRIDOCK_E2E_KUBELET"), "--config=" + n.path("kubelet.yaml"), "--hostname-override=" + nodeName, "--node-ip=" + nodeIP, "--v=2",
		// Its garbage collection counts a container that has not started yet as dead.
		// With a maximum of one, the default, it then removes the one that has just
		// exited, and the pod has no last state.
		"--maximum-dead-containers-per-container=2",
	}
	if api != nil {
		args = append(args, "--kubeconfig="+n.kubeconfig())
	}
	p, err := startProcess(n.path("kubelet.log"), args...)
	if err != nil {
		return nil, err
	}
	k := &kubelet{
		node: n, process: p, api: api, criStats: s.gates["PodAndContainerStatsFromCRI"],
		// The kubelet has a self-signed certificate.
		http: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}},
	}
	for end := time.Now().Add(limit); ; time.Sleep(100 * time.Millisecond) {
		if body, err := k.get("/healthz"); err == nil && body == "ok" && (api == nil || api.nodeReady()) {
			return k, nil
		}
		select {
		case <-p.done:
			return nil, fmt.Errorf("the kubelet ended: %v\n%s", p.cmd.ProcessState, p.tail())
		default:
		}
		if time.Now().After(end) {
			return nil, errors.Join(fmt.Errorf("the kubelet is not healthy\n%s", p.tail()), p.stop())
		}
	}
}

// open requests a page. The caller closes the body.
func open(ctx context.Context, client *http.Client, url string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		defer func() { _ = resp.Body.Close() }()
		body, _ := io.ReadAll(resp.Body)
		return nil, fmt.Errorf("GET %s: %s: %s", url, resp.Status, body)
	}
	return resp.Body, nil
}

// get returns the kubelet's response.
func (k *kubelet) get(path string) (string, error) {
	return get(k.http, "https://"+kubeletAddr+path)
}

func get(client *http.Client, url string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	body, err := open(ctx, client, url)
	if err != nil {
		return "", err
	}
	defer func() { _ = body.Close() }()
	b, err := io.ReadAll(body)
	return string(b), err
}

// mustGet is get for what must exist.
func (k *kubelet) mustGet(t testing.TB, path string) string {
	t.Helper()
	body, err := k.get(path)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// pods returns all pods that the kubelet knows.
func (k *kubelet) pods() ([]corev1.Pod, error) {
	body, err := k.get("/pods")
	if err != nil {
		return nil, err
	}
	var list corev1.PodList
	if err := json.Unmarshal([]byte(body), &list); err != nil {
		return nil, err
	}
	return list.Items, nil
}

// allowed are complaints that are no fault of the runtime, with the reason for each.
var allowed = []struct{ pattern, reason string }{
	{`"Skipping pod synchronization" err="\[?(container runtime status check may not have completed yet)?(, )?(PLEG is not healthy: pleg has yet to be successful)?\]?"`, "the kubelet's first second"},
	{`"Skipping pod synchronization" err="container runtime not ready: RuntimeReady=false reason:DockerDaemonNotReady message:not connected to docker since`, "the scenario of a killed dockerd, if the kubelet looks just then"},
	{`rpc error: code = Canceled desc = context canceled`, "calls under way when the kubelet was told to end"},
	{`"(ExecSync cmd from runtime service failed|Probe errored)".*sleep 3600`, "the scenario of probes that time out"},
	{`e2e/pull(-node)?"|in pod pull(-node)?_e2e|127.0.0.1:5000/none:1`, "the scenario of images that are not there"},
	{`refused.*CreateContainerConfigError`, "the scenario of a container that must not be root"},
	{`"PodSandbox from runtime service failed".*podSandboxID=""`, "the kubelet finds out whether the runtime has statistics of pods by asking for one without a name"},
	{`"Unknown runtime handler" runtimeHandlerName="unknown"|unknown runtime \\+"unknown\\+"`, "the scenario of a runtime that is not there"},
	{`cannot decrease memory limits: .*below current usage`, "the scenario of memory that is in use"},
	{noMemoryUsage.String(), "its cAdvisor has not looked yet"},
	{`"Failed to remove container log dead symlink".*no such file or directory`, "the kubelet removes a container's log in two places"},
	{`CrashLoopBackOff`, "what a crash loop is"},
	{`"(ExecSync cmd from runtime service failed|Probe errored)".*code = FailedPrecondition desc = container [0-9a-f]{64}.* not running`, "a probe of a container that has just ended"},
	{`"(ExecSync cmd from runtime service failed|Probe errored)".*unable to start container process: .*(broken pipe|connection reset by peer|setns process: exit status 1)`, "a probe of a container that ends just then, which the engine has not heard of yet"},
	{`"(ExecSync cmd from runtime service failed|Probe errored)".*process was not started: exit code 126`, "likewise, with a reason that the engine could not pass on"},
	{`"(ExecSync cmd from runtime service failed|Probe errored)".*process was not started: .*(cannot exec in a stopped|adding pid \d+ to cgroups|no running task|ttrpc: closed|no such process)`, "likewise, with other reasons"},
	{`"(ExecSync cmd from runtime service failed|Probe errored)".*code = NotFound desc = container`, "a probe of a container that has just been removed"},
	{`"(ReopenContainerLog from runtime service failed|Failed to rotate log for container|Container log doesn't exist, reopen container log failed)".*code = (NotFound|FailedPrecondition desc = container [0-9a-f]{64}.* not running)`, "the log of a container that has just ended or been removed"},
	{`"(ContainerStatus from runtime service failed|Failed to get container status|DeleteContainer returned error|Error getting ContainerStatus for containerID|Failed to remove container)".*code = NotFound`, "the kubelet asks for a container that it has just removed, whatever the runtime"},
}

// complaints returns the lines of the kubelet's log that blame the runtime, without
// those that are allowed.
func (k *kubelet) complaints() ([]string, error) {
	f, err := os.Open(k.process.log)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	if _, err := f.Seek(k.process.logged, io.SeekStart); err != nil {
		return nil, err
	}
	var found []string
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if line := lines.Text(); isComplaint(line) {
			found = append(found, line)
		}
	}
	return found, lines.Err()
}

// complaint matches an error that the runtime has returned, an error of the kubelet's
// packages for the runtime, and the kubelet's death. It does not match other errors: on
// a busy machine the kubelet logs many of them, about the API server, its cAdvisor, or
// files that are already gone.
var complaint = regexp.MustCompile(`rpc error: code = |^E\d{4} .*(kuberuntime_\w+\.go|remote_\w+\.go|container runtime|runtime service)|^F\d{4} |panic`)

// allowedLines are the patterns of allowed.
var allowedLines = func() (patterns []*regexp.Regexp) {
	for _, a := range allowed {
		patterns = append(patterns, regexp.MustCompile(a.pattern))
	}
	return patterns
}()

func isComplaint(line string) bool {
	if !complaint.MatchString(line) {
		return false
	}
	for _, a := range allowedLines {
		if a.MatchString(line) {
			return false
		}
	}
	return true
}

// stop stops the kubelet; its pods continue to run.
func (k *kubelet) stop() error { return k.process.stop() }
