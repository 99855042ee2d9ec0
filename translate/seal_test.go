package translate

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
)

var testSeal = newSeal("the key of the tests, 32 bytes.")

func newSeal(key string) *Seal {
	s, err := NewSeal([]byte(fmt.Sprintf("%-32s", key)))
	if err != nil {
		panic(err)
	}
	return s
}

// seal seals a container again after a test has changed its labels.
func seal(in container.InspectResponse) {
	testSeal.stamp(&Create{Name: strings.TrimPrefix(in.Name, "/"), Config: in.Config})
}

// dropProofs removes the labels that are computed from the rest of a request.
func dropProofs(c *Create) {
	for _, key := range []string{LabelConfig, LabelRequest, LabelSeal} {
		delete(c.Config.Labels, key)
	}
}

// TestSeal: nothing that a container is read from can be changed or used for
// another container.
func TestSeal(t *testing.T) {
	if _, err := NewSeal(make([]byte, 31)); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a key of 31 bytes: %v", err)
	}
	if got := fmt.Sprintf("%v %+v %s", testSeal, fullHost, testSeal); strings.Contains(got, "the key") || strings.Contains(got, fmt.Sprintf("%d", []byte("the key"))) {
		t.Errorf("the key is printed: %s", got)
	}
	for kind, create := range map[Kind]func(testing.TB) container.InspectResponse{KindSandbox: createdSandbox, KindContainer: createdContainer} {
		changes := map[string]func(*container.InspectResponse){
			"the name":  func(in *container.InspectResponse) { in.Name += "1" },
			"the image": func(in *container.InspectResponse) { in.Config.Image = "sha256:other" },
			"the seal":  func(in *container.InspectResponse) { in.Config.Labels[LabelSeal] = "" },
		}
		for _, label := range sealedLabels[kind] {
			changes["another "+label] = func(in *container.InspectResponse) { in.Config.Labels[label] += "x" }
		}
		for name, change := range changes {
			in := create(t)
			if !testSeal.made(in) || newSeal("another").made(in) || (*Seal)(nil).made(in) {
				t.Fatalf("%s: the seal is not its key's alone", kind)
			}
			if change(&in); testSeal.made(in) {
				t.Errorf("%s: the seal does not cover %s", kind, name)
			}
		}
		in := create(t)
		in.Config.Labels["an image's"] = "label"
		if !testSeal.made(in) {
			t.Errorf("%s: an image's label breaks the seal", kind)
		}
	}
	// Moving text from one field to the next makes a different list of fields.
	a, b := createdSandbox(t), createdSandbox(t)
	a.Config.Labels[LabelPodName], a.Config.Labels[LabelPodNamespace] = "pn", ""
	b.Config.Labels[LabelPodName], b.Config.Labels[LabelPodNamespace] = "p", "n"
	if testSeal.sum("x", a.Config) == testSeal.sum("x", b.Config) {
		t.Error("two lists of labels have one seal")
	}
}

// TestSealedLabels: an image could choose an internal label that is not sealed.
func TestSealedLabels(t *testing.T) {
	for kind, create := range map[Kind]func(testing.TB) container.InspectResponse{KindSandbox: createdSandbox, KindContainer: createdContainer} {
		var internal []string
		for key := range create(t).Config.Labels {
			if strings.HasPrefix(key, ownPrefix) || key == LabelType || key == LabelSandboxID || key == LabelLogPath {
				internal = append(internal, key)
			}
		}
		for _, key := range internal {
			if key != LabelSeal && !slices.Contains(sealedLabels[kind], key) {
				t.Errorf("%s: label %s is not sealed", kind, key)
			}
		}
	}
}

// TestCreatorLabels: an adopted container's labels count only if its creator, and
// not its image, has set them.
func TestCreatorLabels(t *testing.T) {
	creator := map[string]string{
		LabelType: "container", LabelSandboxID: sandboxID, LabelLogPath: "/var/log/pods/c/0.log", LabelContainerName: "c",
		LabelPodName: "p", LabelPodNamespace: "n", LabelPodUID: "u", "app": "web", "annotation.note": "x",
	}
	adopt := func(image map[string]string, change func(labels map[string]string)) (*Container, error) {
		labels := maps.Clone(image)
		if labels == nil {
			labels = map[string]string{}
		}
		maps.Copy(labels, creator)
		if change != nil {
			change(labels)
		}
		in := createdContainer(t)
		in.Name, in.Config.Labels = "/k8s_c_p_n_u_0", labels
		return ReadContainer(in, &Image{Labels: image}, fullHost)
	}
	read := func(t *testing.T, image map[string]string) *Container {
		t.Helper()
		c, err := adopt(image, nil)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	want := read(t, nil)
	if want.LogPath == "" || want.SandboxID != sandboxID || want.Config != nil {
		t.Fatalf("adopted: %+v", want)
	}
	t.Run("labels of the image", func(t *testing.T) {
		record := createdContainer(t).Config.Labels[LabelConfig]
		got := read(t, map[string]string{
			LabelConfig: record, LabelSeal: "x", LabelRequest: "x", "vendor": "image", "annotation.io.kubernetes.container.preStopHandler": "{}",
			LabelPodName: "other", LabelSandboxID: strings.Repeat("e", 64), LabelLogPath: "/etc/ld.so.preload",
		})
		if diff := cmp.Diff(want.Labels, got.Labels); diff != "" || !cmp.Equal(want.Annotations, got.Annotations) {
			t.Errorf("labels (-want +got):\n%s\nannotations %v", diff, got.Annotations)
		}
		if got.Config != nil || got.LogPath != want.LogPath || got.SandboxID != sandboxID || got.SandboxMetadata.Name != "p" {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("an image committed from the same pod", func(t *testing.T) {
		got := read(t, map[string]string{LabelType: "container", LabelPodName: "p", LabelPodNamespace: "n", LabelPodUID: "u", LabelContainerName: "c"})
		if diff := cmp.Diff(want.Labels, got.Labels); diff != "" {
			t.Errorf("labels (-want +got):\n%s", diff)
		}
	})
	t.Run("a log path that may be the image's", func(t *testing.T) {
		if got := read(t, map[string]string{LabelLogPath: creator[LabelLogPath]}); got.LogPath != "" {
			t.Errorf("log path %q", got.LogPath)
		}
	})
	for _, path := range []string{
		"/etc/ld.so.preload", "/var/log/pods", "/var/log/pods/", "/var/log/podsx/0.log", "/var/log/pods/../x", "/var/log/pods//x", "var/log/pods/x", "",
	} {
		got, err := adopt(nil, func(labels map[string]string) { labels[LabelLogPath] = path })
		if err != nil || got.LogPath != "" {
			t.Errorf("log path %q: %+v, %v", path, got, err)
		}
	}
	for name, change := range map[string]func(map[string]string){
		"another pod's name":      func(labels map[string]string) { labels[LabelPodName] = "victim" },
		"another namespace":       func(labels map[string]string) { labels[LabelPodNamespace] = "victim" },
		"another UID":             func(labels map[string]string) { labels[LabelPodUID] = "victim" },
		"another container":       func(labels map[string]string) { labels[LabelContainerName] = "victim" },
		"no sandbox":              func(labels map[string]string) { delete(labels, LabelSandboxID) },
		"a sandbox that is no ID": func(labels map[string]string) { labels[LabelSandboxID] = "../x" },
	} {
		if got, err := adopt(nil, change); !errdefs.IsNotFound(err) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if got, err := adopt(map[string]string{LabelSandboxID: sandboxID}, nil); !errdefs.IsNotFound(err) {
		t.Errorf("a sandbox that may be the image's: %+v, %v", got, err)
	}
	in := createdContainer(t)
	in.Name, in.Config.Labels = "/k8s_c_p_n_u_0", creator
	if got, err := ReadContainer(in, nil, fullHost); err != nil || got.LogPath != "" {
		t.Errorf("of an image that is gone: %+v, %v", got, err)
	}
}

// TestAdoptedAfterKeyLoss: cridock's own containers, under any name, are adopted if
// its key is lost.
func TestAdoptedAfterKeyLoss(t *testing.T) {
	other := fullHost
	other.Seal = newSeal("another")
	s, err := ReadSandbox(createdSandbox(t), &Image{}, other)
	if err != nil || s.Config != nil || s.Labels["app"] != "web" || !cmp.Equal(s.Annotations, podConfig.Annotations) {
		t.Errorf("sandbox %+v, %v", s, err)
	}
	for _, name := range []string{"c", "POD", "a_b", strings.Repeat("x", 300)} {
		req := containerRequest(t)
		req.Config = proto.CloneOf(req.Config)
		req.Config.Metadata.Name = name
		created, err := DockerContainer(req, fullHost)
		if err != nil {
			t.Fatal(err)
		}
		c, err := ReadContainer(inspect(created, containerID), &Image{}, other)
		if err != nil || c.Config != nil || c.Metadata.Name != name {
			t.Errorf("container %.9q: %+v, %v", name, c, err)
		}
	}
}
