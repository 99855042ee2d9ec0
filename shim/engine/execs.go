package engine

import (
	"context"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"
)

// ExecCreate implements [Execs].
func (c *Client) ExecCreate(ctx context.Context, containerID string, o container.ExecOptions) (string, error) {
	var id string
	o.DetachKeys = noDetachKeys
	err := c.call(ctx, "exec create", shortTimeout, func(ctx context.Context, cl *client.Client) error {
		r, err := cl.ContainerExecCreate(ctx, containerID, o)
		id = r.ID
		return err
	})
	return id, err
}

// ExecStart implements [Execs].
func (c *Client) ExecStart(ctx context.Context, execID string, tty bool, size [2]uint) (*Stream, error) {
	o := container.ExecAttachOptions{Tty: tty}
	if tty && size[0] > 0 && size[1] > 0 && c.Capabilities().AtLeast("1.42") {
		o.ConsoleSize = &size
	}
	var s *Stream
	err := c.stream(ctx, "exec start", func(ctx context.Context, cl *client.Client) error {
		r, err := cl.ContainerExecAttach(ctx, execID, o)
		if err != nil {
			return err
		}
		s = &Stream{Reader: r.Reader, conn: r.Conn}
		return nil
	})
	return s, err
}

// ExecResize implements [Execs].
func (c *Client) ExecResize(ctx context.Context, execID string, height, width uint) error {
	return c.call(ctx, "exec resize", shortTimeout, func(ctx context.Context, cl *client.Client) error {
		return cl.ContainerExecResize(ctx, execID, container.ResizeOptions{Height: height, Width: width})
	})
}

// ExecInspect implements [Execs].
func (c *Client) ExecInspect(ctx context.Context, execID string) (container.ExecInspect, error) {
	var r container.ExecInspect
	err := c.call(ctx, "exec inspect", shortTimeout, func(ctx context.Context, cl *client.Client) (err error) {
		r, err = cl.ContainerExecInspect(ctx, execID)
		return err
	})
	return r, err
}
