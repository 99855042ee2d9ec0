package engine

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/checkpoint"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"
	"k8s.io/klog/v2"
)

// noDetachKeys is a sequence that no client sends: Docker's default, ctrl-p
// ctrl-q, would swallow input.
const noDetachKeys = "ctrl-^,ctrl-],ctrl-[,ctrl-\\,ctrl-@,ctrl-^,ctrl-],ctrl-["

// ContainerCreate implements [Containers].
func (c *Client) ContainerCreate(ctx context.Context, name string, cfg *container.Config, host *container.HostConfig, nc *network.NetworkingConfig) (string, error) {
	var id string
	err := c.call(ctx, "container create", longTimeout, func(ctx context.Context, cl *client.Client) error {
		r, err := cl.ContainerCreate(ctx, cfg, host, nc, nil, name)
		id = r.ID
		logWarnings(ctx, id, r.Warnings)
		return err
	})
	return id, err
}

// logWarnings logs what Docker ignored without failing, such as limits for which
// the kernel has no controller.
func logWarnings(ctx context.Context, containerID string, warnings []string) {
	for _, w := range warnings {
		klog.FromContext(ctx).Info("Docker warning", "containerID", containerID, "warning", w)
	}
}

// ContainerStart implements [Containers].
func (c *Client) ContainerStart(ctx context.Context, id string) error {
	return c.call(ctx, "container start", longTimeout, func(ctx context.Context, cl *client.Client) error {
		return cl.ContainerStart(ctx, id, container.StartOptions{})
	})
}

// ContainerRestore implements [Containers].
func (c *Client) ContainerRestore(ctx context.Context, id, checkpoint string) error {
	return c.call(ctx, "container restore", 0, func(ctx context.Context, cl *client.Client) error {
		return cl.ContainerStart(ctx, id, container.StartOptions{CheckpointID: checkpoint})
	})
}

// ContainerKill implements [Containers].
func (c *Client) ContainerKill(ctx context.Context, id, signal string) error {
	return c.call(ctx, "container kill", longTimeout, func(ctx context.Context, cl *client.Client) error {
		return cl.ContainerKill(ctx, id, signal)
	})
}

// ContainerPause implements [Containers].
func (c *Client) ContainerPause(ctx context.Context, id string) error {
	return c.call(ctx, "container pause", longTimeout, func(ctx context.Context, cl *client.Client) error {
		return cl.ContainerPause(ctx, id)
	})
}

// ContainerUnpause implements [Containers].
func (c *Client) ContainerUnpause(ctx context.Context, id string) error {
	return c.call(ctx, "container unpause", longTimeout, func(ctx context.Context, cl *client.Client) error {
		return cl.ContainerUnpause(ctx, id)
	})
}

// ContainerCheckpoint implements [Containers].
func (c *Client) ContainerCheckpoint(ctx context.Context, id, dir, name string) error {
	return c.call(ctx, "container checkpoint", 0, func(ctx context.Context, cl *client.Client) error {
		return cl.CheckpointCreate(ctx, id, checkpoint.CreateOptions{CheckpointID: name, CheckpointDir: dir})
	})
}

// ContainerRemove implements [Containers].
func (c *Client) ContainerRemove(ctx context.Context, id string) error {
	return c.call(ctx, "container remove", longTimeout, func(ctx context.Context, cl *client.Client) error {
		return cl.ContainerRemove(ctx, id, container.RemoveOptions{Force: true, RemoveVolumes: true})
	})
}

// ContainerInspect implements [Containers].
func (c *Client) ContainerInspect(ctx context.Context, id string) (container.InspectResponse, error) {
	var r container.InspectResponse
	err := c.call(ctx, "container inspect", shortTimeout, func(ctx context.Context, cl *client.Client) (err error) {
		r, err = cl.ContainerInspect(ctx, id)
		return err
	})
	return r, err
}

// ContainerList implements [Containers].
func (c *Client) ContainerList(ctx context.Context, f filters.Args) ([]container.Summary, error) {
	var r []container.Summary
	err := c.call(ctx, "container list", shortTimeout, func(ctx context.Context, cl *client.Client) (err error) {
		r, err = cl.ContainerList(ctx, container.ListOptions{All: true, Filters: f})
		return err
	})
	return r, err
}

// ContainerWait implements [Containers].
func (c *Client) ContainerWait(ctx context.Context, id string) error {
	return c.stream(ctx, "container wait", func(ctx context.Context, cl *client.Client) error {
		done, failed := cl.ContainerWait(ctx, id, container.WaitConditionNotRunning)
		select {
		case <-done:
			return nil
		case err := <-failed:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	})
}

// ContainerStats implements [Containers].
func (c *Client) ContainerStats(ctx context.Context, id string) (container.StatsResponse, error) {
	var r container.StatsResponse
	err := c.call(ctx, "container stats", shortTimeout, func(ctx context.Context, cl *client.Client) (err error) {
		answer, err := cl.ContainerStatsOneShot(ctx, id)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, answer.Body.Close()) }()
		if err := json.NewDecoder(answer.Body).Decode(&r); err != nil {
			return err
		}
		if r.Read.IsZero() { // Docker's answer for a container that is not running
			return fmt.Errorf("container %s is not running: %w", id, errdefs.ErrNotFound)
		}
		return nil
	})
	return r, err
}

// ContainerUpdate implements [Containers].
func (c *Client) ContainerUpdate(ctx context.Context, id string, update container.UpdateConfig) error {
	return c.call(ctx, "container update", longTimeout, func(ctx context.Context, cl *client.Client) error {
		r, err := cl.ContainerUpdate(ctx, id, update)
		logWarnings(ctx, id, r.Warnings)
		return err
	})
}

// ContainerResize implements [Containers].
func (c *Client) ContainerResize(ctx context.Context, id string, height, width uint) error {
	return c.call(ctx, "container resize", shortTimeout, func(ctx context.Context, cl *client.Client) error {
		return cl.ContainerResize(ctx, id, container.ResizeOptions{Height: height, Width: width})
	})
}

// ContainerAttach implements [Containers].
func (c *Client) ContainerAttach(ctx context.Context, id string, o AttachOptions) (*Stream, error) {
	var s *Stream
	err := c.stream(ctx, "container attach", func(ctx context.Context, cl *client.Client) error {
		r, err := cl.ContainerAttach(ctx, id, container.AttachOptions{
			Stream: true, Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, DetachKeys: noDetachKeys,
		})
		if err != nil {
			return err
		}
		s = &Stream{Reader: r.Reader, conn: r.Conn}
		return nil
	})
	return s, err
}

// ContainerLogs implements [Containers].
func (c *Client) ContainerLogs(ctx context.Context, id string, since time.Time, follow bool) (io.ReadCloser, error) {
	o := container.LogsOptions{ShowStdout: true, ShowStderr: true, Timestamps: true, Follow: follow}
	if !since.IsZero() {
		o.Since = fmt.Sprintf("%d.%09d", since.Unix(), since.Nanosecond())
	}
	var r io.ReadCloser
	err := c.stream(ctx, "container logs", func(ctx context.Context, cl *client.Client) (err error) {
		r, err = cl.ContainerLogs(ctx, id, o)
		return err
	})
	return r, err
}

// ContainerFile implements [Containers].
func (c *Client) ContainerFile(ctx context.Context, id, name string, limit int64) ([]byte, error) {
	data, target, err := c.containerFile(ctx, id, name, limit)
	if err != nil || target == "" {
		return data, err
	}
	data, again, err := c.containerFile(ctx, id, target, limit)
	if errdefs.IsNotFound(err) || err == nil && again != "" {
		return nil, fmt.Errorf("%s in container %s: %w: a link to %s, which does not exist", name, id, errdefs.ErrInvalidArgument, target)
	}
	return data, err
}

// containerFile reads one entry: its content, or its target if it is a link.
// Docker resolves the target through all links in the path, as the container's
// programs would: a link's text is not enough, as its directory may be reached by
// links too.
func (c *Client) containerFile(ctx context.Context, id, name string, limit int64) (data []byte, target string, err error) {
	err = c.call(ctx, "container archive", longTimeout, func(ctx context.Context, cl *client.Client) (err error) {
		// Checked before reading: dockerd would open a FIFO and wait forever for a
		// writer, with the container locked.
		stat, err := cl.ContainerStatPath(ctx, id, name)
		switch {
		case err != nil:
			return err
		case stat.Mode.Type() == fs.ModeSymlink:
			if target = stat.LinkTarget; target == "" {
				return fmt.Errorf("%s in container %s: %w: a link whose target Docker does not report", name, id, errdefs.ErrInvalidArgument)
			}
			return nil
		case !stat.Mode.IsRegular():
			return fmt.Errorf("%s in container %s: %w: not a regular file", name, id, errdefs.ErrInvalidArgument)
		}
		r, _, err := cl.CopyFromContainer(ctx, id, name)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, r.Close()) }()
		data, err = readEntry(r, limit)
		if err != nil {
			err = fmt.Errorf("%s in container %s: %w", name, id, err)
		}
		return err
	})
	return data, target, err
}

// readEntry reads the one file of an archive.
func readEntry(archive io.Reader, limit int64) ([]byte, error) {
	t := tar.NewReader(archive)
	h, err := t.Next()
	switch {
	case err != nil:
		return nil, err
	case h.Typeflag != tar.TypeReg:
		return nil, fmt.Errorf("%w: not a regular file", errdefs.ErrInvalidArgument)
	case h.Size > limit:
		return nil, fmt.Errorf("%w: %d bytes, more than %d", errdefs.ErrOutOfRange, h.Size, limit)
	}
	return io.ReadAll(t)
}
