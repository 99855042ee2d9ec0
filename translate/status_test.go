package translate

import (
	"maps"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/go-connections/nat"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
)

var podConfig = &runtimeapi.PodSandboxConfig{
	Metadata:     &runtimeapi.PodSandboxMetadata{Name: "p", Namespace: "n", Uid: "u", Attempt: 1},
	LogDirectory: "/logs",
	Labels:       map[string]string{"app": "web"},
	Annotations:  map[string]string{"note": "a \"b\"\nc"},
}

var containerConfig = &runtimeapi.ContainerConfig{
	Metadata:    &runtimeapi.ContainerMetadata{Name: "c", Attempt: 4},
	Image:       &runtimeapi.ImageSpec{Image: "web:1", UserSpecifiedImage: "web"},
	Envs:        []*runtimeapi.KeyValue{{Key: "PASSWORD", Value: []byte("hunter2")}},
	Args:        []string{"--token=hunter2"},
	Labels:      map[string]string{"io.kubernetes.container.name": "c"},
	Annotations: map[string]string{"hash": "1"},
	LogPath:     "c/4.log",
	Mounts: []*runtimeapi.Mount{
		{ContainerPath: "/a", HostPath: "/link", Propagation: runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL},
		{ContainerPath: "/i", Readonly: true, Image: &runtimeapi.ImageSpec{Image: "data"}},
	},
	StopSignal: runtimeapi.Signal_SIGNAL_SIGUSR1,
	Linux:      &runtimeapi.LinuxContainerConfig{Resources: &resources{MemoryLimitInBytes: 64 * mib, OomScoreAdj: -999, Unified: map[string]string{"memory.oom.group": "1"}}},
}

var fullHost = Host{CgroupV2: true, ReadOnlyNonRecursive: true, ImageMounts: true, Seccomp: true, DefaultRuntime: "runc",
	Runtimes: map[string]RuntimeFeatures{"runc": {RecursiveReadOnly: true}, "crun": {}}, MinOOMScoreAdj: -500, PodLogsDir: "/var/log/pods", Seal: testSeal}

// createdSandbox returns the sandbox of podConfig as Docker shows it.
func createdSandbox(t testing.TB) container.InspectResponse {
	t.Helper()
	created, err := DockerSandbox(SandboxRequest{Config: podConfig, RuntimeHandler: "crun", ImageID: pauseID}, fullHost)
	if err != nil {
		t.Fatal(err)
	}
	return inspect(created, sandboxID)
}

func containerRequest(t testing.TB) ContainerRequest {
	t.Helper()
	sandbox, err := ReadSandbox(createdSandbox(t), nil, fullHost)
	if err != nil {
		t.Fatal(err)
	}
	user, err := ResolveUser(nil, "app", []byte(testPasswd), []byte(testGroup))
	if err != nil {
		t.Fatal(err)
	}
	return ContainerRequest{
		Config:  containerConfig,
		Sandbox: sandbox,
		Image:   Image{ID: imageID, Ref: "docker.io/library/web@" + digest, RepoTags: []string{"docker.io/library/web:1"}},
		Mounts:  []ResolvedMount{{Source: "/target"}, {ImageID: "sha256:data"}},
		User:    user,
	}
}

// createdContainer returns the container of containerConfig as Docker shows it.
func createdContainer(t testing.TB) container.InspectResponse {
	t.Helper()
	created, err := DockerContainer(containerRequest(t), fullHost)
	if err != nil {
		t.Fatal(err)
	}
	return inspect(created, containerID)
}

// TestSandboxRoundTrip: the status shows what was requested, whatever labels the
// image adds.
func TestSandboxRoundTrip(t *testing.T) {
	in := createdSandbox(t)
	in.State = &container.State{Status: container.StateRunning, Running: true, Pid: 7, StartedAt: "2026-03-01T10:00:01Z", FinishedAt: zeroTime}
	in.Config.Labels["annotation.maintainer"] = "image"
	in.Config.Labels["vendor"] = "image"
	in.HostConfig.Runtime = "crun"
	s, err := ReadSandbox(in, nil, fullHost)
	if err != nil {
		t.Fatal(err)
	}
	want := &runtimeapi.PodSandboxStatus{
		Id: sandboxID, Metadata: podConfig.Metadata, State: runtimeapi.PodSandboxState_SANDBOX_READY,
		CreatedAt: 1772359200123456789, RuntimeHandler: "crun",
		Network:     &runtimeapi.PodSandboxNetworkStatus{Ip: "10.0.0.2", AdditionalIps: []*runtimeapi.PodIP{{Ip: "fd00::2"}}},
		Linux:       &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{Options: &runtimeapi.NamespaceOption{}}},
		Labels:      podConfig.Labels,
		Annotations: podConfig.Annotations,
	}
	status := CRISandboxStatus(s, true, []string{"10.0.0.2", "fd00::2"})
	if diff := cmp.Diff(want, status, protocmp.Transform()); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	item := CRISandbox(s, true)
	if item.CreatedAt != status.CreatedAt || item.State != status.State || item.RuntimeHandler != status.RuntimeHandler ||
		!maps.Equal(item.Labels, status.Labels) || !maps.Equal(item.Annotations, status.Annotations) {
		t.Errorf("list and status differ: %v, %v", item, status)
	}
	if !proto.Equal(s.Config, podConfig) {
		t.Errorf("config: %v", s.Config)
	}
	if ip := CRISandboxStatus(s, false, []string{"10.0.0.2"}).Network.Ip; ip != "" {
		t.Errorf("a sandbox that is not ready has address %q", ip)
	}
	s.HostNetwork = true
	if ip := CRISandboxStatus(s, true, []string{"10.0.0.2"}).Network.Ip; ip != "" {
		t.Errorf("a sandbox on the host's network has address %q", ip)
	}
}

func TestContainerRoundTrip(t *testing.T) {
	before := proto.CloneOf(containerConfig)
	in := createdContainer(t)
	in.Config.Labels["annotation.maintainer"] = "image"
	in.State = &container.State{Status: container.StateRunning, Running: true, Pid: 7, StartedAt: "2026-03-01T10:00:01Z", FinishedAt: zeroTime}
	c, err := ReadContainer(in, nil, fullHost)
	if err != nil {
		t.Fatal(err)
	}
	mounts := proto.CloneOf(containerConfig).Mounts
	mounts[0].HostPath = "/target"
	mounts[1].Image = &runtimeapi.ImageSpec{Image: "sha256:data", ImageRef: "sha256:data"}
	limits := proto.CloneOf(containerConfig.Linux.Resources)
	limits.MemorySwapLimitInBytes = limits.MemoryLimitInBytes
	want := &runtimeapi.ContainerStatus{
		Id: containerID, Metadata: containerConfig.Metadata, State: runtimeapi.ContainerState_CONTAINER_RUNNING,
		CreatedAt: 1772359200123456789, StartedAt: 1772359201000000000,
		Image:    &runtimeapi.ImageSpec{Image: "web:1", UserSpecifiedImage: "web"},
		ImageRef: "docker.io/library/web@" + digest, ImageId: imageID,
		Labels: containerConfig.Labels, Annotations: containerConfig.Annotations,
		Mounts: mounts, LogPath: "/logs/c/4.log", StopSignal: runtimeapi.Signal_SIGNAL_SIGUSR1,
		Resources: &runtimeapi.ContainerResources{Linux: limits},
		User:      &runtimeapi.ContainerUser{Linux: &runtimeapi.LinuxContainerUser{Uid: 1000, Gid: 1001, SupplementalGroups: []int64{10, 29, 1001}}},
	}
	status := CRIContainerStatus(c)
	if diff := cmp.Diff(want, status, protocmp.Transform()); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	item := CRIContainer(c)
	if item.CreatedAt != status.CreatedAt || item.State != status.State || item.ImageId != status.ImageId || item.ImageRef != status.ImageRef ||
		!proto.Equal(item.Image, status.Image) || item.PodSandboxId != sandboxID || !maps.Equal(item.Labels, status.Labels) {
		t.Errorf("list and status differ: %v, %v", item, status)
	}
	for key, value := range in.Config.Labels {
		if strings.Contains(value, "hunter2") {
			t.Errorf("label %s holds environment or arguments", key)
		}
	}
	if in.HostConfig.OomScoreAdj != -500 {
		t.Errorf("oom_score_adj is %d, the node allows -500", in.HostConfig.OomScoreAdj)
	}
	if !proto.Equal(before, containerConfig) {
		t.Error("the request was changed")
	}
}

func TestContainerState(t *testing.T) {
	const start, finish = "2026-03-01T10:00:01Z", "2026-03-01T10:00:02Z"
	const created, started, finished = 1772359200123456789, 1772359201000000000, 1772359202000000000
	type state = container.State
	for name, tc := range map[string]struct {
		in   state
		want Container
	}{
		"created": {state{Status: "created"}, Container{State: runtimeapi.ContainerState_CONTAINER_CREATED}},
		"running: the times and codes of an earlier run do not show": {
			state{Status: "running", Running: true, Pid: 5, ExitCode: 3, Error: "old", StartedAt: start, FinishedAt: start},
			Container{State: runtimeapi.ContainerState_CONTAINER_RUNNING, Pid: 5, StartedAt: started}},
		"paused is running": {state{Status: "paused", Running: true, Paused: true, Pid: 5, StartedAt: start},
			Container{State: runtimeapi.ContainerState_CONTAINER_RUNNING, Pid: 5, StartedAt: started}},
		"exit 0 is Completed": {state{Status: "exited", StartedAt: start, FinishedAt: finish},
			Container{State: runtimeapi.ContainerState_CONTAINER_EXITED, StartedAt: started, FinishedAt: finished, Reason: "Completed"}},
		"a run that ended before dockerd noted its start": {state{Status: "exited", StartedAt: finish, FinishedAt: start},
			Container{State: runtimeapi.ContainerState_CONTAINER_EXITED, StartedAt: finished, FinishedAt: finished, Reason: "Completed"}},
		"another exit is Error": {state{Status: "exited", ExitCode: 3, StartedAt: start, FinishedAt: finish},
			Container{State: runtimeapi.ContainerState_CONTAINER_EXITED, StartedAt: started, FinishedAt: finished, ExitCode: 3, Reason: "Error"}},
		"out of memory goes before the code": {state{Status: "exited", ExitCode: 137, OOMKilled: true, StartedAt: start, FinishedAt: finish},
			Container{State: runtimeapi.ContainerState_CONTAINER_EXITED, StartedAt: started, FinishedAt: finished, ExitCode: 137, OOMKilled: true, Reason: "OOMKilled"}},
		"a failed start has exited": {state{Status: "created", ExitCode: 127, Error: "no such file", StartedAt: zeroTime, FinishedAt: zeroTime},
			Container{State: runtimeapi.ContainerState_CONTAINER_EXITED, StartedAt: created, FinishedAt: created, ExitCode: 127, StartFailed: true, Reason: "ContainerCannotRun", Message: "no such file"}},
		"a failed start without a code is 128": {state{Status: "created", Error: "cannot join", StartedAt: zeroTime},
			Container{State: runtimeapi.ContainerState_CONTAINER_EXITED, StartedAt: created, FinishedAt: created, ExitCode: 128, StartFailed: true, Reason: "ContainerCannotRun", Message: "cannot join"}},
		"removing has exited, never unknown": {state{Status: "removing", StartedAt: start, FinishedAt: finish},
			Container{State: runtimeapi.ContainerState_CONTAINER_EXITED, StartedAt: started, FinishedAt: finished, Reason: "Completed"}},
		"dead has exited": {state{Status: "dead", Dead: true, ExitCode: 1, StartedAt: start, FinishedAt: finish},
			Container{State: runtimeapi.ContainerState_CONTAINER_EXITED, StartedAt: started, FinishedAt: finished, ExitCode: 1, Reason: "Error"}},
		"removed without ever having run": {state{Status: "removing", StartedAt: zeroTime, FinishedAt: zeroTime},
			Container{State: runtimeapi.ContainerState_CONTAINER_EXITED, FinishedAt: created, Reason: "Completed"}},
	} {
		t.Run(name, func(t *testing.T) {
			in := createdContainer(t)
			in.State = &tc.in
			c, err := ReadContainer(in, nil, fullHost)
			if err != nil {
				t.Fatal(err)
			}
			got := Container{State: c.State, StartedAt: c.StartedAt, FinishedAt: c.FinishedAt, ExitCode: c.ExitCode, Pid: c.Pid,
				Reason: c.Reason, Message: c.Message, OOMKilled: c.OOMKilled, StartFailed: c.StartFailed}
			if diff := cmp.Diff(tc.want, got, cmpopts.IgnoreUnexported(Container{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestAdoption reads what dockershim and cri-dockerd leave in Docker.
func TestAdoption(t *testing.T) {
	base := func(id, name string, labels map[string]string) container.InspectResponse {
		return container.InspectResponse{
			ContainerJSONBase: &container.ContainerJSONBase{
				ID: id, Name: name, Created: "2026-03-01T10:00:00Z", Image: imageID, LogPath: "/docker/json.log",
				State:      &container.State{Status: container.StateRunning, Running: true, StartedAt: "2026-03-01T10:00:00Z"},
				HostConfig: &container.HostConfig{NetworkMode: "none", IpcMode: "shareable", Runtime: "runc"},
			},
			Config: &container.Config{Labels: labels, Image: "web@" + digest, StopSignal: "37"},
		}
	}
	in := base(sandboxID, "/k8s_POD_p_n_u_2_0a1b2c3d", map[string]string{
		LabelType: "podsandbox", LabelContainerName: "POD", LabelPodName: "p", LabelPodNamespace: "n", LabelPodUID: "u",
		"app": "web", "annotation.kubernetes.io/config.source": "api",
	})
	in.NetworkSettings = &container.NetworkSettings{Networks: map[string]*network.EndpointSettings{
		"b": {GlobalIPv6Address: "fd00::3", IPAddress: "172.17.0.3"}, "a": {IPAddress: "172.18.0.3"}, "nil": nil,
	}}
	in.HostConfig.PortBindings = nat.PortMap{
		"80/tcp":    {{HostPort: "8080"}, {HostIP: "127.0.0.1", HostPort: "8081"}},
		"53/udp":    {{HostPort: "5353"}},
		"9/dccp":    {{HostPort: "9"}},
		"7070/sctp": {{HostPort: "0"}, {HostPort: ""}, {HostPort: "70-80"}},
	}
	s, err := ReadSandbox(in, nil, fullHost)
	if err != nil {
		t.Fatal(err)
	}
	ports := []*runtimeapi.PortMapping{
		{Protocol: runtimeapi.Protocol_UDP, ContainerPort: 53, HostPort: 5353},
		{ContainerPort: 80, HostPort: 8080},
		{ContainerPort: 80, HostPort: 8081, HostIp: "127.0.0.1"},
	}
	if diff := cmp.Diff(ports, s.PortMappings, protocmp.Transform()); diff != "" {
		t.Errorf("port mappings (-want +got):\n%s", diff)
	}
	want := &runtimeapi.PodSandbox{
		Id: sandboxID, Metadata: &runtimeapi.PodSandboxMetadata{Name: "p", Namespace: "n", Uid: "u", Attempt: 2},
		State: runtimeapi.PodSandboxState_SANDBOX_READY, CreatedAt: 1772359200000000000,
		Labels:      map[string]string{LabelPodName: "p", LabelPodNamespace: "n", LabelPodUID: "u", "app": "web"},
		Annotations: map[string]string{"kubernetes.io/config.source": "api"},
	}
	if diff := cmp.Diff(want, CRISandbox(s, true), protocmp.Transform()); diff != "" {
		t.Errorf("sandbox (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"172.18.0.3", "172.17.0.3", "fd00::3"}, s.DockerIPs); diff != "" || s.Config != nil {
		t.Errorf("addresses %s, config %v", diff, s.Config)
	}

	in = base(containerID, "/k8s_c_p_n_u_5", map[string]string{
		LabelType: "container", LabelSandboxID: sandboxID, LabelLogPath: "/var/log/pods/c.log", LabelContainerName: "c", LabelPodName: "p",
		"annotation.io.kubernetes.container.hash": "9",
	})
	in.HostConfig.Binds = []string{"/h:/c:ro,rslave", "/h2:/c2"}
	in.HostConfig.Mounts = []mount.Mount{{Source: "/h3", Target: "/c3", ReadOnly: true, BindOptions: &mount.BindOptions{Propagation: mount.PropagationRShared}}}
	in.HostConfig.Memory = 9
	c, err := ReadContainer(in, &Image{}, fullHost)
	if err != nil {
		t.Fatal(err)
	}
	status := CRIContainerStatus(c)
	wantStatus := &runtimeapi.ContainerStatus{
		Id: containerID, Metadata: &runtimeapi.ContainerMetadata{Name: "c", Attempt: 5}, State: runtimeapi.ContainerState_CONTAINER_RUNNING,
		CreatedAt: 1772359200000000000, StartedAt: 1772359200000000000,
		Image: &runtimeapi.ImageSpec{Image: "web@" + digest}, ImageRef: "docker.io/library/web@" + digest, ImageId: imageID,
		Labels:      map[string]string{LabelContainerName: "c", LabelPodName: "p"},
		Annotations: map[string]string{"io.kubernetes.container.hash": "9"},
		Mounts: []*runtimeapi.Mount{
			{HostPath: "/h", ContainerPath: "/c", Readonly: true, Propagation: runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER},
			{HostPath: "/h2", ContainerPath: "/c2"},
			{HostPath: "/h3", ContainerPath: "/c3", Readonly: true, Propagation: runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL},
		},
		LogPath: "/var/log/pods/c.log", StopSignal: runtimeapi.Signal_SIGNAL_SIGRTMINPLUS3,
		Resources: &runtimeapi.ContainerResources{Linux: &resources{MemoryLimitInBytes: 9}},
	}
	if diff := cmp.Diff(wantStatus, status, protocmp.Transform()); diff != "" {
		t.Errorf("container (-want +got):\n%s", diff)
	}
}

func TestIsKubernetes(t *testing.T) {
	for name, tc := range map[string]struct {
		labels map[string]string
		name   string
		want   Kind
	}{
		"dockershim's sandbox":                    {map[string]string{LabelType: "podsandbox"}, "/k8s_POD_p_n_u_0", KindSandbox},
		"dockershim's container":                  {map[string]string{LabelType: "container"}, "k8s_c_p_n_u_0", KindContainer},
		"another name":                            {map[string]string{LabelType: "container", LabelConfig: "{}", LabelSeal: "x"}, "other", ""},
		"a user's container":                      {nil, "web", ""},
		"a user's container with a copied label":  {map[string]string{LabelType: "container"}, "web", ""},
		"a name alone":                            {nil, "k8s_c_p_n_u_0", ""},
		"a sandbox's name with a container label": {map[string]string{LabelType: "container"}, "k8s_POD_p_n_u_0", ""},
		"another type":                            {map[string]string{LabelType: "volume", LabelConfig: "{}"}, "k8s_c_p_n_u_0", ""},
	} {
		if got, ok := IsKubernetes(tc.labels, tc.name); got != tc.want || ok != (tc.want != "") {
			t.Errorf("%s: %q, %v", name, got, ok)
		}
	}
}

func TestReadRefuses(t *testing.T) {
	committed := createdContainer(t)
	committed.Name, committed.Image, committed.Config.Image = "/happy_darwin", "sha256:other", "my-image"
	newer := createdContainer(t)
	newer.Config.Labels[LabelConfig] = `{"version":99}`
	seal(newer)
	broken := createdContainer(t)
	broken.Config.Labels[LabelConfig] = `{`
	seal(broken)
	for name, tc := range map[string]struct {
		in    container.InspectResponse
		class func(error) bool
	}{
		"an empty answer":             {container.InspectResponse{}, errdefs.IsDataLoss},
		"an answer without its parts": {container.InspectResponse{ContainerJSONBase: &container.ContainerJSONBase{}}, errdefs.IsDataLoss},
		"a sandbox":                   {createdSandbox(t), errdefs.IsNotFound},
		"a container run from a committed container": {committed, errdefs.IsNotFound},
		"a record of a version from the future":      {newer, errdefs.IsFailedPrecondition},
		"a record that is no JSON":                   {broken, errdefs.IsDataLoss},
	} {
		if got, err := ReadContainer(tc.in, nil, fullHost); !tc.class(err) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if _, err := ReadSandbox(createdContainer(t), nil, fullHost); !errdefs.IsNotFound(err) {
		t.Errorf("a container read as a sandbox: %v", err)
	}
}

func TestFilters(t *testing.T) {
	s := &Sandbox{ID: sandboxID, Labels: map[string]string{"app": "web", "empty": ""}}
	ready := &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY}
	for name, tc := range map[string]struct {
		f    *runtimeapi.PodSandboxFilter
		want bool
	}{
		"nil selects all":              {nil, true},
		"the whole ID":                 {&runtimeapi.PodSandboxFilter{Id: sandboxID}, true},
		"the beginning of the ID":      {&runtimeapi.PodSandboxFilter{Id: sandboxID[:8]}, true},
		"another ID":                   {&runtimeapi.PodSandboxFilter{Id: "ffff"}, false},
		"the state":                    {&runtimeapi.PodSandboxFilter{State: ready}, true},
		"a label":                      {&runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"app": "web"}}, true},
		"a label of another value":     {&runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"app": "db"}}, false},
		"labels are joined by and":     {&runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"app": "web", "x": "y"}}, false},
		"an absent label is not empty": {&runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"x": ""}}, false},
	} {
		if got := MatchSandbox(s, true, tc.f); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if MatchSandbox(s, false, &runtimeapi.PodSandboxFilter{State: ready}) {
		t.Error("a sandbox that is not ready matches READY")
	}
	c := &Container{ID: containerID, SandboxID: sandboxID, State: runtimeapi.ContainerState_CONTAINER_EXITED}
	exited := &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_EXITED}
	running := &runtimeapi.ContainerStateValue{}
	for f, want := range map[*runtimeapi.ContainerFilter]bool{
		nil: true,
		{Id: containerID[:5], PodSandboxId: sandboxID, State: exited}:                                true,
		{State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}}: false,
		{State: running}:       false,
		{PodSandboxId: "ffff"}: false,
		{Id: sandboxID}:        false,
	} {
		if got := MatchContainer(c, f); got != want {
			t.Errorf("%v: %v", f, got)
		}
	}
}
