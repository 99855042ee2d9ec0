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
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"
	"github.com/docker/docker/pkg/stdcopy"

	"github.com/cridock/cridock/cmd/cribench/internal/proc"
	"github.com/cridock/cridock/cmd/cribench/internal/result"
)

// Docker is Docker Engine without any CRI: only the calls that a pod needs. A sandbox
// is a container that does nothing; the containers join its network and IPC
// namespaces.
type Docker struct {
	name, endpoint, socket string
	sandbox                DockerSandbox
	opts                   Options
	client                 *client.Client
}

// DockerSandbox defines the sandboxes of [Docker].
type DockerSandbox struct {
	Image string
	// Command is what they run; if empty, the image's own command.
	Command []string
	// CNI connects them; if nil, they are on Docker's default network.
	CNI *CNI
}

var _ Target = (*Docker)(nil)

// NewDocker returns a client of a unix:// endpoint. It owns sandbox.CNI unless it
// returns an error.
func NewDocker(name, endpoint string, sandbox DockerSandbox, opts Options) (*Docker, error) {
	socket, err := SocketPath(endpoint)
	if err != nil {
		return nil, err
	}
	c, err := client.NewClientWithOpts(client.WithHost(endpoint), client.WithAPIVersionNegotiation())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", endpoint, err)
	}
	return &Docker{name: name, endpoint: endpoint, socket: socket, sandbox: sandbox, opts: opts, client: c}, nil
}

// Name implements Target.
func (d *Docker) Name() string { return d.name }

// Sockets implements Target.
func (d *Docker) Sockets() []string { return []string{d.socket} }

// Close implements Target.
func (d *Docker) Close() error {
	err := d.client.Close()
	if d.sandbox.CNI != nil {
		err = errors.Join(err, d.sandbox.CNI.Close())
	}
	return err
}

// Describe implements Target.
func (d *Docker) Describe(ctx context.Context) (result.Target, error) {
	v, err := d.client.ServerVersion(ctx)
	if err != nil {
		return result.Target{}, fmt.Errorf("version: %w", err)
	}
	runtime := "Docker API, no CRI"
	if d.sandbox.CNI != nil {
		runtime += ", CNI network " + d.sandbox.CNI.list.Name
	}
	return result.Target{
		Name: d.name, Endpoint: d.endpoint, Runtime: runtime, Version: fmt.Sprintf("%s (API %s)", v.Version, v.APIVersion),
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
	for _, r := range []string{ref, d.sandbox.Image} {
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
	config := &container.Config{Image: d.sandbox.Image, Cmd: d.sandbox.Command, Hostname: pod.Name, Labels: d.opts.labels()}
	host := &container.HostConfig{IpcMode: container.IPCModeShareable, Resources: container.Resources{CgroupParent: d.opts.CgroupParent}}
	if d.sandbox.CNI != nil {
		host.NetworkMode = network.NetworkNone
	}
	r, err := d.client.ContainerCreate(ctx, config, host, nil, nil, "cribench_"+pod.Name)
	if err != nil {
		return "", fmt.Errorf("create sandbox: %w", err)
	}
	if err := d.StartContainer(ctx, r.ID); err != nil || d.sandbox.CNI == nil {
		return r.ID, err
	}
	daemon, pid, err := d.processes(ctx, r.ID)
	if err != nil {
		return r.ID, err
	}
	if err := d.sandbox.CNI.add(ctx, daemon, pid, r.ID); err != nil {
		return r.ID, fmt.Errorf("CNI ADD: %w", err)
	}
	return r.ID, nil
}

// processes returns the PIDs of the daemon, as this process sees it, and of a
// container's first process, as the daemon sees it; 0 if it does not run.
func (d *Docker) processes(ctx context.Context, id string) (daemon, pid int, err error) {
	if daemon, err = proc.Peer(d.socket); err != nil {
		return 0, 0, err
	}
	c, err := d.client.ContainerInspect(ctx, id)
	if err != nil {
		return 0, 0, fmt.Errorf("inspect sandbox: %w", err)
	}
	return daemon, c.State.Pid, nil
}

// disconnect runs CNI DEL for a sandbox.
func (d *Docker) disconnect(ctx context.Context, id string) error {
	daemon, pid, err := d.processes(ctx, id)
	if cerrdefs.IsNotFound(err) {
		daemon, err = proc.Peer(d.socket)
	}
	if err != nil {
		return err
	}
	if err := d.sandbox.CNI.del(ctx, daemon, pid, id); err != nil {
		return fmt.Errorf("CNI DEL: %w", err)
	}
	return nil
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
func (d *Docker) StopSandbox(ctx context.Context, id string) error {
	if d.sandbox.CNI != nil {
		if err := d.disconnect(ctx, id); err != nil {
			return err
		}
	}
	return d.StopContainer(ctx, id)
}

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
			if !isRawPod(c.Names) {
				continue
			}
			ids = append(ids, c.ID)
			if d.sandbox.CNI != nil && c.HostConfig.NetworkMode == network.NetworkNone {
				if err := d.disconnect(ctx, c.ID); err != nil {
					return cleaned, err
				}
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
