package mounts_test

import (
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestRelabel: Docker is asked for the label only if it supports labels and a
// mount wants one.
func TestRelabel(t *testing.T) {
	n := newNode(t)
	n.create("plain")
	n.create("relabelled")
	n.pods.byID["plain"].Mounts = []*runtimeapi.Mount{{HostPath: n.dir}}
	n.pods.byID["relabelled"].Mounts = []*runtimeapi.Mount{{HostPath: n.dir, SelinuxRelabel: true}}
	n.must(n.Relabel(t.Context(), "relabelled"))
	if len(n.docker.inspected) > 0 {
		t.Errorf("without SELinux it inspects %q", n.docker.inspected)
	}
	n.host.SELinux = true
	n.must(n.Relabel(t.Context(), "plain"))
	n.must(n.Relabel(t.Context(), "relabelled"))
	if diff := cmp.Diff([]string{"relabelled"}, n.docker.inspected); diff != "" {
		t.Errorf("inspected (-want +got):\n%s", diff)
	}
	if err := n.Relabel(t.Context(), "missing"); !errdefs.IsNotFound(err) {
		t.Errorf("a missing container: %v", err)
	}
}
