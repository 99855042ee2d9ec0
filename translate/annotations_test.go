package translate

import (
	"maps"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"google.golang.org/protobuf/proto"

	"github.com/cridock/cridock/internal/seam"
)

func TestParseAnnotationPattern(t *testing.T) {
	for text, want := range map[string]AnnotationPattern{
		"dev.gvisor.*":           {Pattern: "dev.gvisor.*"},
		"kata=io.katacontainers": {Handler: "kata", Pattern: "io.katacontainers"},
	} {
		if got, err := ParseAnnotationPattern(text); err != nil || got != want {
			t.Errorf("%q is %+v, %v; want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "kata=", "=a", "[", "kata=[a"} {
		if got, err := ParseAnnotationPattern(text); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q is %+v, %v; want ErrInvalidArgument", text, got, err)
		}
	}
}

func TestSelectAnnotations(t *testing.T) {
	host := Host{DefaultRuntime: "runc", Runtimes: map[string]RuntimeFeatures{"runc": {}, "kata": {}}}
	patterns := []AnnotationPattern{{Pattern: "all.test/*"}, {Handler: "kata", Pattern: "kata.test.*"}, {Handler: "runc", Pattern: "runc.test.*"}, {Pattern: "io.*"}}
	annotations := map[string]string{
		"all.test/a": "1", "all.test/a/b": "2", "kata.test.a": "3", "runc.test.a": "4", "other.test": "5",
		"io.kubernetes.cri.container-type": "sandbox", ShimGroupAnnotation: "another-pod", "io.test": "6",
	}
	for handler, want := range map[string]map[string]string{
		"kata":   {"all.test/a": "1", "kata.test.a": "3", "io.test": "6"},
		"":       {"all.test/a": "1", "runc.test.a": "4", "io.test": "6"},
		"docker": {"all.test/a": "1", "runc.test.a": "4", "io.test": "6"},
	} {
		if diff := cmp.Diff(want, selectAnnotations(annotations, patterns, handler, host)); diff != "" {
			t.Errorf("handler %q (-want +got):\n%s", handler, diff)
		}
	}
}

func TestCRIAnnotations(t *testing.T) {
	host := Host{
		Annotations: true, DefaultRuntime: "runc", Runtimes: map[string]RuntimeFeatures{"runc": {}, "runsc": {}}, CRIAnnotations: []string{"runsc"},
		PodAnnotations: []AnnotationPattern{{Pattern: "pod.*"}}, ContainerAnnotations: []AnnotationPattern{{Pattern: "ctr.*"}},
	}
	meta := &runtimeapi.PodSandboxMetadata{Name: "web", Namespace: "shop", Uid: "u1"}
	annotations := map[string]string{"pod.a": "1", "ctr.a": "not a container's", criAnnotationPrefix + "sandbox-id": "another"}
	sandbox := SandboxRequest{Config: &runtimeapi.PodSandboxConfig{Metadata: meta, Annotations: annotations}, RuntimeHandler: "runsc"}
	ctr := ContainerRequest{
		Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "main"}, Image: &runtimeapi.ImageSpec{Image: "app:1"},
			Annotations: map[string]string{"ctr.a": "2", "pod.a": "not the pod's", criAnnotationPrefix + "sandbox-id": "another"},
		},
		Sandbox: &Sandbox{ID: "id-of-the-sandbox", Metadata: meta, RuntimeHandler: "runsc", Annotations: annotations},
	}
	pod := func(kind string, more map[string]string) map[string]string {
		all := map[string]string{
			"io.kubernetes.cri.container-type": kind, "io.kubernetes.cri.sandbox-name": "web", "io.kubernetes.cri.sandbox-namespace": "shop", "io.kubernetes.cri.sandbox-uid": "u1",
			"pod.a": "1",
		}
		for k, v := range more {
			all[k] = v
		}
		return all
	}
	check := func(what string, want, got map[string]string, err error) {
		t.Helper()
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", what, err, diff)
		}
	}
	got, err := sandboxAnnotations(sandbox, host)
	check("sandbox", pod("sandbox", nil), got, err)
	got, err = containerAnnotations(ctr, map[string]string{"ctr.a": "ours"}, host)
	check("container", pod("container", map[string]string{
		"ctr.a": "ours", "io.kubernetes.cri.sandbox-id": "id-of-the-sandbox", "io.kubernetes.cri.container-name": "main", "io.kubernetes.cri.image-name": "app:1",
	}), got, err)

	old := host
	old.Annotations = false
	if _, err := sandboxAnnotations(sandbox, old); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "cridock runtime install") {
		t.Errorf("a sandbox on an engine without annotations: %v", err)
	}
	if _, err := containerAnnotations(ctr, nil, old); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a container on an engine without annotations: %v", err)
	}
	sandbox.RuntimeHandler, sandbox.Config.Annotations = "", map[string]string{"other": "1"}
	got, err = sandboxAnnotations(sandbox, old)
	check("nothing to tell an old engine", nil, got, err)
}

// TestSeamAnnotations: cridock-runtime passes annotations on for an engine that can't.
func TestSeamAnnotations(t *testing.T) {
	host := exampleHost
	host.PodAnnotations, host.ContainerAnnotations = []AnnotationPattern{{Pattern: "pod.*"}}, []AnnotationPattern{{Pattern: "ctr.*"}}
	annotated := func(host Host) (sandbox, ctr *Create) {
		t.Helper()
		cfg := proto.CloneOf(podConfig)
		cfg.Annotations = map[string]string{"pod.a": "1", "other": "2"}
		sandbox, err := DockerSandbox(SandboxRequest{Config: cfg, RuntimeHandler: "crun", ImageID: pauseID}, host)
		if err != nil {
			t.Fatal(err)
		}
		req := containerRequest(t)
		req.Config, req.Sandbox.Annotations = proto.CloneOf(req.Config), cfg.Annotations
		req.Config.Linux, req.Config.Annotations = nil, map[string]string{"ctr.a": "3", "other": "4"}
		if ctr, err = DockerContainer(req, host); err != nil {
			t.Fatal(err)
		}
		return sandbox, ctr
	}
	if sandbox, ctr := annotated(host); sandbox.Seam != nil || ctr.Seam != nil {
		t.Errorf("needless: %+v, %+v", sandbox.Seam, ctr.Seam)
	}
	host.Annotations = false
	sandbox, ctr := annotated(host)
	want := map[string]string{"pod.a": "1"}
	for _, c := range []*Create{sandbox, ctr} {
		if diff := cmp.Diff(&Seam{RealRuntime: "crun", Record: seam.Record{Annotations: want}}, c.Seam); diff != "" || c.HostConfig.Runtime != "cridock" || c.HostConfig.Annotations != nil {
			t.Errorf("with runtime %q: %s", c.HostConfig.Runtime, diff)
		}
		want = maps.Clone(want)
		want["ctr.a"] = "3"
	}
}
