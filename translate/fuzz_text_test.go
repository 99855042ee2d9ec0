package translate

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	cdi "tags.cncf.io/container-device-interface/specs-go"

	"google.golang.org/protobuf/proto"
)

// FuzzParseName: a parsed name consists of its parts, and its kind is the label's.
func FuzzParseName(f *testing.F) {
	f.Add("/k8s_POD_web-0_shop_u-1_3")
	f.Add("k8s_c_web-0_shop_u-1_0_deadbeef")
	f.Add("k8s_c__shop__4294967295")
	f.Fuzz(func(t *testing.T, text string) {
		name, err := ParseName(text)
		if err != nil {
			classified(t, err)
			if kind, ok := IsKubernetes(map[string]string{LabelType: string(KindContainer)}, text); ok {
				t.Fatalf("%q is no name, but of a %s", text, kind)
			}
			return
		}
		if name.Container == "" || name.Pod == "" {
			t.Fatalf("%q: %+v", text, name)
		}
		want := strings.Split(strings.TrimPrefix(text, "/"), "_")[1:5]
		if got := []string{name.Container, name.Pod, name.Namespace, name.UID}; !slices.Equal(got, want) {
			t.Fatalf("%q: %q, want %q", text, got, want)
		}
		_, sandbox := IsKubernetes(map[string]string{LabelType: string(KindSandbox)}, text)
		_, ctr := IsKubernetes(map[string]string{LabelType: string(KindContainer)}, text)
		if sandbox == ctr || sandbox != (name.Container == "POD") {
			t.Fatalf("%q: sandbox %v, container %v", text, sandbox, ctr)
		}
	})
}

// FuzzRecord: a decoded record can be encoded again with the same meaning; a refusal
// has an error class.
func FuzzRecord(f *testing.F) {
	f.Add(createdContainer(f).Config.Labels[LabelConfig])
	f.Add(createdSandbox(f).Config.Labels[LabelConfig])
	f.Add(`{"version":1,"config":null,"user":{"uid":-1}}`)
	f.Add(`{"version":2,"config":{}}`)
	f.Fuzz(func(t *testing.T, text string) {
		cfg := new(runtimeapi.ContainerConfig)
		rec, err := decodeRecord(map[string]string{LabelConfig: text}, cfg)
		if err != nil {
			if !errdefs.IsDataLoss(err) && !errdefs.IsFailedPrecondition(err) {
				t.Fatalf("no class: %v", err)
			}
			return
		}
		again, err := encodeRecord(*rec, cfg)
		if err != nil {
			t.Fatal(err)
		}
		cfgAgain := new(runtimeapi.ContainerConfig)
		recAgain, err := decodeRecord(map[string]string{LabelConfig: again}, cfgAgain)
		if err != nil || !proto.Equal(cfg, cfgAgain) {
			t.Fatalf("%q became %q: %v", text, again, err)
		}
		if recAgain.ImageName != rec.ImageName || recAgain.ImageRef != rec.ImageRef || recAgain.RuntimeHandler != rec.RuntimeHandler || (recAgain.User == nil) != (rec.User == nil) {
			t.Fatalf("%+v became %+v", rec, recAgain)
		}
	})
}

// FuzzCRILabels: no label is lost or invented, annotations are separated, and
// internal labels are hidden.
func FuzzCRILabels(f *testing.F) {
	f.Add("app", "web", "annotation.note", "x", true)
	f.Add(LabelType, "podsandbox", "annotation."+LabelConfig, "{}", false)
	f.Add(LabelContainerName, "POD", "annotation.", "", true)
	f.Fuzz(func(t *testing.T, key, value, other, text string, sandbox bool) {
		kind := KindContainer
		if sandbox {
			kind = KindSandbox
		}
		docker := map[string]string{key: value, other: text}
		labels, annotations := criLabels(docker, kind)
		for _, internal := range []string{LabelType, LabelSandboxID, LabelLogPath} {
			if _, ok := labels[internal]; ok {
				t.Fatalf("%q is shown", internal)
			}
		}
		for k, v := range labels {
			if docker[k] != v || strings.HasPrefix(k, annotationPrefix) {
				t.Fatalf("label %q=%q of %q", k, v, docker)
			}
		}
		for k, v := range annotations {
			if docker[annotationPrefix+k] != v {
				t.Fatalf("annotation %q=%q of %q", k, v, docker)
			}
		}
		for k := range docker {
			_, isAnnotation := annotations[strings.TrimPrefix(k, annotationPrefix)]
			_, isLabel := labels[k]
			if !isLabel && !isAnnotation && !strings.HasPrefix(k, "io.") {
				t.Fatalf("%q of %q is lost", k, docker)
			}
		}
	})
}

// FuzzForeignInspect: a container without a seal is read as at most one kind, and
// as the pod its name says; labels it shares with its image decide nothing, and its
// log is below the pod log directory.
func FuzzForeignInspect(f *testing.F) {
	f.Add("/k8s_POD_web-0_shop_u-1_3", "podsandbox", "", []byte(`{"io.kubernetes.pod.name":"web-0"}`), []byte(`{"NetworkMode":"host","PortBindings":{"80/tcp":[{"HostPort":"80"}]}}`))
	f.Add("/k8s_c_web-0_shop_u-1_3", "container", sandboxID, []byte(`{"io.kubernetes.container.logpath":"/var/log/pods/../../../etc/passwd"}`), []byte(`{"Binds":["/a:/b:ro,rshared","c"],"Mounts":[{"Source":"/x"}]}`))
	f.Add("/k8s_c_web-0_shop_u-1_3", "container", sandboxID, []byte(`{"io.kubernetes.container.logpath":"/var/log/pods/x/0.log","io.cridock.config":"{}","io.cridock.seal":"x"}`), []byte(`{}`))
	f.Add("/web", "container", sandboxID, []byte(`{"annotation.a":"b"}`), []byte(`{"NanoCpus":-1}`))
	f.Fuzz(func(t *testing.T, name, kind, sandbox string, rawLabels, rawHost []byte) {
		labels, hc := map[string]string{}, &container.HostConfig{}
		if json.Unmarshal(rawLabels, &labels) != nil || json.Unmarshal(rawHost, hc) != nil || labels == nil {
			return
		}
		image := &Image{ID: imageID, Labels: maps.Clone(labels)}
		labels[LabelType], labels[LabelSandboxID] = kind, sandbox
		if !allUTF8(name, kind, sandbox) {
			return // Docker's responses are JSON, which has no such strings
		}
		in := container.InspectResponse{
			ContainerJSONBase: &container.ContainerJSONBase{ID: containerID, Name: name, State: &container.State{Status: "running", Running: true}, HostConfig: hc},
			Config:            &container.Config{Labels: labels, Image: imageID},
		}
		parsed, nameErr := ParseName(name)
		for _, image := range []*Image{nil, {ID: imageID}, image} {
			s, sandboxErr := ReadSandbox(in, image, fullHost)
			c, containerErr := ReadContainer(in, image, fullHost)
			if sandboxErr == nil && containerErr == nil || nameErr != nil && (sandboxErr == nil || containerErr == nil) {
				t.Fatalf("%q with %q: sandbox %v, container %v", name, labels, sandboxErr, containerErr)
			}
			if sandboxErr == nil {
				sentAs(t, s.ID, s.Name, name, CRISandboxStatus(s, true, s.DockerIPs), CRISandbox(s, false))
				ofName(t, s.Metadata, parsed)
			}
			if containerErr != nil {
				continue
			}
			sentAs(t, c.ID, c.Name, name, CRIContainerStatus(c), CRIContainer(c))
			ofName(t, c.SandboxMetadata, parsed)
			below := c.LogPath == path.Clean(c.LogPath) && strings.HasPrefix(c.LogPath, fullHost.PodLogsDir+"/")
			if c.LogPath != "" && (!below || image == nil || image.Labels[LabelLogPath] == c.LogPath) {
				t.Fatalf("%q with %q: log %q", name, labels, c.LogPath)
			}
			if !isFullID(c.SandboxID) {
				t.Fatalf("%q with %q: sandbox %q", name, labels, c.SandboxID)
			}
		}
	})
}

// ofName checks that a pod is the one in the Docker name.
func ofName(t *testing.T, m *runtimeapi.PodSandboxMetadata, name Name) {
	t.Helper()
	for label, part := range map[string]string{m.Name: name.Pod, m.Namespace: name.Namespace, m.Uid: name.UID} {
		if label != part && namePart(label) != part {
			t.Fatalf("%v of the name %+v", m, name)
		}
	}
}

func sentAs(t *testing.T, id, got, name string, messages ...proto.Message) {
	t.Helper()
	if id != containerID || got != strings.TrimPrefix(name, "/") {
		t.Fatalf("%s %q, want %s %q", id, got, containerID, name)
	}
	for _, m := range messages {
		if _, err := proto.Marshal(m); err != nil {
			t.Fatalf("cannot be sent: %v", err)
		}
	}
}

// FuzzResolvConf: a valid configuration produces exactly the requested lines.
func FuzzResolvConf(f *testing.F) {
	f.Add("10.0.0.10", "svc.cluster.local", "ndots:5")
	f.Add("fe80::1%eth0", "", "")
	f.Add("fe80::1%x\noptions attempts:0", ".", "a")
	f.Fuzz(func(t *testing.T, server, search, option string) {
		dns := &runtimeapi.DNSConfig{Servers: nonEmpty(server), Searches: nonEmpty(search), Options: nonEmpty(option)}
		if err := validateDNS(dns); err != nil {
			classified(t, err)
			return
		}
		var want []string
		for keyword, word := range map[string]string{"search": search, "nameserver": server, "options": option} {
			if word != "" {
				want = append(want, keyword+" "+word)
			}
		}
		got := strings.Split(strings.TrimSuffix(string(ResolvConf(dns)), "\n"), "\n")
		if len(want) == 0 {
			want = []string{""}
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Fatalf("%q, want %q", got, want)
		}
		for _, line := range got {
			if fields := strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune(" \t\n\v\f\r", r) }); line != "" && len(fields) != 2 {
				t.Fatalf("%q has %d words", line, len(fields))
			}
		}
	})
}

func nonEmpty(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

// FuzzQuantity: a quantity is a non-negative whole number, its suffixes are in
// order, and a bandwidth is within Kubernetes' limits.
func FuzzQuantity(f *testing.F) {
	for _, seed := range []string{"10M", "1.5Gi", "+1e3", ".5", "100m", "1e-9", "9223372036854775807", "9223372036854775808", "٣M"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		n, ok := parseQuantity(text)
		if !ok {
			return
		}
		if n < 0 || strings.Trim(text, "+.0123456789eEinumkKMGTP-") != "" {
			t.Fatalf("%q is %d", text, n)
		}
		if zeros, ok := parseQuantity("0" + strings.TrimPrefix(text, "+")); ok && zeros != n {
			t.Fatalf("%q is %d, with a zero before it %d", text, n, zeros)
		}
		if strings.Trim(text, "0123456789") == "" {
			kilo, ok1 := parseQuantity(text + "k")
			kibi, ok2 := parseQuantity(text + "Ki")
			if ok1 && (n > math.MaxInt64/1000 || kilo != n*1000) || ok2 && (n > math.MaxInt64/1024 || kibi != n*1024) {
				t.Fatalf("%q is %d, k is %d, Ki is %d", text, n, kilo, kibi)
			}
		}
		b, err := cniBandwidth(map[string]string{ingressBandwidth: text})
		if err != nil {
			classified(t, err)
			return
		}
		if b.IngressRate != n || n < minBandwidth || n > maxBandwidth {
			t.Fatalf("%q is a bandwidth of %+v", text, b)
		}
	})
}

// FuzzAuth: credentials go only to the registry they are for, and no error contains
// them.
func FuzzAuth(f *testing.F) {
	f.Add("user", "password", "registry.test", "registry.test/app:1")
	f.Add("u", "p", "https://index.docker.io/v1/", "busybox")
	f.Add("u", "p", "registry.test:5000", "registry.test/app")
	f.Add("u", "p", "http://", "a/b")
	f.Fuzz(func(t *testing.T, user, password, server, image string) {
		const mark = "s3cret-"
		user, password = mark+strings.ReplaceAll(user, ":", ""), mark+strings.TrimRight(password, "\x00")
		encoded := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
		ref, refErr := NormalizeImage(image)
		for _, asked := range []*runtimeapi.AuthConfig{
			{Username: user, Password: password, ServerAddress: server},
			{Auth: encoded, ServerAddress: server},
			{Auth: encoded[1:], ServerAddress: server},
			{Auth: base64.StdEncoding.EncodeToString([]byte(mark)), ServerAddress: server},
		} {
			got, err := DockerAuth(asked, image)
			if err != nil {
				if classified(t, err); refErr == nil && (strings.Contains(err.Error(), mark) || strings.Contains(err.Error(), encoded)) {
					t.Fatalf("the error has the credentials: %v", err)
				}
				continue
			}
			if got.Username == "" && got.Password == "" {
				continue
			}
			if server != "" && registryHost(server) != ref.Registry() {
				t.Fatalf("credentials of %q go to %q", server, ref.Registry())
			}
			if got.ServerAddress != ref.Registry() && (ref.Registry() != dockerHub || got.ServerAddress != dockerHubAddress) {
				t.Fatalf("credentials for %q name %q", ref.Registry(), got.ServerAddress)
			}
			if asked.Auth != encoded[1:] && (got.Username != user || got.Password != password) {
				t.Fatalf("%q %q, want %q %q", got.Username, got.Password, user, password)
			}
		}
	})
}

// FuzzFindImage: an image is found only by its own ID and names.
func FuzzFindImage(f *testing.F) {
	f.Add("busybox", "busybox:latest", "busybox@"+digest)
	f.Add("docker-pullable://busybox@"+digest, "<none>:<none>", "<none>@<none>")
	f.Add("busybox:1", "", "busybox:1@"+digest)
	f.Add(imageID[:20], "", "")
	f.Fuzz(func(t *testing.T, ref, tag, dig string) {
		other := newImage("sha256:"+strings.Repeat("f", 64), nil, nil, 0)
		images := []Image{newImage(imageID, []string{tag}, []string{dig}, 1), other}
		for _, name := range slices.Concat(images[0].RepoTags, images[0].RepoDigests) {
			if found, err := FindImage(name, images); err != nil || found.ID != imageID {
				t.Fatalf("its own name %q finds %v, %v", name, found.ID, err)
			}
		}
		found, err := FindImage(ref, images)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) && !errdefs.IsNotFound(err) {
				t.Fatalf("no class: %v", err)
			}
			return
		}
		want, err := NormalizeImage(ref)
		if err != nil {
			t.Fatal(err)
		}
		begins := len(want.IDPrefix) >= minIDPrefix && strings.HasPrefix(found.ID, sha256Prefix+want.IDPrefix)
		if !want.Matches(found) && !begins {
			t.Fatalf("%q finds %+v", ref, found)
		}
	})
}

var cgroupFileName = regexp.MustCompile(`^(cpu|cpuset|hugetlb|io|memory|misc|pids|rdma)\.[A-Za-z0-9._-]+$`)

// FuzzLimits: no valid limit names a file outside the container's cgroup, or one
// that is not a limit.
func FuzzLimits(f *testing.F) {
	f.Add("memory.high", "100000000", "2MB", uint64(0), int64(0), true)
	f.Add("cgroup.procs", "1", "2MB", uint64(1), int64(64<<20), true)
	f.Add("memory./../../x", "1", "../1KB", uint64(1), int64(0), false)
	f.Add("memory.swap.max", "9223372036854775807", "1GB", uint64(math.MaxUint64), int64(64<<20), true)
	f.Fuzz(func(t *testing.T, key, value, size string, limit uint64, memory int64, v2 bool) {
		r := &runtimeapi.LinuxContainerResources{
			Unified: map[string]string{key: value}, MemoryLimitInBytes: memory,
			HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: size, Limit: limit}},
		}
		host := fullHost
		host.CgroupV2 = v2
		resources, annotations, err := dockerResources("linux", r, host)
		if err != nil {
			classified(t, err)
			return
		}
		if resources.Memory < 0 || resources.MemorySwap < -1 || resources.MemorySwap > 0 && resources.MemorySwap < resources.Memory {
			t.Fatalf("memory %d, with swap %d", resources.Memory, resources.MemorySwap)
		}
		for name, text := range annotations {
			var n uint64
			if _, err := fmt.Sscanf(text, "uint64 %d", &n); err != nil || text != fmt.Sprintf("uint64 %d", n) {
				t.Fatalf("annotation %s is %q", name, text)
			}
		}
		for _, file := range slices.Concat(CgroupFiles(r, host), CgroupFilesForUpdate(r, host)) {
			if !cgroupFileName.MatchString(file.Name) || strings.ContainsRune(file.Value, 0) {
				t.Fatalf("%q would be written to %q", file.Value, file.Name)
			}
		}
	})
}

// FuzzCDIEdits: the edits of a CDI specification become bind mounts of absolute
// paths and devices, or are refused with an error class.
func FuzzCDIEdits(f *testing.F) {
	f.Add([]byte(`{"env":["A=b"],"deviceNodes":[{"path":"/dev/null","permissions":"rw"}],"mounts":[{"hostPath":"/a","containerPath":"/b","options":["ro","nosuid","rslave"]}]}`))
	f.Add([]byte(`{"hooks":[{"hookName":"x"}]}`))
	f.Add([]byte(`{"mounts":[{"hostPath":"a","type":"tmpfs"}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var in cdi.ContainerEdits
		if json.Unmarshal(raw, &in) != nil || slices.Contains(in.Mounts, nil) || slices.Contains(in.DeviceNodes, nil) {
			return // the CDI library accepts no null either
		}
		var edits CDIEdits
		without, err := edits.Append("vendor.test/class=one", &in)
		if err != nil {
			classified(t, err)
			return
		}
		if len(edits.Mounts) != len(in.Mounts) || len(edits.Devices) != len(in.DeviceNodes) || len(edits.Env) != len(in.Env) {
			t.Fatalf("%s became %+v", raw, edits)
		}
		for _, m := range edits.Mounts {
			if m.Type != mount.TypeBind || !path.IsAbs(m.Source) {
				t.Fatalf("%s mounts %+v", raw, m)
			}
		}
		for _, option := range without {
			if !slices.Contains(mountOptions, option) {
				t.Fatalf("%s goes without %q", raw, option)
			}
		}
	})
}

// FuzzPortsOfDocker: ports that are read back are valid in a request.
func FuzzPortsOfDocker(f *testing.F) {
	f.Add([]byte(`{"80/tcp":[{"HostIp":"10.0.0.1","HostPort":"8080"}],"53/udp":null,"x":[{"HostPort":"70000"}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		hc := &container.HostConfig{}
		if json.Unmarshal(raw, &hc.PortBindings) != nil {
			return
		}
		for _, m := range adoptedPorts(hc.PortBindings) {
			if m.HostPort <= 0 || m.HostPort > math.MaxUint16 || m.ContainerPort < 0 || m.ContainerPort > math.MaxUint16 {
				t.Fatalf("%s: %v", raw, m)
			}
			if _, ok := runtimeapi.Protocol_name[int32(m.Protocol)]; !ok {
				t.Fatalf("%s: %v", raw, m)
			}
		}
		networks := &container.NetworkSettings{}
		if json.Unmarshal(raw, networks) != nil {
			return
		}
		for _, ip := range dockerIPs(networks) {
			if _, err := netip.ParseAddr(ip); err != nil {
				t.Fatalf("%s: %q", raw, ip)
			}
		}
	})
}
