package kubelet

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// web is a container that serves one page.
func (n *node) web(name, listen, page string) corev1.Container {
	return n.shell(name, fmt.Sprintf("mkdir -p /tmp/www; echo %s >/tmp/www/index.html; exec httpd -f -p %s -h /tmp/www", page, listen))
}

// direct opens a new connection for each request.
var direct = &http.Client{Timeout: time.Minute, Transport: &http.Transport{DisableKeepAlives: true}}

// fetch returns a page that must exist.
func fetch(t testing.TB, url string) string {
	t.Helper()
	resp, err := direct.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// answers reports whether a page is served.
func answers(url, page string) bool {
	resp, err := direct.Get(url)
	if err != nil {
		return false
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return err == nil && string(body) == page
}

func testHostPort(t *testing.T, k *kubelet) {
	web := k.web("web", "8080", "host port")
	web.Ports = []corev1.ContainerPort{{ContainerPort: 8080, HostPort: 18080, Protocol: corev1.ProtocolTCP}}
	l := k.run(t, newPod("hostport", web))
	s := l.awaitReady()
	for _, url := range []string{"http://" + s.PodIP + ":8080/", "http://" + nodeIP + ":18080/", "http://127.0.0.1:18080/"} {
		eventually(t, url, limit, func() bool { return answers(url, "host port\n") })
	}
	l.remove()
	if answers("http://"+nodeIP+":18080/", "host port\n") {
		t.Error("the host port outlives the pod")
	}
}

func testHostNetwork(t *testing.T, k *kubelet) {
	pod := newPod("hostnetwork", k.web("web", nodeIP+":18081", "host network"))
	pod.Spec.HostNetwork = true
	pod.Spec.HostPID = true
	pod.Spec.HostIPC = true
	l := k.run(t, pod)
	l.awaitReady() // without an API server, the kubelet reports no address of such pods
	eventually(t, "page", limit, func() bool { return answers("http://"+nodeIP+":18081/", "host network\n") })
	expectContains(t, "interfaces", l.sh("web", "ip -o link"), "node0")
	for _, ns := range []string{"net", "pid", "ipc"} {
		own, err := os.Readlink("/proc/self/ns/" + ns)
		if err != nil {
			t.Fatal(err)
		}
		expect(t, ns+" namespace", strings.TrimSpace(l.sh("web", "readlink /proc/self/ns/"+ns)), own)
	}
}

func testSharedPIDs(t *testing.T, k *kubelet) {
	pod := newPod("sharedpids", k.forever("one"), k.shell("two", "exec sleep 4242"))
	pod.Spec.ShareProcessNamespace = ptr.To(true)
	l := k.run(t, pod)
	l.awaitReady()
	expectContains(t, "processes seen", l.sh("one", "ps -o args"), "sleep 4242")
	if out := l.sh("one", "ps -o pid,args | grep '^ *1 '"); strings.Contains(out, "sh -c") {
		t.Errorf("process 1 is %q, want the sandbox's", out)
	}
}
