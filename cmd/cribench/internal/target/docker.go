package target

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"
	"github.com/docker/docker/pkg/stdcopy"

	"github.com/cridock/cridock/cmd/cribench/internal/result"
)

// Docker is Docker Engine without any CRI: only the calls that a pod needs. A sandbox
// is a container on Docker's default network that does nothing; the containers join
// its network and IPC namespaces.
type Docker struct {
	name, endpoint, socket string
	sandboxImage           string
	sandboxCommand         []string
	opts                   Options
	client                 *client.Client
}

var _ Target = (*Docker)(nil)

// NewDocker returns a client of a unix:// endpoint. Sandboxes run sandboxCommand in
// sandboxImage; if it is empty, the image's own command.
func NewDocker(name, endpoint, sandboxImage string, sandboxCommand []string, opts Options) (*Docker, error) {
	socket, err := SocketPath(endpoint)
	if err != nil {
		return nil, err
	}
	c, err := client.NewClientWithOpts(client.WithHost(endpoint), client.WithAPIVersionNegotiation())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", endpoint, err)
	}
	return &Docker{
		name: name, endpoint: endpoint, socket: socket, sandboxImage: sandboxImage, sandboxCommand: sandboxCommand, opts: opts, client: c,
	}, nil
}

// Name implements Target.
func (d *Docker) Name() string { return d.name }

// Sockets implements Target.
func (d *Docker) Sockets() []string { return []string{d.socket} }

// Close implements Target.
func (d *Docker) Close() error { return d.client.Close() }

// Describe implements Target.
func (d *Docker) Describe(ctx context.Context) (result.Target, error) {
	v, err := d.client.ServerVersion(ctx)
	if err != nil {
		return result.Target{}, fmt.Errorf("version: %w", err)
	}
	return result.Target{
		Name: d.name, Endpoint: d.endpoint, Runtime: "Docker API, no CRI", Version: fmt.Sprintf("%s (API %s)", v.Version, v.APIVersion),
	}, nil
}

// HasImage implements Target.
func (d *Docker) HasImage(ctx context.Context, ref string) (bool, error) {
	_, err := d.client.ImageInspect(ctx, ref)
	if cerrdefs.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// EnsureImage implements Target; it ensures the sandbox image too.
func (d *Docker) EnsureImage(ctx context.Context, ref string) error {
	for _, r := range []string{ref, d.sandboxImage} {
		has, err := d.HasImage(ctx, r)
		if err == nil && !has {
			err = d.PullImage(ctx, r)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// PullImage implements Target.
func (d *Docker) PullImage(ctx context.Context, ref string) error {
	body, err := d.client.ImagePull(ctx, ref, image.PullOptions{})
	if err != nil {
		return fmt.Errorf("pull of %s: %w", ref, err)
	}
	defer body.Close()
	for messages := json.NewDecoder(body); ; {
		var m struct {
			Error string `json:"error"`
		}
		if err := messages.Decode(&m); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("pull of %s: %w", ref, err)
		}
		if m.Error != "" {
			return fmt.Errorf("pull of %s: %s", ref, m.Error)
		}
	}
}

// RemoveImage implements Target.
func (d *Docker) RemoveImage(ctx context.Context, ref string) error {
	_, err := d.client.ImageRemove(ctx, ref, image.RemoveOptions{PruneChildren: true})
	if err != nil {
		return fmt.Errorf("removal of image %s: %w", ref, err)
	}
	return nil
}

// RunSandbox implements Target.
func (d *Docker) RunSandbox(ctx context.Context, pod Pod) (string, error) {
	config := &container.Config{Image: d.sandboxImage, Cmd: d.sandboxCommand, Hostname: pod.Name, Labels: d.opts.labels()}
	host := &container.HostConfig{IpcMode: container.IPCModeShareable, Resources: container.Resources{CgroupParent: d.opts.CgroupParent}}
	r, err := d.client.ContainerCreate(ctx, config, host, nil, nil, "cribench_"+pod.Name)
	if err != nil {
		return "", fmt.Errorf("create sandbox: %w", err)
	}
	return r.ID, d.StartContainer(ctx, r.ID)
}

// CreateContainer implements Target.
func (d *Docker) CreateContainer(ctx context.Context, pod Pod, sandboxID string, number int, command []string) (string, error) {
	config := &container.Config{Image: d.opts.Image, Cmd: command, Labels: d.opts.labels()}
	host := &container.HostConfig{
		NetworkMode: container.NetworkMode("container:" + sandboxID),
		IpcMode:     container.IpcMode("container:" + sandboxID),
		Resources:   container.Resources{CgroupParent: d.opts.CgroupParent},
	}
	r, err := d.client.ContainerCreate(ctx, config, host, nil, nil, "cribench_"+pod.Name+"_"+containerName(number))
	if err != nil {
		return "", fmt.Errorf("create container: %w", err)
	}
	return r.ID, nil
}

// StartContainer implements Target.
func (d *Docker) StartContainer(ctx context.Context, id string) error {
	if err := d.client.ContainerStart(ctx, id, container.StartOptions{}); err != nil {
		return fmt.Errorf("start container: %w", err)
	}
	return nil
}

// StopContainer implements Target.
func (d *Docker) StopContainer(ctx context.Context, id string) error {
	timeout := stopTimeout
	if err := d.client.ContainerStop(ctx, id, container.StopOptions{Timeout: &timeout}); err != nil {
		return fmt.Errorf("stop container: %w", err)
	}
	return nil
}

// RemoveContainer implements Target.
func (d *Docker) RemoveContainer(ctx context.Context, id string) error {
	if err := d.client.ContainerRemove(ctx, id, container.RemoveOptions{RemoveVolumes: true}); err != nil {
		return fmt.Errorf("remove container: %w", err)
	}
	return nil
}

// StopSandbox implements Target.
func (d *Docker) StopSandbox(ctx context.Context, id string) error { return d.StopContainer(ctx, id) }

// RemoveSandbox implements Target.
func (d *Docker) RemoveSandbox(ctx context.Context, id string) error {
	return d.RemoveContainer(ctx, id)
}

// Exec implements Target.
func (d *Docker) Exec(ctx context.Context, id string, command []string) ([]byte, error) {
	e, err := d.client.ContainerExecCreate(ctx, id, container.ExecOptions{Cmd: command, AttachStdout: true, AttachStderr: true})
	if err != nil {
		return nil, fmt.Errorf("exec create: %w", err)
	}
	stream, err := d.client.ContainerExecAttach(ctx, e.ID, container.ExecAttachOptions{})
	if err != nil {
		return nil, fmt.Errorf("exec start: %w", err)
	}
	defer stream.Close()
	var out, errOut bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, &errOut, stream.Reader); err != nil {
		return nil, fmt.Errorf("exec output: %w", err)
	}
	state, err := d.client.ContainerExecInspect(ctx, e.ID)
	if err != nil {
		return nil, fmt.Errorf("exec inspect: %w", err)
	}
	if state.ExitCode != 0 {
		return nil, fmt.Errorf("exec: exit code %d, %q", state.ExitCode, errOut.String())
	}
	return out.Bytes(), nil
}

// OpenLog implements Target.
func (d *Docker) OpenLog(_ Pod, id string, _ int) (Log, error) {
	return &dockerLog{client: d.client, id: id}, nil
}

// Read implements Target. Docker alone has nothing comparable to the CRI's reads: it
// is a lower bound only for the work on pods.
func (d *Docker) Read(context.Context, Read, string, string) (int, error) {
	return 0, ErrUnsupported
}

// Clean implements Target.
func (d *Docker) Clean(ctx context.Context, run string) (int, error) {
	match := filters.NewArgs()
	for k, v := range selector(run) {
		match.Add("label", k+"="+v)
	}
	cleaned := 0
	for {
		list, err := d.client.ContainerList(ctx, container.ListOptions{All: true, Filters: match})
		if err != nil {
			return cleaned, fmt.Errorf("list containers: %w", err)
		}
		// A CRI runtime on the same engine may copy its pods' labels to containers,
		// which that runtime must remove.
		var ids []string
		for _, c := range list {
			if isRawPod(c.Names) {
				ids = append(ids, c.ID)
			}
		}
		if len(ids) == 0 {
			return cleaned, nil
		}
		if err := forEach(ctx, ids, d.forceRemove); err != nil {
			return cleaned, err
		}
		cleaned += len(ids)
		if err := pause(ctx); err != nil {
			return cleaned, err
		}
	}
}

func (d *Docker) forceRemove(ctx context.Context, id string) error {
	err := d.client.ContainerRemove(ctx, id, container.RemoveOptions{Force: true, RemoveVolumes: true})
	if err != nil && !cerrdefs.IsNotFound(err) && !cerrdefs.IsConflict(err) { // conflict: it is being removed
		return fmt.Errorf("remove container: %w", err)
	}
	return nil
}
