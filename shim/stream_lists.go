package shim

import (
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/shim/wire"
	"github.com/cridock/cridock/translate"
)

// A streamed list is sent in chunks of at most this many items and, unless a single
// item is larger, this many bytes.
const (
	chunkItems = 100
	chunkBytes = 1 << 20
)

// sendMessages sends each message once, in order.
func sendMessages[T proto.Message](items []T, send func([]T) error) error {
	return sendChunks(items, func(m T) int { return proto.Size(m) }, send)
}

// sendEncoded sends each message, in wire form, once and in order, as an element of
// a field of otherwise empty messages like empty.
func sendEncoded(out grpc.ServerStream, field protowire.Number, empty proto.Message, items [][]byte) error {
	return sendChunks(items, func(b []byte) int { return wire.Size(field, b) }, func(chunk [][]byte) error {
		resp := wire.New(empty)
		for _, b := range chunk {
			resp.Add(field, b)
		}
		return out.SendMsg(resp)
	})
}

// sendChunks sends each item once, in order; sizeOf returns its size in bytes.
func sendChunks[T any](items []T, sizeOf func(T) int, send func([]T) error) error {
	start, size := 0, 0
	for i, item := range items {
		n := sizeOf(item)
		if i > start && (i-start == chunkItems || size+n > chunkBytes) {
			if err := send(items[start:i]); err != nil {
				return err
			}
			start, size = i, 0
		}
		size += n
	}
	if start == len(items) {
		return nil
	}
	return send(items[start:])
}

// StreamPodSandboxes is ListPodSandbox in chunks.
func (s *Service) StreamPodSandboxes(r *runtimeapi.StreamPodSandboxesRequest, out grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxesResponse]) error {
	var items [][]byte
	if err := s.eachSandbox(out.Context(), r.GetFilter(), func(sb *translate.Sandbox, ready bool) {
		items = append(items, translate.EncodedSandbox(sb, ready))
	}); err != nil {
		return err
	}
	return sendEncoded(out, sandboxesField, &runtimeapi.StreamPodSandboxesResponse{}, items)
}

// StreamContainers is ListContainers in chunks.
func (s *Service) StreamContainers(r *runtimeapi.StreamContainersRequest, out grpc.ServerStreamingServer[runtimeapi.StreamContainersResponse]) error {
	containers, err := s.containers(out.Context(), r.GetFilter())
	if err != nil {
		return err
	}
	items := make([][]byte, 0, len(containers))
	for _, c := range containers {
		items = append(items, translate.EncodedContainer(c))
	}
	return sendEncoded(out, containersField, &runtimeapi.StreamContainersResponse{}, items)
}

// StreamImages is ListImages in chunks.
func (s *Service) StreamImages(r *runtimeapi.StreamImagesRequest, out grpc.ServerStreamingServer[runtimeapi.StreamImagesResponse]) error {
	list, err := s.ListImages(out.Context(), &runtimeapi.ListImagesRequest{Filter: r.GetFilter()})
	if err != nil {
		return err
	}
	return sendMessages(list.Images, func(chunk []*runtimeapi.Image) error {
		return out.Send(&runtimeapi.StreamImagesResponse{Images: chunk})
	})
}

// StreamContainerStats is ListContainerStats in chunks.
func (s *Service) StreamContainerStats(r *runtimeapi.StreamContainerStatsRequest, out grpc.ServerStreamingServer[runtimeapi.StreamContainerStatsResponse]) error {
	list, err := s.usage.containers(out.Context(), r.GetFilter())
	if err != nil {
		return err
	}
	return sendMessages(list, func(chunk []*runtimeapi.ContainerStats) error {
		return out.Send(&runtimeapi.StreamContainerStatsResponse{ContainerStats: chunk})
	})
}

// StreamPodSandboxStats is ListPodSandboxStats in chunks.
func (s *Service) StreamPodSandboxStats(r *runtimeapi.StreamPodSandboxStatsRequest, out grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxStatsResponse]) error {
	list, err := s.usage.pods(out.Context(), r.GetFilter())
	if err != nil {
		return err
	}
	return sendMessages(list, func(chunk []*runtimeapi.PodSandboxStats) error {
		return out.Send(&runtimeapi.StreamPodSandboxStatsResponse{PodSandboxStats: chunk})
	})
}

// StreamPodSandboxMetrics is ListPodSandboxMetrics in chunks.
func (s *Service) StreamPodSandboxMetrics(_ *runtimeapi.StreamPodSandboxMetricsRequest, out grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxMetricsResponse]) error {
	list, err := s.usage.metrics(out.Context())
	if err != nil {
		return err
	}
	return sendMessages(list, func(chunk []*runtimeapi.PodSandboxMetrics) error {
		return out.Send(&runtimeapi.StreamPodSandboxMetricsResponse{PodSandboxMetrics: chunk})
	})
}
