package shim_test

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// fullBenchNode returns a node with 110 pods of two containers, with labels and
// annotations like a kubelet's.
func fullBenchNode(b *testing.B) *node {
	b.Helper()
	n := newNode(b, func(n *node) { n.verbosity = 0 })
	n.ctx = context.Background()
	for p := range 110 {
		cfg := n.podConfig(fmt.Sprintf("pod-%d", p))
		for key, value := range map[string]string{
			"io.kubernetes.pod.name": cfg.Metadata.Name, "io.kubernetes.pod.namespace": cfg.Metadata.Namespace,
			"io.kubernetes.pod.uid": cfg.Metadata.Uid, "pod-template-hash": "7b5d8c9f4", "app.kubernetes.io/part-of": "bench",
		} {
			cfg.Labels[key] = value
		}
		cfg.Annotations["kubernetes.io/config.seen"] = "2026-01-02T03:04:05.678901234Z"
		cfg.Annotations["kubernetes.io/config.source"] = "api"
		pod := n.runPod(cfg)
		for c := range 2 {
			cc := containerConfig(fmt.Sprint("c", c))
			for _, key := range []string{"io.kubernetes.container.name", "io.kubernetes.pod.name", "io.kubernetes.pod.namespace", "io.kubernetes.pod.uid"} {
				cc.Labels[key] = cfg.Metadata.Name
			}
			cc.Annotations = map[string]string{}
			for _, key := range []string{"hash", "restartCount", "terminationMessagePath", "terminationMessagePolicy", "terminationGracePeriod"} {
				cc.Annotations["io.kubernetes.container."+key] = "7f3a9c21"
			}
			n.runContainer(pod, cc)
		}
	}
	return n
}

// BenchmarkReads measures the cost of a read over a socket, including the
// client; "floor" is a call that does nothing, on a bare server.
func BenchmarkReads(b *testing.B) {
	n := fullBenchNode(b)
	list, err := n.runtime.ListContainers(n.ctx, &runtimeapi.ListContainersRequest{})
	n.must(err)
	for _, read := range []struct {
		name string
		call func(i int) error
	}{
		{"containers", func(int) error {
			_, err := n.runtime.ListContainers(n.ctx, &runtimeapi.ListContainersRequest{})
			return err
		}},
		{"sandboxes", func(int) error {
			_, err := n.runtime.ListPodSandbox(n.ctx, &runtimeapi.ListPodSandboxRequest{})
			return err
		}},
		{"status", func(i int) error {
			id := list.Containers[i%len(list.Containers)].Id
			_, err := n.runtime.ContainerStatus(n.ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
			return err
		}},
		{"floor", floor(b)},
	} {
		b.Run(read.name, func(b *testing.B) {
			b.ReportAllocs()
			before := cpuTime(b)
			for i := 0; b.Loop(); i++ {
				if err := read.call(i); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/float64(b.N), "cpu-µs/op")
		})
	}
}

// nothing is a server that does nothing.
type nothing struct {
	runtimeapi.UnimplementedRuntimeServiceServer
}

func (nothing) ContainerStatus(context.Context, *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	return &runtimeapi.ContainerStatusResponse{}, nil
}

// floor calls the server that does nothing.
func floor(b *testing.B) func(int) error {
	b.Helper()
	path := filepath.Join(b.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		b.Fatal(err)
	}
	srv := grpc.NewServer()
	runtimeapi.RegisterRuntimeServiceServer(srv, nothing{})
	go func() { _ = srv.Serve(l) }()
	b.Cleanup(srv.Stop)
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close() })
	client := runtimeapi.NewRuntimeServiceClient(conn)
	return func(int) error {
		_, err := client.ContainerStatus(context.Background(), &runtimeapi.ContainerStatusRequest{ContainerId: "c"})
		return err
	}
}

// cpuTime returns this process's CPU time.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
