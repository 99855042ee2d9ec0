package translate

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"google.golang.org/protobuf/proto"
)

// FuzzNames: for any metadata, Docker accepts the name, it is parsed as the
// same kind, and plain parts are unchanged.
func FuzzNames(f *testing.F) {
	f.Add("c", "web-0", "shop", "u-1", uint32(3))
	f.Add("POD", "a_b", "", "\x00", uint32(0))
	f.Fuzz(func(t *testing.T, c, pod, namespace, uid string, attempt uint32) {
		s := &runtimeapi.PodSandboxMetadata{Name: pod, Namespace: namespace, Uid: uid, Attempt: attempt}
		for kind, name := range map[Kind]string{
			KindSandbox:   SandboxName(s),
			KindContainer: ContainerName(&runtimeapi.ContainerMetadata{Name: c, Attempt: attempt}, s),
		} {
			if !dockerName.MatchString(name) || len(name) > 1100 {
				t.Fatalf("%q is no name for Docker", name)
			}
			if pod == "" || c == "" {
				continue
			}
			parsed, err := ParseName(name)
			if err != nil || parsed.Attempt != attempt {
				t.Fatalf("%q: %+v, %v", name, parsed, err)
			}
			if namePart(pod) == pod && parsed.Pod != pod {
				t.Fatalf("%q: pod %q, want %q", name, parsed.Pod, pod)
			}
			if got, ok := IsKubernetes(map[string]string{LabelType: string(kind)}, "/"+name); !ok || got != kind {
				t.Fatalf("%q: %q, %v", name, got, ok)
			}
		}
	})
}

// FuzzLabels: labels and annotations of a pod are read back unchanged, even with
// keys used internally and next to those of an image.
func FuzzLabels(f *testing.F) {
	f.Add("app", "web", "note", "x", "maintainer")
	f.Add(LabelConfig, "{}", LabelType, "container", "annotation.note")
	f.Fuzz(func(t *testing.T, key, value, annotation, text, imageLabel string) {
		cfg := proto.CloneOf(podConfig)
		cfg.Labels = map[string]string{key: value}
		cfg.Annotations = map[string]string{annotation: text}
		created, err := DockerSandbox(SandboxRequest{Config: cfg, ImageID: pauseID}, fullHost)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) || (key != "" && annotation != "" && allUTF8(key, value, annotation, text)) {
				t.Fatalf("refused: %v", err)
			}
			return
		}
		in := inspect(created, sandboxID)
		if _, ok := in.Config.Labels[imageLabel]; !ok {
			in.Config.Labels[imageLabel] = "image"
		}
		s, err := ReadSandbox(in, nil, fullHost)
		if err != nil {
			t.Fatal(err)
		}
		if s.Labels[key] != value || s.Annotations[annotation] != text || len(s.Labels) != 1 || len(s.Annotations) != 1 {
			t.Fatalf("labels %q, annotations %q", s.Labels, s.Annotations)
		}
	})
}

// FuzzSandbox and FuzzContainer decode any protobuf: a refusal has an error class,
// and an accepted request can be sent and read back.
func FuzzSandbox(f *testing.F) {
	seed, _ := proto.Marshal(podConfig)
	f.Add(seed, "", true)
	f.Fuzz(func(t *testing.T, raw []byte, handler string, v2 bool) {
		cfg := new(runtimeapi.PodSandboxConfig)
		if proto.Unmarshal(raw, cfg) != nil {
			return
		}
		host := fullHost
		host.CgroupV2, host.Annotations = v2, v2
		created, err := DockerSandbox(SandboxRequest{Config: cfg, RuntimeHandler: handler, ImageID: pauseID, Network: "bridge"}, host)
		_, _ = CNIRuntimeConf(cfg, sandboxID, "")
		ResolvConf(cfg.GetDnsConfig())
		if err != nil {
			classified(t, err)
			return
		}
		sendable(t, created)
		s, err := ReadSandbox(inspect(created, sandboxID), nil, host)
		if err != nil {
			t.Fatal(err)
		}
		want := cfg.GetMetadata()
		if s.Metadata.Name != want.Name || s.Metadata.Namespace != want.Namespace || s.Metadata.Uid != want.Uid || s.Metadata.Attempt != want.Attempt {
			t.Fatalf("metadata %v became %v", want, s.Metadata)
		}
	})
}

func FuzzContainer(f *testing.F) {
	seed, _ := proto.Marshal(containerConfig)
	f.Add(seed, "app:staff", []byte(testPasswd), []byte(testGroup), true)
	sandbox, err := ReadSandbox(createdSandbox(f), nil, fullHost)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw []byte, imageUser string, passwd, group []byte, v2 bool) {
		cfg := new(runtimeapi.ContainerConfig)
		if proto.Unmarshal(raw, cfg) != nil {
			return
		}
		host := fullHost
		host.CgroupV2, host.CDI = v2, v2
		sc := cfg.GetLinux().GetSecurityContext()
		user, err := ResolveUser(sc, imageUser, passwd, group)
		if err != nil {
			classified(t, err)
			user = User{Docker: "0:0"}
		}
		created, err := DockerContainer(ContainerRequest{
			Config: cfg, Sandbox: sandbox, Image: Image{ID: imageID}, User: user, Mounts: make([]ResolvedMount, len(cfg.GetMounts())),
		}, host)
		if err != nil {
			classified(t, err)
			return
		}
		sendable(t, created)
		for _, file := range CgroupFiles(cfg.GetLinux().GetResources(), host) {
			if strings.Contains(file.Name, "/") || strings.HasPrefix(file.Name, "cgroup.") {
				t.Fatalf("%q would be written", file.Name)
			}
		}
		c, err := ReadContainer(inspect(created, containerID), nil, host)
		if err != nil {
			t.Fatal(err)
		}
		if want := cfg.GetMetadata(); c.Metadata.Name != want.Name || c.Metadata.Attempt != want.Attempt {
			t.Fatalf("metadata %v became %v", cfg.GetMetadata(), c.Metadata)
		}
		c.State = runtimeapi.ContainerState_CONTAINER_RUNNING
		if _, err := DockerUpdate(cfg.GetLinux().GetResources(), c, host); err != nil {
			classified(t, err)
		}
		CRIContainerStatus(c)
	})
}

// FuzzImage: the normal form of an accepted reference is its own normal form.
func FuzzImage(f *testing.F) {
	for _, seed := range []string{"busybox", "r.io:5000/a/b:1@" + digest, digest, "docker-pullable://web@" + digest, strings.Repeat("a", 12)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		ref, err := NormalizeImage(text)
		if err != nil {
			classified(t, err)
			return
		}
		again, err := NormalizeImage(ref.String())
		if err != nil || again.String() != ref.String() {
			t.Fatalf("%q is %q is %q, %v", text, ref, again, err)
		}
		if ref.ID == "" && (ref.PullTag() == "" || ref.Registry() == "") {
			t.Fatalf("%q can't be pulled: %+v", text, ref)
		}
	})
}

// FuzzInspect: no response of an engine makes the readers panic.
func FuzzInspect(f *testing.F) {
	seed, _ := json.Marshal(createdContainer(f))
	f.Add(seed)
	f.Add([]byte(`{"Id":"x","State":{},"HostConfig":{},"Config":{"Labels":{"io.kubernetes.docker.type":"podsandbox"}},"Name":"/k8s_POD_a_b_c_0"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var in container.InspectResponse
		if json.Unmarshal(raw, &in) != nil {
			return
		}
		if s, err := ReadSandbox(in, &Image{}, fullHost); err == nil {
			CRISandboxStatus(s, true, s.DockerIPs)
			CRISandbox(s, false)
		}
		if c, err := ReadContainer(in, &Image{}, fullHost); err == nil {
			CRIContainerStatus(c)
			CRIContainer(c)
		}
	})
}

func allUTF8(texts ...string) bool {
	return !slices.ContainsFunc(texts, func(s string) bool { return !utf8.ValidString(s) })
}

func classified(t *testing.T, err error) {
	t.Helper()
	classes := []func(error) bool{errdefs.IsInvalidArgument, errdefs.IsFailedPrecondition}
	if !slices.ContainsFunc(classes, func(is func(error) bool) bool { return is(err) }) {
		t.Fatalf("no class: %v", err)
	}
}

func sendable(t *testing.T, created *Create) {
	t.Helper()
	if _, err := json.Marshal(created); err != nil {
		t.Fatal(err)
	}
	if !dockerName.MatchString(created.Name) {
		t.Fatalf("%q is no name for Docker", created.Name)
	}
}

func BenchmarkDockerContainer(b *testing.B) {
	req := containerRequest(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DockerContainer(req, fullHost); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReadContainer(b *testing.B) {
	in := createdContainer(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ReadContainer(in, nil, fullHost); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCRIContainerStatus(b *testing.B) {
	c, err := ReadContainer(createdContainer(b), nil, fullHost)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		CRIContainerStatus(c)
	}
}
