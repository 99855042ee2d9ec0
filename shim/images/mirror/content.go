package mirror

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"

	"github.com/docker/docker/api/types/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cridock/cridock/translate"
)

// Content is what one host has under a reference.
type Content struct {
	// Manifest matches the digest of Image, its descriptor.
	Manifest []byte
	Image    ocispec.Descriptor
	client   *client
}

// Blob opens a blob. The caller closes it, bounds what it reads, and verifies it.
func (c *Content) Blob(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	resp, err := c.client.get(ctx, "blobs", d.Digest.String(), http.Header{})
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// Each calls use with what a reference's mirrors have, and then what the registry has,
// until it returns nil. It returns why each failed. Nothing here uses the engine: the
// registry itself is asked with the system's certificate authorities, and on loopback
// without TLS. auth are the credentials for the registry; no mirror gets them.
func (s *Server) Each(ctx context.Context, ref translate.ImageReference, auth registry.AuthConfig, use func(ctx context.Context, c *Content) error) error {
	r, err := Read(s.opts.Dir, ref.Registry())
	if err != nil {
		return err
	}
	if r.Direct {
		origin, err := newHost(originURL(ref.Registry()), ref.Registry(), "", hostSettings{})
		if err != nil {
			return err
		}
		r.Hosts = append(r.Hosts, origin)
	}
	attempts := &Attempts{}
	p := &pulling{server: s, ref: ref, auth: auth, hosts: r.Hosts, attempts: attempts}
	digest, failed := p.resolve(ctx)
	for i, h := range p.hosts {
		if digest == "" || ctx.Err() != nil {
			break
		}
		if !h.Pull || failed[i] {
			continue
		}
		err := p.try(ctx, h, digest, use)
		if err == nil {
			return nil
		}
		attempts.Fail(h.URL.Host, err)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("%s: no server has it: %w", ref, attempts.Err())
}

// try calls use with what one host has.
func (p *pulling) try(ctx context.Context, h Host, digest string, use func(context.Context, *Content) error) error {
	c := p.client(h)
	defer c.close()
	m, err := c.manifest(ctx, digest)
	if err != nil {
		return err
	}
	return use(ctx, &Content{Manifest: m.body, client: c, Image: ocispec.Descriptor{MediaType: m.mediaType, Digest: m.digest, Size: int64(len(m.body))}})
}

// originURL returns the address of a registry: without TLS on loopback, as in
// containerd and Docker.
func originURL(registry string) string {
	host := registry
	if h, _, err := net.SplitHostPort(registry); err == nil {
		host = h
	}
	addr, err := netip.ParseAddr(host)
	if host == "localhost" || err == nil && addr.IsLoopback() {
		return "http://" + registry
	}
	return "https://" + originHost(registry)
}
