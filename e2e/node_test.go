package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// requestTimeout bounds a request to a node, which is only there to end what hangs.
const requestTimeout = 2 * time.Minute

// node stands for a machine: a private engine and its namespaces.
type node struct {
	dir      string // of the engine and all other files; short, as it contains unix sockets
	pid      int    // first process of the namespaces
	docker   *docker
	image    string // a busybox image that the engine has
	registry string // host:port on the node's loopback

	registryOnce sync.Once
	registryErr  error
}

// script runs one of hack/engine.sh's commands.
func (n *node) script(command string, args ...string) (string, error) {
	cmd := exec.Command("../hack/engine.sh", append([]string{command, n.dir}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("hack/engine.sh %s: %w: %s", command, err, &stderr)
	}
	return strings.TrimSpace(string(out)), nil
}

// startNode starts an engine that has the busybox image. dockerd can be left
// out, for tests of what happens without it; see startEngine.
func startNode(name string, dockerdFlags ...string) (*node, error) {
	// The last element must be unique on the machine: it also names a cgroup.
	dir, err := os.MkdirTemp(workDir, "e2e-"+name+"-")
	if err != nil {
		return nil, err
	}
	n := &node{dir: dir, docker: newDocker(filepath.Join(dir, "docker.sock"))}
	if err := n.startEngine(dockerdFlags...); err != nil {
		return nil, err
	}
	if n.image, err = n.script("busybox"); err != nil {
		return nil, errors.Join(err, n.remove())
	}
	return n, nil
}

func (n *node) startEngine(dockerdFlags ...string) error {
	if _, err := n.script("start", dockerdFlags...); err != nil {
		return err
	}
	pid, err := os.ReadFile(filepath.Join(n.dir, "init.pid"))
	if err != nil {
		return err
	}
	n.pid, err = strconv.Atoi(strings.TrimSpace(string(pid)))
	return err
}

// remove stops the engine and removes its files. It succeeds if that has been
// done already.
func (n *node) remove() error {
	_, err := n.script("remove")
	return err
}

// newNode returns a node that only one test uses.
func newNode(t testing.TB, dockerdFlags ...string) *node {
	t.Helper()
	needEngine(t)
	n, err := startNode("own", dockerdFlags...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.remove(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// command returns a command to run on the node. Its PID is nsenter's.
func (n *node) command(args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"--target", strconv.Itoa(n.pid), "--net", "--mount", "--pid", "--"}, args...)...)
}

// run runs a command on the node and returns what it prints.
func (n *node) run(t testing.TB, args ...string) string {
	t.Helper()
	out, err := n.command(args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%q: %v: %s", args, err, out)
	}
	return string(out)
}

// dial connects from inside the node.
func (n *node) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = n.inNetNS(func() error {
		conn, err = (&net.Dialer{Timeout: requestTimeout}).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// http returns an HTTP client on the node.
func (n *node) http() *http.Client {
	return &http.Client{Timeout: requestTimeout, Transport: &http.Transport{DialContext: n.dial, DisableKeepAlives: true}}
}

// inNetNS runs f on a thread in the node's network namespace. f must not start
// goroutines that open sockets.
func (n *node) inNetNS(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread exits with the goroutine
		done <- func() error {
			ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", n.pid))
			if err != nil {
				return err
			}
			defer func() { _ = ns.Close() }()
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				return err
			}
			return f()
		}()
	}()
	return <-done
}

// mounts returns the node's mount points.
func (n *node) mounts() ([]string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", n.pid))
	if err != nil {
		return nil, err
	}
	var points []string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 {
			points = append(points, f[4])
		}
	}
	return points, nil
}

// needRegistry starts the node's registry once.
func (n *node) needRegistry(t *testing.T) string {
	t.Helper()
	n.registryOnce.Do(func() { n.registry, n.registryErr = n.script("registry") })
	if n.registryErr != nil {
		t.Fatal(n.registryErr)
	}
	return n.registry
}

// eventually waits for a condition that nothing signals.
func eventually(t testing.TB, what string, limit time.Duration, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// listen listens on the node's loopback.
func (n *node) listen() (l net.Listener, err error) {
	err = n.inNetNS(func() error {
		l, err = (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
		return err
	})
	return l, err
}
