package translate

import (
	"slices"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/image"
)

func TestMirrorName(t *testing.T) {
	const digest = "@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	for repository, want := range map[string]string{
		"docker.io/library/busybox":          "127.0.0.1:5089/cridock-mirror/docker.io/library/busybox",
		"registry.test:5000/a/b_c/d--e":      "127.0.0.1:5089/cridock-mirror/registry.test__5000/a/b_c/d--e",
		"10.0.0.1:80/a":                      "127.0.0.1:5089/cridock-mirror/10.0.0.1__80/a",
		"xn--e1afmkfd.test/a":                "127.0.0.1:5089/cridock-mirror/xn--e1afmkfd.test/a",
		"Registry.test/a":                    "", // no path can be written so
		"[::1]:5000/a":                       "",
		"r.test/" + strings.Repeat("a", 240): "",
	} {
		name, ok := MirrorName("127.0.0.1:5089", repository)
		if ok != (want != "") || ok && name != want {
			t.Errorf("%s is %q, %v; want %q", repository, name, ok, want)
		}
		if !ok {
			continue
		}
		if !IsMirrorName(name) || IsMirrorName(repository) {
			t.Errorf("%s is not recognised", name)
		}
		got := ReadImage(image.InspectResponse{ID: "sha256:1", RepoTags: []string{name + ":1"}, RepoDigests: []string{name + digest, repository + digest, strings.Replace(name, ":5089", ":40000", 1) + digest}})
		if !slices.Equal(got.RepoDigests, []string{repository + digest}) || len(got.RepoTags) != 0 || got.Ref != repository+digest {
			t.Errorf("an image from a mirror of %s has the names %q, %q", repository, got.RepoTags, got.RepoDigests)
		}
	}
	for _, name := range []string{"registry.test/cridock-mirror/docker.io/a", "127.0.0.1:5000/cridock/a", "localhost/cridock-mirror/a", "10.0.0.1/cridock-mirror/docker.io/a", "127.0.0.1:5000"} {
		if IsMirrorName(name) {
			t.Errorf("%s is taken for a name of cridock's", name)
		}
	}
	for _, name := range []string{"127.0.0.1:5089/cridock-mirror/a" + digest, "127.0.0.1:5089/cridock-mirror/b_c/a" + digest} {
		if got := ReadImage(image.InspectResponse{ID: "sha256:1", RepoDigests: []string{name}}); slices.Contains(got.RepoDigests, name) {
			t.Errorf("%s is shown", name)
		}
	}
}
