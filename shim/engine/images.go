package engine

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/api/types/registry"
	"github.com/docker/docker/client"
)

// ImageList implements [Images].
func (c *Client) ImageList(ctx context.Context) ([]image.Summary, error) {
	var r []image.Summary
	err := c.call(ctx, "image list", longTimeout, func(ctx context.Context, cl *client.Client) (err error) {
		r, err = cl.ImageList(ctx, image.ListOptions{})
		return err
	})
	return r, err
}

// ImageInspect implements [Images].
func (c *Client) ImageInspect(ctx context.Context, ref string) (image.InspectResponse, error) {
	var r image.InspectResponse
	err := c.call(ctx, "image inspect", shortTimeout, func(ctx context.Context, cl *client.Client) (err error) {
		r, err = cl.ImageInspect(ctx, ref)
		return err
	})
	return r, err
}

// ImageHistory implements [Images].
func (c *Client) ImageHistory(ctx context.Context, ref string) ([]image.HistoryResponseItem, error) {
	var r []image.HistoryResponseItem
	err := c.call(ctx, "image history", shortTimeout, func(ctx context.Context, cl *client.Client) (err error) {
		r, err = cl.ImageHistory(ctx, ref)
		return err
	})
	return r, err
}

// ImagePull implements [Images].
func (c *Client) ImagePull(ctx context.Context, ref string, auth registry.AuthConfig) (io.ReadCloser, error) {
	encoded, err := registry.EncodeAuthConfig(auth)
	if err != nil {
		return nil, fmt.Errorf("encode registry credentials: %w", err)
	}
	var r io.ReadCloser
	err = c.call(ctx, "image pull", 0, func(ctx context.Context, cl *client.Client) (err error) {
		r, err = cl.ImagePull(ctx, ref, image.PullOptions{RegistryAuth: encoded})
		return err
	})
	return r, err
}

// ImageTag implements [Images].
func (c *Client) ImageTag(ctx context.Context, image, ref string) error {
	return c.call(ctx, "image tag", shortTimeout, func(ctx context.Context, cl *client.Client) error {
		return cl.ImageTag(ctx, image, ref)
	})
}

// DistributionInspect implements [Images].
func (c *Client) DistributionInspect(ctx context.Context, ref string, auth registry.AuthConfig) (registry.DistributionInspect, error) {
	var r registry.DistributionInspect
	encoded, err := registry.EncodeAuthConfig(auth)
	if err != nil {
		return r, fmt.Errorf("encode registry credentials: %w", err)
	}
	err = c.call(ctx, "distribution inspect", longTimeout, func(ctx context.Context, cl *client.Client) (err error) {
		r, err = cl.DistributionInspect(ctx, ref, encoded)
		return err
	})
	return r, err
}

// ImageRemove implements [Images].
func (c *Client) ImageRemove(ctx context.Context, ref string, force bool) error {
	return c.call(ctx, "image remove", longTimeout, func(ctx context.Context, cl *client.Client) error {
		_, err := cl.ImageRemove(ctx, ref, image.RemoveOptions{Force: force, PruneChildren: true})
		return err
	})
}

// ImageLoad implements [Images].
func (c *Client) ImageLoad(ctx context.Context, archive io.Reader) error {
	return c.call(ctx, "image load", longTimeout, func(ctx context.Context, cl *client.Client) (err error) {
		r, err := cl.ImageLoad(ctx, archive)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, r.Body.Close()) }()
		return streamError(r.Body)
	})
}

// streamError reads a stream of JSON messages to its end and returns the first
// error in it: dockerd reports failures inside responses with status 200.
func streamError(r io.Reader) error {
	d := json.NewDecoder(r)
	for {
		var m struct {
			// Engines send the text in both fields; the first is deprecated.
			Error  string `json:"error"`
			Detail struct {
				Message string `json:"message"`
			} `json:"errorDetail"`
		}
		switch err := d.Decode(&m); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case m.Error != "" || m.Detail.Message != "":
			return ClassifyText(errors.New(cmp.Or(m.Detail.Message, m.Error)))
		}
	}
}
