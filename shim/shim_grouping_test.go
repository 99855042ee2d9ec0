package shim_test

import (
	"testing"

	"github.com/docker/docker/api/types/system"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestShimGrouping checks what containerd's shim groups by, on engines and
// runtimes with and without support.
func TestShimGrouping(t *testing.T) {
	for name, c := range map[string]struct {
		api, handler string
		off          bool
		want         bool
	}{
		"default runtime":        {api: "1.43", want: true},
		"the same by its name":   {api: "1.51", handler: "docker", want: true},
		"another binary":         {api: "1.43", handler: "crun", want: true},
		"runc's shim by type":    {api: "1.43", handler: "typed", want: true},
		"another shim":           {api: "1.43", handler: "kata"},
		"no annotations":         {api: "1.42"},
		"turned off by the node": {api: "1.43", off: true},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, func(n *node) {
				n.cfg.ShimGrouping = !c.off
				n.docker.SetAPIVersion(c.api)
				n.docker.SetInfo(func(i *system.Info) {
					i.Runtimes["crun"] = system.RuntimeWithStatus{Runtime: system.Runtime{Path: "/usr/bin/crun"}}
					i.Runtimes["typed"] = system.RuntimeWithStatus{Runtime: system.Runtime{Type: "io.containerd.runc.v2"}}
					i.Runtimes["kata"] = system.RuntimeWithStatus{Runtime: system.Runtime{Type: "io.containerd.kata.v2"}}
				})
			})
			group := func(id string) string {
				t.Helper()
				r, err := n.call().ContainerInspect(n.ctx, id)
				n.must(err)
				return r.HostConfig.Annotations["io.containerd.runc.v2.group"]
			}
			groups := map[string]bool{}
			for _, name := range []string{"a", "b"} {
				r, err := n.runtime.RunPodSandbox(n.ctx, &runtimeapi.RunPodSandboxRequest{Config: n.podConfig(name), RuntimeHandler: c.handler})
				n.must(err)
				of := group(r.PodSandboxId)
				if (of != "") != c.want {
					t.Errorf("the sandbox's group is %q", of)
				}
				if got := group(n.runContainer(r.PodSandboxId, containerConfig("main", "pause"))); got != of {
					t.Errorf("the container's group is %q, its sandbox's %q", got, of)
				}
				groups[of] = true
			}
			if c.want && len(groups) != 2 {
				t.Errorf("two pods have the groups %v", groups)
			}
		})
	}
}
