package images

import (
	"testing"

	"github.com/cridock/cridock/translate"
)

func TestPins(t *testing.T) {
	image := translate.Image{
		ID:          "sha256:1111",
		RepoTags:    []string{"docker.io/library/busybox:1.36", "registry.test:5000/team/app:v2"},
		RepoDigests: []string{"registry.test:5000/team/app@sha256:aaaa"},
	}
	for pattern, want := range map[string]bool{
		"":                               false,
		"*":                              true,
		"busybox:1.36":                   true,
		"busybox":                        false,
		"busybox:*":                      true,
		"docker.io/library/busybox:1.36": true,
		"docker.io/*":                    true,
		"registry.test:5000/*":           true,
		"registry.test:5000/*/app:v*":    true,
		"registry.test:5000/*/app:w*":    false,
		"*/team/*":                       true,
		"*team*app*v2":                   true,
		"*app*team*":                     false,
		"sha256:1111":                    true,
		"registry.test*@sha256:*":        true,
		"app":                            false,
		"v2*v2":                          false,
	} {
		if got := (Pins{pattern}).Match(image); got != want {
			t.Errorf("%q: %v, want %v", pattern, got, want)
		}
	}
	if (Pins{"busybox:2", "*:v2"}).Match(translate.Image{ID: "sha256:2222"}) {
		t.Error("an image without names is pinned")
	}
	if !(Pins{"busybox:2", "*:v2"}).Match(image) {
		t.Error("the second pattern does not count")
	}
}
