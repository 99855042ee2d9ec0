package shim

import (
	"context"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/shim/wire"
)

// runtimeService describes the RuntimeService as generated from the CRI, except that
// the calls which the kubelet makes all the time send encoded messages. Callers in
// this process get the same content from the methods of these names.
func runtimeService() *grpc.ServiceDesc {
	desc := runtimeapi.RuntimeService_ServiceDesc
	desc.Methods = slices.Clone(desc.Methods)
	for _, m := range []grpc.MethodDesc{
		encodedMethod("ListContainers", (*Service).listContainersEncoded),
		encodedMethod("ContainerStatus", (*Service).containerStatusEncoded),
		encodedMethod("ListPodSandbox", (*Service).listPodSandboxEncoded),
		encodedMethod("PodSandboxStatus", (*Service).podSandboxStatusEncoded),
	} {
		i := slices.IndexFunc(desc.Methods, func(have grpc.MethodDesc) bool { return have.MethodName == m.MethodName })
		desc.Methods[i] = m
	}
	return &desc
}

// encodedMethod is what protoc-gen-go-grpc generates for a method, for one that
// returns an encoded response.
func encodedMethod[R proto.Message](name string, call func(*Service, context.Context, R) (*wire.Response, error)) grpc.MethodDesc {
	return grpc.MethodDesc{MethodName: name, Handler: func(srv any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
		var none R
		req := none.ProtoReflect().New().Interface()
		if err := decode(req); err != nil {
			return nil, err
		}
		handle := func(ctx context.Context, req any) (any, error) { return call(srv.(*Service), ctx, req.(R)) }
		if intercept == nil {
			return handle(ctx, req)
		}
		method := "/" + runtimeapi.RuntimeService_ServiceDesc.ServiceName + "/" + name
		return intercept(ctx, req, &grpc.UnaryServerInfo{Server: srv, FullMethod: method}, handle)
	}}
}
