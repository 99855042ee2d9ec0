package translate

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestRepeatedImageMounts: where Docker takes each source once, the second mount of an
// image has another one, and a third is refused.
func TestRepeatedImageMounts(t *testing.T) {
	sources := func(n int, host Host) ([]string, error) {
		req := ContainerRequest{Sandbox: &Sandbox{}, Config: &runtimeapi.ContainerConfig{}}
		for i := range n {
			req.Config.Mounts = append(req.Config.Mounts, &runtimeapi.Mount{ContainerPath: fmt.Sprint("/", i), Image: &runtimeapi.ImageSpec{Image: "data"}, Readonly: true})
			req.Mounts = append(req.Mounts, ResolvedMount{ImageID: digest})
		}
		mounts, _, err := dockerMounts(req, host)
		var out []string
		for _, m := range mounts {
			out = append(out, m.Source)
		}
		return out, err
	}
	got, err := sources(2, Host{ImageMounts: true})
	if diff := cmp.Diff([]string{digest, strings.TrimPrefix(digest, "sha256:")}, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if _, err := sources(3, Host{ImageMounts: true}); err == nil || !strings.Contains(err.Error(), "mounts[2].image") {
		t.Errorf("a third mount: %v", err)
	}
	got, err = sources(3, Host{ImageMounts: true, RepeatedImageMounts: true})
	if diff := cmp.Diff([]string{digest, digest, digest}, got); diff != "" || err != nil {
		t.Errorf("without the limit: %v (-want +got):\n%s", err, diff)
	}
}
