package target

import (
	"context"
	"fmt"
	"path/filepath"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/cmd/cribench/internal/result"
)

// maxMessage is the kubelet's limit for a CRI answer, in bytes.
const maxMessage = 16 << 20

// stopTimeout is how many seconds a container gets to exit by itself.
const stopTimeout = 10

// CRI is a runtime behind a CRI v1 socket.
type CRI struct {
	name, endpoint, socket string
	opts                   Options
	conn                   *grpc.ClientConn
	runtime                runtimeapi.RuntimeServiceClient
	images                 runtimeapi.ImageServiceClient
}

var _ Target = (*CRI)(nil)

// NewCRI returns a client of a unix:// endpoint. It does not connect yet.
func NewCRI(name, endpoint string, opts Options) (*CRI, error) {
	socket, err := SocketPath(endpoint)
	if err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", endpoint, err)
	}
	return &CRI{
		name: name, endpoint: endpoint, socket: socket, opts: opts, conn: conn,
		runtime: runtimeapi.NewRuntimeServiceClient(conn), images: runtimeapi.NewImageServiceClient(conn),
	}, nil
}

// Name implements Target.
func (c *CRI) Name() string { return c.name }

// Sockets implements Target.
func (c *CRI) Sockets() []string { return []string{c.socket} }

// Close implements Target.
func (c *CRI) Close() error { return c.conn.Close() }

// Describe implements Target.
func (c *CRI) Describe(ctx context.Context) (result.Target, error) {
	v, err := c.runtime.Version(ctx, &runtimeapi.VersionRequest{})
	if err != nil {
		return result.Target{}, wrap("version", err)
	}
	return result.Target{Name: c.name, Endpoint: c.endpoint, Runtime: v.GetRuntimeName(), Version: v.GetRuntimeVersion()}, nil
}

// HasImage implements Target.
func (c *CRI) HasImage(ctx context.Context, image string) (bool, error) {
	r, err := c.images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: image}})
	if err != nil {
		return false, fmt.Errorf("ImageStatus of %s: %w", image, err)
	}
	return r.GetImage() != nil, nil
}

// EnsureImage implements Target.
func (c *CRI) EnsureImage(ctx context.Context, image string) error {
	has, err := c.HasImage(ctx, image)
	if err != nil || has {
		return err
	}
	return c.PullImage(ctx, image)
}

// PullImage implements Target.
func (c *CRI) PullImage(ctx context.Context, image string) error {
	_, err := c.images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: image}})
	return wrap("PullImage of "+image, err)
}

// RemoveImage implements Target. It removes the image by its ID, as the kubelet does:
// by a name, the runtime may remove only that name and keep the layers.
func (c *CRI) RemoveImage(ctx context.Context, image string) error {
	r, err := c.images.ImageStatus(ctx, &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: image}})
	if err != nil {
		return fmt.Errorf("ImageStatus of %s: %w", image, err)
	}
	if r.GetImage() == nil {
		return nil
	}
	_, err = c.images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: r.GetImage().GetId()}})
	return wrap("RemoveImage of "+image, err)
}

// sandboxConfig returns the same configuration each time for one pod, as the CRI
// requires.
func (c *CRI) sandboxConfig(pod Pod) *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: pod.Name, Namespace: "cribench", Uid: pod.Name},
		Hostname:     pod.Name,
		LogDirectory: pod.LogDir,
		Labels:       c.opts.labels(),
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent: c.opts.CgroupParent,
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
				NamespaceOptions: namespaces(),
				Seccomp:          defaultSeccomp(),
			},
		},
	}
}

// namespaces returns the options that the kubelet sets for an ordinary pod.
func namespaces() *runtimeapi.NamespaceOption {
	return &runtimeapi.NamespaceOption{
		Network: runtimeapi.NamespaceMode_POD, Ipc: runtimeapi.NamespaceMode_POD, Pid: runtimeapi.NamespaceMode_CONTAINER,
	}
}

// defaultSeccomp returns the profile for all containers. It is set because runtimes
// treat a missing profile differently, and filters cost time.
func defaultSeccomp() *runtimeapi.SecurityProfile {
	return &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
}

// RunSandbox implements Target.
func (c *CRI) RunSandbox(ctx context.Context, pod Pod) (string, error) {
	r, err := c.runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: c.sandboxConfig(pod)})
	return r.GetPodSandboxId(), wrap("RunPodSandbox", err)
}

// CreateContainer implements Target.
func (c *CRI) CreateContainer(ctx context.Context, pod Pod, sandboxID string, number int, command []string) (string, error) {
	r, err := c.runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{
		PodSandboxId:  sandboxID,
		SandboxConfig: c.sandboxConfig(pod),
		Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: containerName(number)},
			Image:    &runtimeapi.ImageSpec{Image: c.opts.Image},
			Command:  command,
			Labels:   c.opts.labels(),
			LogPath:  containerName(number) + ".log",
			Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
				NamespaceOptions: namespaces(),
				Seccomp:          defaultSeccomp(),
			}},
		},
	})
	return r.GetContainerId(), wrap("CreateContainer", err)
}

// StartContainer implements Target.
func (c *CRI) StartContainer(ctx context.Context, id string) error {
	_, err := c.runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: id})
	return wrap("StartContainer", err)
}

// StopContainer implements Target.
func (c *CRI) StopContainer(ctx context.Context, id string) error {
	_, err := c.runtime.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: stopTimeout})
	return wrap("StopContainer", err)
}

// RemoveContainer implements Target.
func (c *CRI) RemoveContainer(ctx context.Context, id string) error {
	_, err := c.runtime.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: id})
	return wrap("RemoveContainer", err)
}

// StopSandbox implements Target.
func (c *CRI) StopSandbox(ctx context.Context, id string) error {
	_, err := c.runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id})
	return wrap("StopPodSandbox", err)
}

// RemoveSandbox implements Target.
func (c *CRI) RemoveSandbox(ctx context.Context, id string) error {
	_, err := c.runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id})
	return wrap("RemovePodSandbox", err)
}

// Exec implements Target.
func (c *CRI) Exec(ctx context.Context, id string, command []string) ([]byte, error) {
	r, err := c.runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: command, Timeout: stopTimeout})
	if err != nil {
		return nil, wrap("ExecSync", err)
	}
	if r.GetExitCode() != 0 {
		return nil, fmt.Errorf("ExecSync: exit code %d, %q", r.GetExitCode(), r.GetStderr())
	}
	return r.GetStdout(), nil
}

// OpenLog implements Target.
func (c *CRI) OpenLog(pod Pod, _ string, number int) (Log, error) {
	return openFileLog(filepath.Join(pod.LogDir, containerName(number)+".log"))
}

// Read implements Target.
func (c *CRI) Read(ctx context.Context, read Read, sandboxID, containerID string) (n int, err error) {
	switch read {
	case ListContainers:
		r, e := c.runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
		n, err = len(r.GetContainers()), e
	case ListSandboxes:
		r, e := c.runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
		n, err = len(r.GetItems()), e
	case ContainerStatus:
		_, err = c.runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: containerID})
		n = 1
	case SandboxStatus:
		_, err = c.runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: sandboxID})
		n = 1
	case ContainerStats:
		r, e := c.runtime.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{})
		n, err = len(r.GetStats()), e
	case SandboxStats:
		r, e := c.runtime.ListPodSandboxStats(ctx, &runtimeapi.ListPodSandboxStatsRequest{})
		n, err = len(r.GetStats()), e
	default:
		err = ErrUnsupported
	}
	return n, wrap(string(read), err)
}

// Clean implements Target. It lists again until nothing is left: a cancelled call may
// still make a pod.
func (c *CRI) Clean(ctx context.Context, run string) (int, error) {
	cleaned := 0
	for {
		r, err := c.runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{
			Filter: &runtimeapi.PodSandboxFilter{LabelSelector: selector(run)},
		})
		if err != nil {
			return cleaned, wrap("ListPodSandbox", err)
		}
		if len(r.GetItems()) == 0 {
			return cleaned, nil
		}
		ids := make([]string, len(r.GetItems()))
		for i, s := range r.GetItems() {
			ids[i] = s.GetId()
		}
		if err := forEach(ctx, ids, c.removePod); err != nil {
			return cleaned, err
		}
		cleaned += len(ids)
		if err := pause(ctx); err != nil {
			return cleaned, err
		}
	}
}

func (c *CRI) removePod(ctx context.Context, id string) error {
	if err := c.StopSandbox(ctx, id); err != nil && status.Code(err) != codes.NotFound {
		return err
	}
	if err := c.RemoveSandbox(ctx, id); err != nil && status.Code(err) != codes.NotFound {
		return err
	}
	return nil
}

// wrap adds the call's name to an error. If the server does not have the method, the
// error is [ErrUnsupported].
func wrap(call string, err error) error {
	switch {
	case err == nil:
		return nil
	case status.Code(err) == codes.Unimplemented:
		return fmt.Errorf("%s: %w", call, ErrUnsupported)
	default:
		return fmt.Errorf("%s: %w", call, err)
	}
}
