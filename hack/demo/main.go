// Command demo shows a runtime's main work through its CRI socket: a pod with two
// containers that talk over localhost, its address, a container's log, an exec, and
// the removal of it all. It is an ordinary CRI client and knows nothing of cridock.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func main() {
	endpoint := flag.String("endpoint", "unix:///run/cridock/cridock.sock", "CRI endpoint")
	image := flag.String("image", "", "image with a shell and busybox's httpd and wget; pulled if missing")
	flag.Parse()
	if err := run(*endpoint, *image); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// demo is one run: a client, and the pod it makes.
type demo struct {
	runtime runtimeapi.RuntimeServiceClient
	images  runtimeapi.ImageServiceClient
	pod     *runtimeapi.PodSandboxConfig
	id      string
}

func run(endpoint, image string) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	conn, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	logs, err := os.MkdirTemp("", "cri-demo-logs-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(logs)) }()
	d := &demo{
		runtime: runtimeapi.NewRuntimeServiceClient(conn), images: runtimeapi.NewImageServiceClient(conn),
		pod: &runtimeapi.PodSandboxConfig{
			Metadata:     &runtimeapi.PodSandboxMetadata{Name: "demo", Namespace: "default", Uid: fmt.Sprintf("demo-%d", os.Getpid())},
			Hostname:     "demo",
			LogDirectory: logs,
			Linux:        &runtimeapi.LinuxPodSandboxConfig{},
		},
	}
	if err := d.greet(ctx); err != nil {
		return err
	}
	imageID, err := d.ensureImage(ctx, image)
	if err != nil {
		return err
	}
	return d.showPod(ctx, imageID)
}

func (d *demo) greet(ctx context.Context) error {
	v, err := d.runtime.Version(ctx, &runtimeapi.VersionRequest{})
	if err != nil {
		return fmt.Errorf("version: %w", err)
	}
	say("runtime", "%s %s, CRI %s", v.RuntimeName, v.RuntimeVersion, v.RuntimeApiVersion)
	s, err := d.runtime.Status(ctx, &runtimeapi.StatusRequest{})
	if err != nil {
		return fmt.Errorf("status: %w", err)
	}
	for _, c := range s.GetStatus().GetConditions() {
		say("status", "%s=%t %s", c.Type, c.Status, c.Message)
	}
	return nil
}

func (d *demo) ensureImage(ctx context.Context, ref string) (string, error) {
	spec := &runtimeapi.ImageSpec{Image: ref}
	s, err := d.images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: spec})
	if err != nil {
		return "", fmt.Errorf("image %q: %w", ref, err)
	}
	if id := s.GetImage().GetId(); id != "" {
		say("image", "found %s as %.19s", ref, id)
		return id, nil
	}
	p, err := d.images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: spec})
	if err != nil {
		return "", fmt.Errorf("pull %q: %w", ref, err)
	}
	say("image", "pulled %s as %.19s", ref, p.ImageRef)
	return p.ImageRef, nil
}

// showPod runs the pod and always removes it, even after an error.
func (d *demo) showPod(ctx context.Context, image string) (err error) {
	start := time.Now()
	r, err := d.runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: d.pod})
	if err != nil {
		return fmt.Errorf("run pod sandbox: %w", err)
	}
	d.id = r.PodSandboxId
	defer func() { err = errors.Join(err, d.remove(ctx)) }()
	say("pod", "%.12s runs after %v", d.id, time.Since(start).Round(time.Millisecond))

	server, err := d.start(ctx, "server", image, "echo serving; echo hello from the server >/tmp/index.html; exec httpd -f -p 8080 -h /tmp")
	if err != nil {
		return err
	}
	if _, err := d.start(ctx, "client", image, "for i in 1 2 3 4 5 6 7 8 9 10; do wget -qO- http://localhost:8080/ && break; sleep 0.2; done; sleep 3600"); err != nil {
		return err
	}
	st, err := d.runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: d.id})
	if err != nil {
		return fmt.Errorf("pod status: %w", err)
	}
	say("address", "%s, state %s", st.GetStatus().GetNetwork().GetIp(), st.GetStatus().GetState())
	if err := d.showLog(ctx, "client", "hello from the server"); err != nil {
		return err
	}
	e, err := d.runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: server, Cmd: []string{"sh", "-c", "hostname; ip -o addr show"}, Timeout: 10})
	if err != nil {
		return fmt.Errorf("exec: %w", err)
	}
	say("exec", "exit code %d", e.ExitCode)
	indent(string(e.Stdout))
	return nil
}

func (d *demo) start(ctx context.Context, name, image, script string) (string, error) {
	start := time.Now()
	c, err := d.runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{
		PodSandboxId: d.id, SandboxConfig: d.pod,
		Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: name},
			Image:    &runtimeapi.ImageSpec{Image: image},
			Command:  []string{"sh", "-c", script},
			LogPath:  name + ".log",
			Linux:    &runtimeapi.LinuxContainerConfig{},
		},
	})
	if err != nil {
		return "", fmt.Errorf("create container %s: %w", name, err)
	}
	if _, err := d.runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: c.ContainerId}); err != nil {
		return "", fmt.Errorf("start container %s: %w", name, err)
	}
	say("container", "%s %.12s runs after %v", name, c.ContainerId, time.Since(start).Round(time.Millisecond))
	return c.ContainerId, nil
}

// showLog waits for a line of a container's log and prints the log.
func (d *demo) showLog(ctx context.Context, name, want string) error {
	path := filepath.Join(d.pod.LogDirectory, name+".log")
	for {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if strings.Contains(string(b), want) {
			say("log", "%s", path)
			indent(string(b))
			return nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("log of %s: no line %q: %w", name, want, ctx.Err())
		}
	}
}

func (d *demo) remove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	start := time.Now()
	if _, err := d.runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: d.id}); err != nil {
		return fmt.Errorf("stop pod: %w", err)
	}
	if _, err := d.runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: d.id}); err != nil {
		return fmt.Errorf("remove pod: %w", err)
	}
	l, err := d.runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{PodSandboxId: d.id}})
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	if n := len(l.Containers); n > 0 {
		return fmt.Errorf("%d containers remain", n)
	}
	say("removed", "pod and containers, after %v", time.Since(start).Round(time.Millisecond))
	return nil
}

func say(what, format string, args ...any) {
	fmt.Printf("%-10s %s\n", what, fmt.Sprintf(format, args...))
}

func indent(text string) {
	for line := range strings.Lines(text) {
		fmt.Printf("%-10s   %s\n", "", strings.TrimRight(line, "\n"))
	}
}
