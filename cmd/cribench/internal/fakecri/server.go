// Package fakecri is a CRI server for tests: it keeps sandboxes and containers in
// memory and writes a line to a container's log when it starts. It runs nothing.
package fakecri

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Server is the fake. It implements the RPCs that cribench calls; the others return
// Unimplemented.
type Server struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	runtimeapi.UnimplementedImageServiceServer

	// LogLines is how many lines a container writes when it starts.
	LogLines int
	// Traced is called, if set, after each RPC with its context.
	Traced func(ctx context.Context, method string, began time.Time)

	mu         sync.Mutex
	calls      []string
	hook       func(method string) error
	next       int
	images     map[string]bool
	sandboxes  map[string]*runtimeapi.PodSandbox
	logDirs    map[string]string
	containers map[string]*runtimeapi.Container
	logs       map[string]string
}

// Start serves a fake on a new socket until the test ends, and returns it with its
// endpoint.
func Start(t *testing.T) (*Server, string) {
	t.Helper()
	s := &Server{
		LogLines: 1, images: map[string]bool{}, sandboxes: map[string]*runtimeapi.PodSandbox{}, logDirs: map[string]string{},
		containers: map[string]*runtimeapi.Container{}, logs: map[string]string{},
	}
	path := filepath.Join(t.TempDir(), "cri.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(grpc.UnaryInterceptor(s.intercept))
	runtimeapi.RegisterRuntimeServiceServer(g, s)
	runtimeapi.RegisterImageServiceServer(g, s)
	served := make(chan error, 1)
	go func() { served <- g.Serve(l) }()
	t.Cleanup(func() {
		g.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return s, "unix://" + path
}

// SetHook sets a function that is called before each RPC; its error, if any, is the
// answer.
func (s *Server) SetHook(hook func(method string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hook = hook
}

// Calls returns the methods called so far.
func (s *Server) Calls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// Sandboxes returns the IDs of all sandboxes.
func (s *Server) Sandboxes() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []string
	for id := range s.sandboxes {
		ids = append(ids, id)
	}
	return ids
}

func (s *Server) intercept(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	method, began := filepath.Base(info.FullMethod), time.Now()
	if s.Traced != nil {
		defer func() { s.Traced(ctx, method, began) }()
	}
	s.mu.Lock()
	s.calls = append(s.calls, method)
	hook := s.hook
	s.mu.Unlock()
	if hook != nil {
		if err := hook(method); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return handler(ctx, req)
}

func (s *Server) id() string {
	s.next++
	return fmt.Sprintf("id%d", s.next)
}

// Version implements the CRI.
func (s *Server) Version(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{RuntimeName: "fake", RuntimeVersion: "1", RuntimeApiVersion: "v1"}, nil
}

// ImageStatus implements the CRI.
func (s *Server) ImageStatus(_ context.Context, r *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	if !s.images[r.GetImage().GetImage()] {
		return &runtimeapi.ImageStatusResponse{}, nil
	}
	return &runtimeapi.ImageStatusResponse{Image: &runtimeapi.Image{Id: r.GetImage().GetImage()}}, nil
}

// PullImage implements the CRI.
func (s *Server) PullImage(_ context.Context, r *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	s.images[r.GetImage().GetImage()] = true
	return &runtimeapi.PullImageResponse{ImageRef: r.GetImage().GetImage()}, nil
}

// RemoveImage implements the CRI.
func (s *Server) RemoveImage(_ context.Context, r *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error) {
	delete(s.images, r.GetImage().GetImage())
	return &runtimeapi.RemoveImageResponse{}, nil
}

// RunPodSandbox implements the CRI.
func (s *Server) RunPodSandbox(_ context.Context, r *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	id := s.id()
	s.sandboxes[id] = &runtimeapi.PodSandbox{Id: id, Metadata: r.GetConfig().GetMetadata(), Labels: r.GetConfig().GetLabels()}
	s.logDirs[id] = r.GetConfig().GetLogDirectory()
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: id}, nil
}

// StopPodSandbox implements the CRI.
func (s *Server) StopPodSandbox(_ context.Context, r *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	if s.sandboxes[r.GetPodSandboxId()] == nil {
		return nil, status.Error(codes.NotFound, "no such sandbox")
	}
	return &runtimeapi.StopPodSandboxResponse{}, nil
}

// RemovePodSandbox implements the CRI.
func (s *Server) RemovePodSandbox(_ context.Context, r *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	delete(s.sandboxes, r.GetPodSandboxId())
	for id, c := range s.containers {
		if c.GetPodSandboxId() == r.GetPodSandboxId() {
			delete(s.containers, id)
		}
	}
	return &runtimeapi.RemovePodSandboxResponse{}, nil
}

// CreateContainer implements the CRI.
func (s *Server) CreateContainer(_ context.Context, r *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	if s.sandboxes[r.GetPodSandboxId()] == nil {
		return nil, status.Error(codes.NotFound, "no such sandbox")
	}
	id := s.id()
	s.containers[id] = &runtimeapi.Container{Id: id, PodSandboxId: r.GetPodSandboxId(), Labels: r.GetConfig().GetLabels()}
	s.logs[id] = filepath.Join(s.logDirs[r.GetPodSandboxId()], r.GetConfig().GetLogPath())
	return &runtimeapi.CreateContainerResponse{ContainerId: id}, nil
}

// StartContainer implements the CRI. The log's lines are written one by one.
func (s *Server) StartContainer(_ context.Context, r *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	f, err := os.Create(s.logs[r.GetContainerId()])
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for range s.LogLines {
		if _, err := f.WriteString("2026-01-02T03:04:05.000000000Z stdout F ready\n"); err != nil {
			return nil, err
		}
	}
	return &runtimeapi.StartContainerResponse{}, nil
}

// StopContainer implements the CRI.
func (s *Server) StopContainer(context.Context, *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	return &runtimeapi.StopContainerResponse{}, nil
}

// RemoveContainer implements the CRI.
func (s *Server) RemoveContainer(_ context.Context, r *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	delete(s.containers, r.GetContainerId())
	return &runtimeapi.RemoveContainerResponse{}, nil
}

// ExecSync implements the CRI: the command false fails, all others are echo.
func (s *Server) ExecSync(_ context.Context, r *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	if r.GetCmd()[0] == "false" {
		return &runtimeapi.ExecSyncResponse{ExitCode: 1}, nil
	}
	return &runtimeapi.ExecSyncResponse{Stdout: []byte(r.GetCmd()[1] + "\n")}, nil
}

// ListPodSandbox implements the CRI, with label selectors.
func (s *Server) ListPodSandbox(_ context.Context, r *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	resp := &runtimeapi.ListPodSandboxResponse{}
	for _, sb := range s.sandboxes {
		matches := true
		for k, v := range r.GetFilter().GetLabelSelector() {
			matches = matches && sb.GetLabels()[k] == v
		}
		if matches {
			resp.Items = append(resp.Items, sb)
		}
	}
	return resp, nil
}

// ListContainers implements the CRI.
func (s *Server) ListContainers(context.Context, *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	resp := &runtimeapi.ListContainersResponse{}
	for _, c := range s.containers {
		resp.Containers = append(resp.Containers, c)
	}
	return resp, nil
}

// ContainerStatus implements the CRI.
func (s *Server) ContainerStatus(context.Context, *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	return &runtimeapi.ContainerStatusResponse{}, nil
}

// PodSandboxStatus implements the CRI.
func (s *Server) PodSandboxStatus(context.Context, *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	return &runtimeapi.PodSandboxStatusResponse{}, nil
}

// ListContainerStats implements the CRI.
func (s *Server) ListContainerStats(context.Context, *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
	return &runtimeapi.ListContainerStatsResponse{Stats: make([]*runtimeapi.ContainerStats, len(s.containers))}, nil
}
