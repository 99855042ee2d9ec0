package translate

import (
	"slices"
	"time"

	"github.com/docker/docker/api/types/image"
	godigest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// OCIImage returns an image's configuration in the form of the OCI image
// specification, from GET /images/{name}/json and /images/{name}/history.
// Docker's additions to the specification, such as a health check, are left out.
//
// Docker does not report which history steps made no layer. OCIImage infers it
// from their size, and marks none if that does not match the number of layers.
func OCIImage(in image.InspectResponse, history []image.HistoryResponseItem) ocispec.Image {
	out := ocispec.Image{
		Author:   in.Author,
		Platform: ocispec.Platform{Architecture: in.Architecture, Variant: in.Variant, OS: in.Os, OSVersion: in.OsVersion},
		RootFS:   ocispec.RootFS{Type: in.RootFS.Type, DiffIDs: make([]godigest.Digest, 0, len(in.RootFS.Layers))},
		History:  make([]ocispec.History, 0, len(history)),
	}
	if created, err := time.Parse(time.RFC3339Nano, in.Created); err == nil && !created.IsZero() {
		out.Created = &created
	}
	if in.Config != nil {
		out.Config = in.Config.ImageConfig
	}
	for _, layer := range in.RootFS.Layers {
		out.RootFS.DiffIDs = append(out.RootFS.DiffIDs, godigest.Digest(layer))
	}
	filled := 0
	for _, step := range history {
		if step.Size > 0 {
			filled++
		}
	}
	// Docker lists the newest step first.
	for _, step := range slices.Backward(history) {
		h := ocispec.History{
			CreatedBy: step.CreatedBy, Comment: step.Comment,
			EmptyLayer: step.Size == 0 && filled == len(in.RootFS.Layers),
		}
		if step.Created > 0 {
			created := time.Unix(step.Created, 0).UTC()
			h.Created = &created
		}
		out.History = append(out.History, h)
	}
	return out
}

// ChainID returns the ID that snapshotters use for all layers of an image
// together; "" if there are none.
func ChainID(in ocispec.Image) string {
	return identity.ChainID(slices.Clone(in.RootFS.DiffIDs)).String()
}
