package translate

import (
	"regexp"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// dockerName is what Docker accepts as a container's name.
var dockerName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)

func TestNames(t *testing.T) {
	pod := &runtimeapi.PodSandboxMetadata{Name: "web-0", Namespace: "shop", Uid: "u-1", Attempt: 2}
	if got, want := SandboxName(pod), "k8s_POD_web-0_shop_u-1_2"; got != want {
		t.Errorf("sandbox: %q, want %q", got, want)
	}
	c := &runtimeapi.ContainerMetadata{Name: "nginx", Attempt: 7}
	if got, want := ContainerName(c, pod), "k8s_nginx_web-0_shop_u-1_7"; got != want {
		t.Errorf("container: %q, want %q", got, want)
	}
	names := map[string]string{}
	for rule, name := range map[string]string{
		"a plain pod":                          SandboxName(pod),
		"a container named like the sandbox's": ContainerName(&runtimeapi.ContainerMetadata{Name: "POD", Attempt: 2}, pod),
		"an underscore":                        SandboxName(&runtimeapi.PodSandboxMetadata{Name: "a_b"}),
		"a slash":                              SandboxName(&runtimeapi.PodSandboxMetadata{Name: "a/b"}),
		"a hyphen":                             SandboxName(&runtimeapi.PodSandboxMetadata{Name: "a-b"}),
		"parts shifted by an underscore":       SandboxName(&runtimeapi.PodSandboxMetadata{Name: "a", Namespace: "b_"}),
		"not ASCII":                            SandboxName(&runtimeapi.PodSandboxMetadata{Name: "größe"}),
		"too long":                             SandboxName(&runtimeapi.PodSandboxMetadata{Name: strings.Repeat("x", 100000)}),
		"too long by another character":        SandboxName(&runtimeapi.PodSandboxMetadata{Name: strings.Repeat("x", 100001)}),
		"nothing at all":                       SandboxName(nil),
	} {
		if !dockerName.MatchString(name) || len(name) > 1000 {
			t.Errorf("%s: %q is no name for Docker", rule, name)
		}
		if other, ok := names[name]; ok {
			t.Errorf("%s and %s have the same name %q", rule, other, name)
		}
		names[name] = rule
	}
}

func TestParseName(t *testing.T) {
	want := Name{Container: "c", Pod: "p", Namespace: "n", UID: "u", Attempt: 3}
	for rule, tc := range map[string]struct {
		in   string
		want *Name
	}{
		"six parts":                      {"k8s_c_p_n_u_3", &want},
		"a leading slash":                {"/k8s_c_p_n_u_3", &want},
		"seven parts after a conflict":   {"k8s_c_p_n_u_3_0a1b2c3d", &want},
		"an empty uid":                   {"k8s_c_p__", nil},
		"empty namespace and uid":        {"k8s_c_p___3", &Name{Container: "c", Pod: "p", Attempt: 3}},
		"another prefix":                 {"k9s_c_p_n_u_3", nil},
		"no container":                   {"k8s__p_n_u_3", nil},
		"eight parts":                    {"k8s_c_p_n_u_3_a_b", nil},
		"an attempt that is no number":   {"k8s_c_p_n_u_x", nil},
		"an attempt that does not fit":   {"k8s_c_p_n_u_4294967296", nil},
		"a name of someone else's":       {"happy_darwin", nil},
		"a negative attempt":             {"k8s_c_p_n_u_-1", nil},
		"the empty string":               {"", nil},
		"very old names are not adopted": {"k8s_c.a1b2_p_n_u_a1b2c3d4", nil},
	} {
		t.Run(rule, func(t *testing.T) {
			got, err := ParseName(tc.in)
			if tc.want == nil {
				if !errdefs.IsInvalidArgument(err) {
					t.Fatalf("got %+v, %v", got, err)
				}
				return
			}
			if diff := cmp.Diff(*tc.want, got); err != nil || diff != "" {
				t.Errorf("%v %s", err, diff)
			}
		})
	}
}

func TestSignals(t *testing.T) {
	for value := range runtimeapi.Signal_name {
		signal := runtimeapi.Signal(value)
		if signal == runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT {
			continue
		}
		if got := CRISignal(DockerSignal(signal)); got != signal {
			t.Errorf("%s becomes %q becomes %s", signal, DockerSignal(signal), got)
		}
	}
	for docker, want := range map[string]runtimeapi.Signal{
		"":            runtimeapi.Signal_SIGNAL_SIGTERM,
		"term":        runtimeapi.Signal_SIGNAL_SIGTERM,
		"SIGQUIT":     runtimeapi.Signal_SIGNAL_SIGQUIT,
		"9":           runtimeapi.Signal_SIGNAL_SIGKILL,
		"37":          runtimeapi.Signal_SIGNAL_SIGRTMINPLUS3,
		"49":          runtimeapi.Signal_SIGNAL_SIGRTMINPLUS15,
		"50":          runtimeapi.Signal_SIGNAL_SIGRTMAXMINUS14,
		"64":          runtimeapi.Signal_SIGNAL_SIGRTMAX,
		"RTMIN+3":     runtimeapi.Signal_SIGNAL_SIGRTMINPLUS3,
		"SIGRTMAX-14": runtimeapi.Signal_SIGNAL_SIGRTMAXMINUS14,
		"32":          runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT,
		"65":          runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT,
		"-1":          runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT,
		"SIGNONSENSE": runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT,
	} {
		if got := CRISignal(docker); got != want {
			t.Errorf("%q is %s, want %s", docker, got, want)
		}
	}
	if got := DockerSignal(runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT); got != "" {
		t.Errorf("the default is %q", got)
	}
	if got := DockerSignal(9999); got != "" {
		t.Errorf("an unknown signal is %q", got)
	}
}
