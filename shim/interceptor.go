package shim

import (
	"context"
	"errors"
	"fmt"
	"path"
	"runtime/debug"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/shim/process"
)

// interceptUnary wraps every RPC: it adds the IDs that the request names to the
// logger, recovers panics, chooses the gRPC code and logs one line.
func interceptUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	method := path.Base(info.FullMethod)
	ctx = klog.NewContext(ctx, klog.FromContext(ctx).WithValues(requestIDs(req)...))
	start := time.Now()
	defer func() {
		err = finish(ctx, method, start, err, recover())
	}()
	return handler(ctx, req)
}

// interceptStream is interceptUnary for server streams.
func interceptStream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	method := path.Base(info.FullMethod)
	start := time.Now()
	defer func() {
		err = finish(ss.Context(), method, start, err, recover())
	}()
	return handler(srv, ss)
}

func finish(ctx context.Context, method string, start time.Time, err error, panicked any) error {
	log := klog.FromContext(ctx)
	if panicked != nil {
		err = fmt.Errorf("%s: %w", method, panicError(ctx, panicked))
	}
	answer := statusError(err)
	took := time.Since(start)
	if answer != nil {
		log.Info("Request failed", "method", method, "duration", took, "code", status.Code(answer), "err", loggable(err, answer))
	} else {
		log.V(verbosity(method)).Info("Request", "method", method, "duration", took)
	}
	return answer
}

// loggable returns the text of an answer without what only the caller may see: the
// reason why a process was not started quotes its command.
func loggable(err, answer error) string {
	var failed *process.StartError
	if errors.As(err, &failed) {
		return fmt.Sprintf("process was not started (exit code %d); Docker's reason quotes the command and is only in the response", failed.ExitCode)
	}
	return status.Convert(answer).Message()
}

// recovered runs op and turns a panic into an error: outside the handler's
// goroutine the panic would crash the process.
func recovered(ctx context.Context, op func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = panicError(ctx, p)
		}
	}()
	return op()
}

// panicError logs a panic with its stack and returns an error for it. Call it from
// the function that recovered the panic.
func panicError(ctx context.Context, panicked any) error {
	klog.FromContext(ctx).Error(nil, "Panic in a request handler", "panic", panicked, "stack", string(debug.Stack()))
	return fmt.Errorf("%w: panic: %v", errdefs.ErrInternal, panicked)
}

// verbosity returns a method's log level: reads, which a kubelet makes every second,
// have a higher one than changes.
func verbosity(method string) int {
	for _, read := range []string{"List", "Stream", "Status", "Version", "Stats", "FsInfo", "Config"} {
		if strings.Contains(method, read) {
			return 5
		}
	}
	return 2
}

// requestIDs returns the log values that identify a request's object. Nothing else
// of a request is ever logged: it may hold credentials, environment values and
// arguments.
func requestIDs(req any) []any {
	var kv []any
	if r, ok := req.(interface{ GetPodSandboxId() string }); ok && r.GetPodSandboxId() != "" {
		kv = append(kv, "sandboxID", r.GetPodSandboxId())
	}
	if r, ok := req.(interface{ GetContainerId() string }); ok && r.GetContainerId() != "" {
		kv = append(kv, "containerID", r.GetContainerId())
	}
	if r, ok := req.(interface{ GetImage() *runtimeapi.ImageSpec }); ok && r.GetImage() != nil {
		kv = append(kv, "image", r.GetImage().GetImage())
	}
	switch r := req.(type) {
	case *runtimeapi.RunPodSandboxRequest:
		m := r.GetConfig().GetMetadata()
		kv = append(kv, "pod", m.GetNamespace()+"/"+m.GetName(), "attempt", m.GetAttempt())
	case *runtimeapi.CreateContainerRequest:
		m := r.GetConfig().GetMetadata()
		kv = append(kv, "container", m.GetName(), "attempt", m.GetAttempt())
	}
	return kv
}
