package images

import (
	"slices"
	"strings"

	"github.com/distribution/reference"

	"github.com/cridock/cridock/translate"
)

// Pins are patterns of images, such as those that the kubelet's garbage collection must
// keep. A pattern is compared with an image's ID and with each of its tags and digests, in the
// full form and in Docker's short one; * matches any text.
type Pins []string

// Match reports whether an image matches one of the patterns.
func (p Pins) Match(image translate.Image) bool {
	if len(p) == 0 {
		return false
	}
	names := []string{image.ID}
	for _, name := range slices.Concat(image.RepoTags, image.RepoDigests) {
		names = append(names, name)
		if named, err := reference.ParseNormalizedNamed(name); err == nil {
			names = append(names, reference.FamiliarString(named))
		}
	}
	return slices.ContainsFunc(names, p.MatchName)
}

// MatchName reports whether a text matches one of the patterns.
func (p Pins) MatchName(name string) bool {
	return slices.ContainsFunc(p, func(pattern string) bool { return matchGlob(pattern, name) })
}

// matchGlob compares a text with a pattern in which * matches any text, slashes too.
func matchGlob(pattern, text string) bool {
	parts := strings.Split(pattern, "*")
	rest, ok := strings.CutPrefix(text, parts[0])
	if !ok || len(parts) == 1 {
		return ok && rest == ""
	}
	last := parts[len(parts)-1]
	for _, part := range parts[1 : len(parts)-1] {
		_, after, found := strings.Cut(rest, part)
		if !found {
			return false
		}
		rest = after
	}
	return strings.HasSuffix(rest, last)
}
