package translate

import (
	"encoding/json"
	"testing"

	"github.com/docker/docker/api/types/image"
	"github.com/google/go-cmp/cmp"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestOCIImage compares the JSON with the specification's own form.
func TestOCIImage(t *testing.T) {
	const layer = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	in := image.InspectResponse{
		Created: "2024-01-02T03:04:05Z", Author: "me", Architecture: "arm64", Variant: "v8", Os: "linux",
		Config: &dockerspec.DockerOCIImageConfig{
			ImageConfig:             ocispec.ImageConfig{User: "1", Env: []string{"A=b"}, Cmd: []string{"run"}, WorkingDir: "/w", Labels: map[string]string{"k": "v"}},
			DockerOCIImageConfigExt: dockerspec.DockerOCIImageConfigExt{Shell: []string{"sh"}},
		},
		RootFS: image.RootFS{Type: "layers", Layers: []string{layer}},
	}
	history := []image.HistoryResponseItem{{CreatedBy: "CMD run", Created: 2}, {CreatedBy: "COPY", Created: 1, Size: 5, Comment: "c"}}
	got, err := json.Marshal(OCIImage(in, history))
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"created":"2024-01-02T03:04:05Z","author":"me","architecture":"arm64","os":"linux","variant":"v8",` +
		`"config":{"User":"1","Env":["A=b"],"Cmd":["run"],"WorkingDir":"/w","Labels":{"k":"v"}},` +
		`"rootfs":{"type":"layers","diff_ids":["` + layer + `"]},` +
		`"history":[{"created":"1970-01-01T00:00:01Z","created_by":"COPY","comment":"c"},{"created":"1970-01-01T00:00:02Z","created_by":"CMD run","empty_layer":true}]}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if id := ChainID(OCIImage(in, history)); id != layer {
		t.Errorf("chain ID of one layer is %s, want the layer's", id)
	}

	// With an empty layer, nothing shows which steps made no layer.
	in.RootFS.Layers = append(in.RootFS.Layers, layer)
	for _, h := range OCIImage(in, history).History {
		if h.EmptyLayer {
			t.Errorf("%+v, with two layers and one step of a size", h)
		}
	}
	if id := ChainID(OCIImage(image.InspectResponse{}, nil)); id != "" {
		t.Errorf("chain ID of no layers is %q", id)
	}
}
