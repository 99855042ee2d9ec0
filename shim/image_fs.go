package shim

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/shim/stats"
)

// ImageFsInfo reports the disk usage of the images and of the containers' writable
// layers, as of the last round of the background walker.
func (s *Service) ImageFsInfo(ctx context.Context, _ *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	images, err := s.images.fsUsage(ctx)
	if err != nil {
		return nil, err
	}
	layers, err := s.images.usage.Layers(ctx)
	if err != nil {
		return nil, err
	}
	root := s.images.usage.Root()
	return &runtimeapi.ImageFsInfoResponse{
		ImageFilesystems:     []*runtimeapi.FilesystemUsage{stats.CRIFilesystemUsage(images, root)},
		ContainerFilesystems: []*runtimeapi.FilesystemUsage{stats.CRIFilesystemUsage(layers, root)},
	}, nil
}
