package translate

import (
	"maps"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"google.golang.org/protobuf/proto"

	"github.com/cridock/cridock/internal/seam"
)

// rdtHost is a node whose pods may name two RDT classes.
func rdtHost() Host {
	h := exampleHost
	h.Settings.RDTClasses = []string{"silver", "gold"}
	h.Runtimes = maps.Clone(h.Runtimes)
	for _, name := range []string{"runc", "crun"} {
		features := h.Runtimes[name]
		features.SeamRDT = true
		h.Runtimes[name] = features
	}
	return h
}

// annotated is a request for a container with annotations, in a pod with others.
func annotated(t *testing.T, pod, own map[string]string) ContainerRequest {
	t.Helper()
	req := containerRequest(t)
	sandbox := *req.Sandbox
	sandbox.Annotations = pod
	req.Sandbox, req.Config = &sandbox, proto.CloneOf(req.Config)
	req.Config.Annotations = own
	return req
}

func TestRDTClass(t *testing.T) {
	type annotations = map[string]string
	name := containerRequest(t).Config.GetMetadata().GetName()
	forPod, forContainer := "rdt.resources.beta.kubernetes.io/pod", "rdt.resources.beta.kubernetes.io/container."
	monitored := &Adjustment{Spec: &seam.Spec{IntelRdt: &specs.LinuxIntelRdt{EnableMonitoring: true}, IOPriority: &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_IDLE}}}
	for what, tc := range map[string]struct {
		pod, own   annotations
		adjustment *Adjustment
		want       *specs.LinuxIntelRdt
	}{
		"no annotation":          {annotations{forContainer + "other": "gold"}, annotations{forPod: "gold"}, nil, nil},
		"the pod's":              {annotations{forPod: "gold"}, nil, nil, &specs.LinuxIntelRdt{ClosID: "gold"}},
		"the container's by pod": {annotations{forPod: "gold", forContainer + name: "silver"}, nil, nil, &specs.LinuxIntelRdt{ClosID: "silver"}},
		"the container's":        {annotations{forContainer + name: "silver"}, annotations{"io.kubernetes.cri.rdt-class": "gold"}, nil, &specs.LinuxIntelRdt{ClosID: "gold"}},
		"none for the container": {annotations{forPod: "gold", forContainer + name: ""}, nil, nil, nil},
		"a plugin's":             {annotations{forPod: "none"}, nil, &Adjustment{Spec: &seam.Spec{IntelRdt: &specs.LinuxIntelRdt{ClosID: "own"}}}, &specs.LinuxIntelRdt{ClosID: "own"}},
		"removed by a plugin":    {annotations{forPod: "none"}, nil, &Adjustment{NoRDTClass: true}, nil},
		"a plugin adds to it":    {annotations{forPod: "gold"}, nil, monitored, &specs.LinuxIntelRdt{ClosID: "gold", EnableMonitoring: true}},
	} {
		t.Run(what, func(t *testing.T) {
			req := annotated(t, tc.pod, tc.own)
			req.Adjustment = tc.adjustment
			created, err := DockerContainer(req, rdtHost())
			if err != nil {
				t.Fatal(err)
			}
			var got *specs.LinuxIntelRdt
			if created.Seam != nil {
				got = created.Seam.Record.Spec.IntelRdt
			}
			if diff := cmp.Diff(tc.want, got); diff != "" || (created.HostConfig.Runtime == "cridock") != (tc.want != nil) {
				t.Errorf("with runtime %q: %s", created.HostConfig.Runtime, diff)
			}
			if tc.adjustment == monitored && (monitored.Spec.IntelRdt.ClosID != "" || created.Seam.Record.Spec.IOPriority == nil) {
				t.Errorf("the adjustment is %+v, the record's %+v", monitored.Spec.IntelRdt, created.Seam.Record.Spec)
			}
		})
	}
}

// TestRDTClassRefused: a class that a pod may not name, or that nobody would set, is an
// error.
func TestRDTClassRefused(t *testing.T) {
	for what, tc := range map[string]struct {
		class   string
		change  func(*Host)
		invalid bool
		want    string
	}{
		"unknown":                 {"../gold", func(*Host) {}, true, `["gold" "silver"]`},
		"no classes":              {"gold", func(h *Host) { h.Settings.RDTClasses = nil }, false, "set rdt-classes"},
		"without cridock-runtime": {"gold", func(h *Host) { h.SeamRuntime = "" }, false, "cridock runtime install"},
		"an old runtime":          {"gold", func(h *Host) { h.Runtimes = exampleHost.Runtimes }, false, "such as runc 1.2"},
	} {
		t.Run(what, func(t *testing.T) {
			host := rdtHost()
			tc.change(&host)
			created, err := DockerContainer(annotated(t, map[string]string{"rdt.resources.beta.kubernetes.io/pod": tc.class}, nil), host)
			if errdefs.IsInvalidArgument(err) != tc.invalid || errdefs.IsFailedPrecondition(err) == tc.invalid ||
				!strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), `annotations["rdt.resources`) {
				t.Errorf("%+v, %v", created, err)
			}
		})
	}
}

func TestValidateRDTClass(t *testing.T) {
	for name, valid := range map[string]bool{
		"gold": true, "a.b_c-1": true, "": false, ".": false, "..": false, "/": false, "a/b": false, "../x": false, "a\nb": false, "a\x00": false,
		"info": false, "mon_groups": false, "mon_data": false,
	} {
		if err := ValidateRDTClass(name); (err == nil) != valid {
			t.Errorf("%q: %v", name, err)
		}
	}
}
