package nri

import (
	"context"
	"path"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
)

// interceptors return options that see what the library does not pass on: evictions.
func (p *Plugins) interceptors() ([]ttrpc.ClientOpts, []ttrpc.ServerOpt) {
	return []ttrpc.ClientOpts{ttrpc.WithUnaryClientInterceptor(p.answered)},
		[]ttrpc.ServerOpt{ttrpc.WithUnaryServerInterceptor(p.asked)}
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
