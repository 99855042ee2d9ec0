package app

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// array returns the words of a shell array.
func array(t *testing.T, path, name string) []string {
	t.Helper()
	m := regexp.MustCompile(`(?m)(?:^|\s)` + name + `=\(([^)]*)\)`).FindStringSubmatch(read(t, path))
	if m == nil {
		t.Fatalf("%s has no array %s", path, name)
	}
	return strings.Fields(m[1])
}

// TestSupportDocument: the document names what the scripts test and build.
func TestSupportDocument(t *testing.T) {
	text := read(t, "docs/support.md")

	var engines []string
	for _, row := range table(t, text, "| engine | image store | `hack/matrix.sh` |") {
		engines = append(engines, quoted(row[2])...)
	}
	// The array is first declared empty.
	defaults := regexp.MustCompile(`\|\| engines=\(([^)]+)\)`).FindStringSubmatch(read(t, "hack/matrix.sh"))
	if defaults == nil {
		t.Fatal("hack/matrix.sh has no default engines")
	}
	if diff := cmp.Diff(strings.Fields(defaults[1]), engines); diff != "" {
		t.Errorf("engines (-hack/matrix.sh +docs/support.md):\n%s", diff)
	}

	kubelet := regexp.MustCompile(`k8s\.io/kubernetes v(\d+\.\d+)\.`).FindStringSubmatch(read(t, "e2e/kubelet/go.mod"))
	if got := table(t, text, "| kubelet | how it is tested |")[0][0]; kubelet == nil || got != kubelet[1] {
		t.Errorf("the document says that kubelet %s is tested; e2e/kubelet/go.mod has %v", got, kubelet)
	}

	var architectures []string
	for _, row := range table(t, text, "| architecture | binaries and packages | sandbox image | tests |") {
		architectures = append(architectures, quoted(row[0])...)
	}
	released := array(t, "hack/release.sh", "all_archs")
	if diff := cmp.Diff(released, architectures); diff != "" {
		t.Errorf("architectures (-hack/release.sh +docs/support.md):\n%s", diff)
	}
	if diff := cmp.Diff(array(t, "shim/pause/build.sh", "ARCHS"), released); diff != "" {
		t.Errorf("architectures (-shim/pause/build.sh +hack/release.sh):\n%s", diff)
	}
	// Everything that is packaged is also built.
	for _, program := range array(t, "hack/release.sh", "node_programs") {
		if !slices.Contains(array(t, "hack/release.sh", "programs"), program) {
			t.Errorf("hack/release.sh packages %s but does not build it", program)
		}
	}
}
