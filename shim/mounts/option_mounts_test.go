package mounts_test

import (
	"encoding/json"
	"os"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	specs "tags.cncf.io/container-device-interface/specs-go"

	"github.com/cridock/cridock/shim/engine"
	"github.com/cridock/cridock/shim/mounts"
)

// optionNode is a node of an engine with CDI, which reads specifications from cdi.
func optionNode(t *testing.T) *node {
	t.Helper()
	n := newNode(t)
	n.docker.caps.CDISpecDirs = []string{"/etc/cdi", n.path("cdi")}
	n.host.MountOptions = mounts.SpecDir(&n.docker.caps) != ""
	if !n.host.MountOptions {
		t.Fatal("mounts cannot have options")
	}
	return n
}

// specFile is the file name of a container's specification.
func (n *node) specFile(name string) string {
	return "cridock-" + hash(n.options.Instance) + "-" + hash(name) + ".json"
}

func (n *node) withOptions() []*runtimeapi.Mount {
	return []*runtimeapi.Mount{
		{ContainerPath: "/plain", HostPath: n.dir},
		{ContainerPath: "/data", HostPath: n.dir, Readonly: true, MountOptions: []string{"noexec"}},
	}
}

func (n *node) wantSpecs(what string, want ...string) {
	n.t.Helper()
	slices.Sort(want)
	if diff := cmp.Diff(want, n.names("cdi")); diff != "" {
		n.t.Errorf("specifications %s (-want +got):\n%s", what, diff)
	}
}

func TestSpecDir(t *testing.T) {
	n := newNode(t)
	file := n.write("file", "")
	for want, c := range map[string]*engine.Capabilities{
		"":             {CDISpecDirs: []string{n.path("unused"), file + "/cdi"}},
		n.path("last"): {CDISpecDirs: []string{n.path("unused"), n.path("last")}},
	} {
		if got := mounts.SpecDir(c); got != want {
			t.Errorf("SpecDir(%q) = %q, want %q", c.CDISpecDirs, got, want)
		}
	}
	if got := mounts.SpecDir(nil) + mounts.SpecDir(&engine.Capabilities{}); got != "" {
		t.Errorf("without CDI: %q", got)
	}
	if got := n.names("."); !slices.Equal(got, []string{"file", "last"}) {
		t.Errorf("there is %q", got)
	}
}

func TestOptionMounts(t *testing.T) {
	n := optionNode(t)
	got, err := n.resolve("c", n.withOptions()...)
	n.must(err)
	device := hash("c") + "-1"
	if got[0].CDIDevice != "" || got[1].CDIDevice != "cridock.io/mounts="+device {
		t.Errorf("devices: %+v", got)
	}
	n.wantSpecs("of the container", n.specFile("c"))
	content, err := os.ReadFile(n.path("cdi/" + n.specFile("c")))
	n.must(err)
	var spec specs.Spec
	n.must(json.Unmarshal(content, &spec))
	if err := specs.ValidateVersion(&spec); err != nil {
		t.Errorf("dockerd would drop %s: %v", content, err)
	}
	want := []specs.Device{{Name: device, ContainerEdits: specs.ContainerEdits{Mounts: []*specs.Mount{
		{HostPath: n.dir, ContainerPath: "/data", Options: []string{"rbind", "rprivate", "ro", "noexec"}},
	}}}}
	if diff := cmp.Diff(want, spec.Devices); diff != "" {
		t.Errorf("devices of the specification (-want +got):\n%s", diff)
	}

	_, err = n.resolve("plain", n.withOptions()[:1]...)
	n.must(err)
	n.create("c")
	n.must(n.Release(t.Context(), "c"))
	n.wantSpecs("while the container exists", n.specFile("c"))
	delete(n.pods.byID, "c")
	for range 2 {
		n.must(n.Release(t.Context(), "c"))
		n.wantSpecs("after the container")
	}
}

// TestOptionMountsWithoutCDI: the translation rejects them.
func TestOptionMountsWithoutCDI(t *testing.T) {
	n := newNode(t)
	got, err := n.resolve("c", n.withOptions()...)
	n.must(err)
	if got[1].CDIDevice != "" {
		t.Errorf("device %s", got[1].CDIDevice)
	}
	n.must(n.Release(t.Context(), "c"))
	n.must(n.Sweep(t.Context()))
}

// TestSpecOverLink: a link in place of a specification is replaced, not followed.
func TestSpecOverLink(t *testing.T) {
	n := optionNode(t)
	outside := n.write("outside", "unchanged")
	n.must(os.Symlink(outside, n.path("cdi/"+n.specFile("c"))))
	_, err := n.resolve("c", n.withOptions()...)
	n.must(err)
	if got, err := os.ReadFile(outside); err != nil || string(got) != "unchanged" {
		t.Errorf("the link's target holds %q, %v", got, err)
	}
	if info, err := os.Lstat(n.path("cdi/" + n.specFile("c"))); err != nil || !info.Mode().IsRegular() {
		t.Errorf("the specification: %v, %v", info, err)
	}
}

// TestSweepSpecs: only this cridock's files of containers that are gone are removed.
func TestSweepSpecs(t *testing.T) {
	n := optionNode(t)
	for _, name := range []string{"gone", "kept"} {
		_, err := n.resolve(name, n.withOptions()...)
		n.must(err)
	}
	n.create("kept")
	prefix := "cridock-" + hash(n.options.Instance) + "-"
	foreign := []string{
		"vendor.json", "cridock-" + hash("another") + "-" + hash("gone") + ".json", prefix + "notes.json", prefix + hash("gone")[1:] + ".json", hash("gone") + ".json",
	}
	for _, file := range append(foreign, prefix+hash("killed")+".json.draft") {
		n.write("cdi/"+file, "{}")
	}
	n.restart()
	_, err := n.resolve("new", n.withOptions()...) // Docker does not have it yet
	n.must(err)

	n.pods.lost = errdefs.ErrUnavailable
	if err := n.Sweep(t.Context()); !errdefs.IsUnavailable(err) {
		t.Errorf("without an index: %v, want ErrUnavailable", err)
	}
	if len(n.names("cdi")) != len(foreign)+4 {
		t.Errorf("without knowing the containers it has removed some of %q", n.names("cdi"))
	}
	n.pods.lost = nil
	n.must(n.Sweep(t.Context()))
	n.wantSpecs("after the sweep", append(foreign, n.specFile("kept"), n.specFile("new"))...)
}
