package nri

import (
	"context"
	"net"
	"path"
	"sync"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
)

// interceptors return options that see what the library does not pass on: evictions,
// and the connections to close at the end.
func (p *Plugins) interceptors() ([]ttrpc.ClientOpts, []ttrpc.ServerOpt) {
	return []ttrpc.ClientOpts{ttrpc.WithUnaryClientInterceptor(p.answered)},
		[]ttrpc.ServerOpt{ttrpc.WithUnaryServerInterceptor(p.asked), ttrpc.WithServerHandshaker(&p.links)}
}

// answered carries out evictions in a plugin's answer.
func (p *Plugins) answered(ctx context.Context, req *ttrpc.Request, resp *ttrpc.Response, info *ttrpc.UnaryClientInfo, invoke ttrpc.Invoker) error {
	if err := invoke(ctx, req, resp); err != nil {
		return err
	}
	var answer interface {
		proto.Message
		GetEvict() []*api.ContainerEviction
	}
	switch path.Base(info.FullMethod) {
	case "CreateContainer":
		answer = &api.CreateContainerResponse{}
	case "UpdateContainer":
		answer = &api.UpdateContainerResponse{}
	default:
		return nil
	}
	if err := proto.Unmarshal(resp.Payload, answer); err != nil {
		return nil //nolint:nilerr // the library reports it
	}
	p.evict(answer.GetEvict())
	return nil
}

// asked carries out evictions that a plugin asks for by itself.
func (p *Plugins) asked(ctx context.Context, unmarshal ttrpc.Unmarshaler, _ *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
	return method(ctx, func(to any) error {
		if err := unmarshal(to); err != nil {
			return err
		}
		if r, ok := to.(*api.UpdateContainersRequest); ok {
			p.evict(r.GetEvict())
		}
		return nil
	})
}

// links are the connections from plugins.
type links struct {
	mu    sync.Mutex
	conns map[net.Conn]struct{}
}

// Handshake implements [ttrpc.Handshaker].
func (l *links) Handshake(_ context.Context, conn net.Conn) (net.Conn, any, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns == nil {
		l.conns = map[net.Conn]struct{}{}
	}
	link := &link{Conn: conn, links: l}
	l.conns[link] = struct{}{}
	return link, nil, nil
}

// link is a connection that is forgotten when it is closed.
type link struct {
	net.Conn
	links *links
}

func (l *link) Close() error {
	l.links.mu.Lock()
	delete(l.links.conns, l)
	l.links.mu.Unlock()
	return l.Conn.Close()
}

// closeAll ends all connections. The library leaves them open.
func (l *links) closeAll() {
	l.mu.Lock()
	conns := make([]net.Conn, 0, len(l.conns))
	for c := range l.conns {
		conns = append(conns, c)
	}
	l.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
}
