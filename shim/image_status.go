package shim

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/shim/engine"
	"github.com/cridock/cridock/translate"
)

// ListImages lists images from the index; a filter names an image, or a
// repository with all its images.
func (s *Service) ListImages(ctx context.Context, r *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	images, err := s.images.all(ctx)
	if err != nil {
		return nil, err
	}
	if ref := r.GetFilter().GetImage().GetImage(); ref != "" {
		if images, err = translate.FilterImages(ref, images); err != nil {
			return nil, err
		}
	}
	resp, pinned := &runtimeapi.ListImagesResponse{}, s.images.pinned(ctx)
	for _, image := range images {
		resp.Images = append(resp.Images, translate.CRIImage(image, pinned(image)))
	}
	return resp, nil
}

// ImageStatus describes an image from the index, named by any of its references. A
// missing image is an empty response.
func (s *Service) ImageStatus(ctx context.Context, r *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	ref := r.GetImage().GetImage()
	if ref == "" {
		return nil, fmt.Errorf("image.image: %w: empty", errdefs.ErrInvalidArgument)
	}
	image, ok, err := s.images.find(ctx, ref)
	if err != nil || !ok {
		return &runtimeapi.ImageStatusResponse{}, err
	}
	resp := &runtimeapi.ImageStatusResponse{Image: translate.CRIImage(image, s.images.pinned(ctx)(image))}
	_, artifact, err := s.images.artifacts.Files(ctx, image.ID)
	if r.GetVerbose() && !artifact && err == nil {
		resp.Info, err = imageInfo(ctx, s.engine, image.ID)
	}
	return resp, err
}

// imageInfo returns the verbose information, under containerd's keys.
func imageInfo(ctx context.Context, e engine.Images, id string) (map[string]string, error) {
	inspect, err := e.ImageInspect(ctx, id)
	if err != nil {
		return nil, err
	}
	history, err := e.ImageHistory(ctx, id)
	if err != nil {
		return nil, err
	}
	spec := translate.OCIImage(inspect, history)
	return jsonInfo(map[string]any{"info": map[string]any{"chainID": translate.ChainID(spec), "imageSpec": spec}})
}
