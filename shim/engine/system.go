package engine

import (
	"context"
	"fmt"

	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/system"
	"github.com/docker/docker/client"
)

// Ping implements [System].
func (c *Client) Ping(ctx context.Context) error {
	return c.call(ctx, "ping", shortTimeout, func(ctx context.Context, cl *client.Client) error {
		_, err := cl.Ping(ctx)
		return err
	})
}

// Refresh implements [System].
func (c *Client) Refresh(ctx context.Context) (*Capabilities, error) {
	conn, err := c.connect()
	if err != nil {
		return nil, err
	}
	var info system.Info
	var version types.Version
	err = c.run(ctx, "info", shortTimeout, conn.calls, func(ctx context.Context, cl *client.Client) (err error) {
		info, err = cl.Info(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	err = c.run(ctx, "version", shortTimeout, conn.calls, func(ctx context.Context, cl *client.Client) (err error) {
		version, err = cl.ServerVersion(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	// Both clients must use the same version before they are published.
	conn.streams.NegotiateAPIVersionPing(types.Ping{APIVersion: version.APIVersion})
	caps := capabilities(conn.calls.ClientVersion(), version, info)
	if !caps.AtLeast(minAPIVersion) {
		return nil, fmt.Errorf("docker %s at %s speaks API %s; cridock needs %s (Docker 20.10) or later",
			caps.EngineVersion, c.endpoint, caps.APIVersion, minAPIVersion)
	}
	c.caps.Store(caps)
	c.conn.Swap(conn).calls.HTTPClient().CloseIdleConnections()
	return caps, nil
}

// Capabilities implements [System].
func (c *Client) Capabilities() *Capabilities { return c.caps.Load() }

// Events implements [Events].
func (c *Client) Events(ctx context.Context, f filters.Args) (<-chan events.Message, <-chan error) {
	return c.conn.Load().streams.Events(ctx, events.ListOptions{Filters: f})
}
