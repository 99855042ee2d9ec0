package artifact

import (
	"encoding/json"
	"path/filepath"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// FuzzManifest: whatever a manifest says, each file is directly in the artifact's
// directory, no two are the same, and the sum of the sizes is right.
func FuzzManifest(f *testing.F) {
	f.Add([]byte(`{"layers":[{"digest":"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","size":5,"annotations":{"org.opencontainers.image.title":"a"}}]}`))
	f.Add([]byte(`{"layers":[{"digest":"sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","size":-1,"annotations":{"org.opencontainers.image.title":"../a"}}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var m ocispec.Manifest
		if json.Unmarshal(text, &m) != nil {
			return
		}
		titles, err := layout(m)
		if err != nil {
			return
		}
		seen, sum := map[string]bool{}, int64(0)
		for i, title := range titles {
			if filepath.Dir(filepath.Join("/files", title)) != "/files" || filepath.Base(title) != title || seen[title] {
				t.Errorf("the file %q", title)
			}
			seen[title] = true
			sum += m.Layers[i].Size
		}
		if len(titles) != len(m.Layers) || sum < 0 || sum != newStored(m, len(text)).size || newStored(m, len(text)).cost < sum {
			t.Errorf("%d files of %d, %d bytes", len(titles), len(m.Layers), sum)
		}
	})
}
