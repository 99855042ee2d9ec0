package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// tellingRuntime returns dockerd's flag for a runtime with the given name,
// which is runc and also copies each container's configuration to dir, named
// after its ID.
func tellingRuntime(t *testing.T, name string) (flag, dir string) {
	t.Helper()
	dir = t.TempDir()
	path := filepath.Join(dir, name)
	script := fmt.Sprintf(`#!/bin/sh
bundle=
for arg; do
	if [ "$last" = --bundle ]; then bundle=$arg; fi
	last=$arg
done
if [ "$bundle" ]; then cp "$bundle/config.json" "%s/$last.json"; fi
exec runc "$@"
`, dir)
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return "--add-runtime=" + name + "=" + path, dir
}

// TestAnnotations: the OCI runtime receives the annotations that the settings
// allow, and those that identify the pod if the settings ask for them. An
// engine that cannot pass annotations on still runs pods that need none.
func TestAnnotations(t *testing.T) {
	t.Parallel()
	needEngine(t)
	flag, dir := tellingRuntime(t, "telling")
	n := newNode(t, flag)
	c := newCridock(t, n, "cni", "--pod-annotations=telling=dev.test.*", "--container-annotations=io.test.*", "--cri-annotations=telling", "--shim-grouping=false")
	annotated := func(cfg *runtimeapi.PodSandboxConfig) {
		cfg.Annotations = map[string]string{"dev.test.a": "pod", "io.test.a": "not a pod's"}
	}
	if n.docker.apiMinor(t) < 43 {
		_, err := try(c.runtime.RunPodSandbox, &runtimeapi.RunPodSandboxRequest{Config: c.podConfig(t, annotated), RuntimeHandler: "telling"})
		wantCode(t, err, codes.FailedPrecondition, "annotations")
		c.runPod(t, annotated) // none of its annotations are for its runtime
		return
	}
	p := c.runPodWith(t, "telling", annotated)
	main := p.create("main", "true", func(cfg *runtimeapi.ContainerConfig) {
		cfg.Annotations = map[string]string{"dev.test.a": "not the pod's", "io.test.a": "container", "io.kubernetes.cri.sandbox-id": "forged"}
	})
	rpc(t, c.runtime.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: main.id})
	const cri = "io.kubernetes.cri."
	pod := func(kind string) map[string]string {
		return map[string]string{
			"dev.test.a": "pod", cri + "container-type": kind, cri + "sandbox-name": p.cfg.Metadata.Name,
			cri + "sandbox-namespace": p.cfg.Metadata.Namespace, cri + "sandbox-uid": p.cfg.Metadata.Uid,
		}
	}
	inner := pod("container")
	inner["io.test.a"], inner[cri+"sandbox-id"], inner[cri+"container-name"], inner[cri+"image-name"] = "container", p.id, "main", p.image
	for id, want := range map[string]map[string]string{p.id: pod("sandbox"), main.id: inner} {
		var spec struct{ Annotations map[string]string }
		if err := json.Unmarshal([]byte(read(t, filepath.Join(dir, id+".json"))), &spec); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, spec.Annotations); diff != "" {
			t.Errorf("the runtime is told (-want +got):\n%s", diff)
		}
	}
}
