package seam

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

const id = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// example is a record with every field set.
func example() Record {
	m := []Mapping{{HostID: 100000, Size: 65536}}
	return Record{
		Version: Version, ID: id, Runtime: Runtime{Path: "/usr/sbin/runc", Args: []string{"--debug"}},
		UserNamespace: &UserNamespace{UIDs: m, GIDs: m, Join: &Process{PID: 42, Device: 4, Inode: 4026531837}},
		MappedMounts:  []string{"/data"}, MappedFiles: []string{"/etc/hosts"},
		Images:       []Image{{Destination: "/data", Layers: []string{"/layers/top"}}},
		Resources:    &Resources{Memory: &Memory{Limit: 4 << 20, Swap: 5 << 20}, Unified: map[string]string{"memory.high": "9"}, Hugepages: []Hugepages{{PageSize: "2MB", Limit: 4}}},
		MountOptions: map[string][]string{"/run": {"noexec", "rro"}},
		Hooks:        []Hook{{Name: "createRuntime", Path: "/bin/hook", Args: []string{"hook", "arg"}, Env: []string{"A=1"}, Timeout: 5}},
		Annotations:  map[string]string{"a.test/b": "c"},
		Devices:      &Devices{Exclusive: true, Nodes: []DeviceNode{{Path: "/dev/x", UID: new(uint32), Access: "rw"}}, Rules: []specs.LinuxDeviceCgroup{{Allow: true, Type: "b", Access: "r"}}},
		UTS:          &Process{PID: 43, Device: 4, Inode: 4026531838}, WritableCgroups: true,
		Network: &Network{}, ExecCPU: new(int), DroppedMounts: []string{"/volume"},
		Spec: &Spec{
			Annotations: map[string]string{"a": "b"}, RemoveAnnotations: []string{"c"},
			Devices:    []specs.LinuxDevice{{Path: "/dev/x", Type: "c", Major: 1, Minor: 3}},
			Namespaces: []specs.LinuxNamespace{{Type: specs.CgroupNamespace}}, RemoveNamespaces: []specs.LinuxNamespaceType{specs.IPCNamespace},
			Seccomp: &specs.LinuxSeccomp{DefaultAction: specs.ActAllow}, IOPriority: &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_IDLE},
			Scheduler: &specs.Scheduler{Policy: specs.SchedBatch}, NetDevices: map[string]specs.LinuxNetDevice{"eth1": {Name: "net1"}},
			MemoryPolicy: &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "0"}, IntelRdt: &specs.LinuxIntelRdt{ClosID: "gold"},
		},
	}
}

func encode(t testing.TB, r Record) []byte {
	t.Helper()
	b, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRoundTrip(t *testing.T) {
	got, err := Decode(encode(t, example()))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(example(), *got); diff != "" {
		t.Error(diff)
	}
}

func TestDecodeRefuses(t *testing.T) {
	text := string(encode(t, example()))
	_, rest, _ := strings.Cut(text, `"userNamespace":`)
	userNamespace, _, _ := strings.Cut(rest, `,"mappedMounts"`)
	for name, tc := range map[string]struct{ old, new, want string }{
		"a later version":     {`"version":5`, `"version":6`, "version 6"},
		"too low a version":   {`"version":5`, `"version":1`, "version 1"},
		"a version before":    {`"version":5`, `"version":4`, "version 4"},
		"no version":          {`"version":5,`, ``, "version 0"},
		"an unknown field":    {`"id"`, `"future":[],"id"`, "future"},
		"an unknown subfield": {`"hostID"`, `"flags":1,"hostID"`, "flags"},
		"more than a record":  {`["/volume"]}`, `["/volume"]}{}`, "after top-level value"},
		"the root to drop":    {`["/volume"]`, `["/"]`, "destination"},
		"dropped and mapped":  {`["/volume"]`, `["/data"]`, "twice"},
		"dropped, an option":  {`["/volume"]`, `["/run"]`, "twice"},
		"no CPU":              {`"execCPU":0`, `"execCPU":-1`, "not the number of a CPU"},
		"a network for later": {`"network":{}`, `"network":{"namespace":"/run/netns/a"}`, "existing network namespace"},
		"a short ID":          {id, id[:12], "not a container ID"},
		"a path as ID":        {id, "../../" + id[6:], "not a container ID"},
		"nothing to map by":   {`"userNamespace":` + userNamespace, `"userNamespace":null`, "without a user namespace"},
		"an unknown hook":     {`"createRuntime"`, `"create"`, "not one of"},
		"a relative hook":     {`"/bin/hook"`, `"hook"`, "absolute path"},
		"a NUL in a hook":     {`"arg"`, `"\u0000"`, "NUL"},
		"a nameless one":      {`"a.test/b"`, `""`, "no name"},
		"another image mount": {`"destination":"/data"`, `"destination":"/etc"`, "not a mount to id-map"},
		"a relative layer":    {`"/layers/top"`, `"top"`, "clean absolute path"},
		"an unclean layer":    {`"/layers/top"`, `"/layers/../etc"`, "clean absolute path"},
		"no device":           {`"exclusive":true,"nodes":[{"path":"/dev/x","uid":0,"access":"rw"}],"rules":[{"allow":true,"type":"b","access":"r"}]`, ``, "no devices"},
		"needless rules":      {`"exclusive":true,`, ``, "not exclusive"},
		"a rule that denies":  {`{"allow":true,"type":"b"`, `{"allow":false,"type":"b"`, "device rule"},
		"an unknown rule":     {`"type":"b"`, `"type":"p"`, "device rule"},
		"no access by a rule": {`"access":"r"}`, `"access":""}`, "device rule"},
		"a relative device":   {`"/dev/x"`, `"x"`, "destination"},
		"no access":           {`"access":"rw"`, `"access":""`, "access"},
		"unknown access":      {`"access":"rw"`, `"access":"rx"`, "access"},
		"no UTS namespace":    {`4026531838`, `0`, "cannot be a sandbox's"},
		"a negative timeout":  {`"timeout":5`, `"timeout":-5`, "negative"},
		"options of the root": {`"/run"`, `"/"`, "destination"},
		"another option":      {`"noexec"`, `"exec"`, "not one of"},
		"an option twice":     {`"noexec"`, `"rro"`, "listed twice"},
		"no options":          {`["noexec","rro"]`, `[]`, "no options"},
		"no memory":           {`"limit":4194304`, `"limit":0`, "memory limit 0"},
		"a file of no cgroup": {`"memory.high"`, `"memory./../high"`, "not a file"},
		"the cgroup's own":    {`"memory.high"`, `"cgroup.kill"`, "not a file"},
		"a NUL":               {`"9"`, `"\u0000"`, "NUL"},
		"a page path":         {`"2MB"`, `"../2MB"`, "not a page size"},
		"a page size twice":   {`"hugepages":[`, `"hugepages":[{"pageSize":"2MB","limit":1},`, "twice"},
		"less with swap":      {`"swap":5242880`, `"swap":4194303`, "with swap 4194303"},
		"an unknown resource": {`"limit"`, `"cpu":1,"limit"`, "cpu"},
		"a relative runtime":  {"/usr/sbin/runc", "sbin/runc", "runtime"},
		"an unclean runtime":  {"/usr/sbin/runc", "/usr/../sbin/runc", "runtime"},
		"no runtime":          {"/usr/sbin/runc", "", "runtime"},
		"the host's root":     {`"hostID":100000`, `"hostID":0`, "host's root"},
		"no container root":   {`"containerID":0`, `"containerID":1`, "ID 0 of the container"},
		"an empty mapping":    {`"size":65536`, `"size":0`, "empty"},
		"too many IDs":        {`"size":65536`, `"size":4294967295`, "exceeds"},
		"PID 1":               {`"pid":42`, `"pid":1`, "cannot be a sandbox's"},
		"the root as mount":   {`"/etc/hosts"`, `"/"`, "destination"},
		"a relative mount":    {`"/etc/hosts"`, `"data"`, "destination"},
		"an unclean mount":    {`"/etc/hosts"`, `"/data/../etc"`, "destination"},
		"a mount twice":       {`"/etc/hosts"`, `"/data"`, "twice"},
	} {
		t.Run(name, func(t *testing.T) {
			changed := strings.ReplaceAll(text, tc.old, tc.new)
			if changed == text {
				t.Fatal("nothing was changed")
			}
			if _, err := Decode([]byte(changed)); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v; want %q", err, tc.want)
			}
		})
	}
}

func TestNothingToChange(t *testing.T) {
	r := Record{ID: id, Runtime: Runtime{Path: "runc"}}
	if _, err := r.Encode(); err == nil || !strings.Contains(err.Error(), "nothing to change") {
		t.Error(err)
	}
	r.Resources = &Resources{}
	encode(t, r)
}

// TestVersions: records have the lowest version that has their fields, and those of
// earlier releases can be read.
func TestVersions(t *testing.T) {
	r := example()
	r.DroppedMounts = nil
	if text := string(encode(t, r)); !strings.Contains(text, `"version":4,`) {
		t.Errorf("a record without mounts to drop: %s", text)
	}
	r.ExecCPU = nil
	if text := string(encode(t, r)); !strings.Contains(text, `"version":3,`) {
		t.Errorf("a record for the release before: %s", text)
	}
	r.Annotations, r.Devices, r.WritableCgroups, r.UTS, r.Images, r.Network, r.Spec = nil, nil, false, nil, nil, nil, nil
	if text := string(encode(t, r)); !strings.Contains(text, `"version":2,`) {
		t.Errorf("a record for the release before that: %s", text)
	}
	r.Resources, r.MountOptions, r.Hooks = nil, nil, nil
	text := string(encode(t, r))
	if !strings.Contains(text, `"version":1,`) {
		t.Errorf("a record for earlier releases: %s", text)
	}
	if got, err := Decode([]byte(text)); err != nil || got.Version != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := Decode([]byte(strings.Replace(text, `"version":1,`, `"version":2,`, 1))); err != nil || got.Version != 2 {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestNetworkNamespace(t *testing.T) {
	for path, ok := range map[string]bool{"": true, "/run/cridock/netns/a": true, "netns": false, "/run/../etc": false, "/run/": false, "/a\x00": false} {
		r := Record{ID: id, Runtime: Runtime{Path: "runc"}, Network: &Network{Namespace: path}}
		if _, err := r.Encode(); (err == nil) != ok {
			t.Errorf("%q: %v", path, err)
		}
	}
}

func TestMappingsOverlap(t *testing.T) {
	for _, second := range []Mapping{{ContainerID: 65535, HostID: 300000, Size: 1}, {ContainerID: 65536, HostID: 165535, Size: 9}} {
		if err := ValidateMappings([]Mapping{{HostID: 100000, Size: 65536}, second}); err == nil {
			t.Errorf("%v is accepted", second)
		}
	}
	if err := ValidateMappings([]Mapping{{HostID: 100000, Size: 65536}, {ContainerID: 65536, HostID: 165536, Size: 9}}); err != nil {
		t.Error(err)
	}
}

func TestRead(t *testing.T) {
	d := Dir(t.TempDir())
	if err := os.Mkdir(string(d)+"/"+Records, 0o711); err != nil {
		t.Fatal(err)
	}
	path := d.RecordPath(id)
	write := func(content []byte, mode fs.FileMode) {
		t.Helper()
		_ = os.Remove(path)
		if err := os.WriteFile(path, content, mode); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.Read(id); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing record: %v", err)
	}
	write(encode(t, example()), 0o600)
	if r, err := d.Read(id); err != nil || r.ID != id {
		t.Errorf("%v, %v", r, err)
	}
	write(encode(t, example()), 0o644)
	if _, err := d.Read(id); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("a record that others can read: %v", err)
	}
	other := example()
	other.ID = strings.Repeat("f", 64)
	write(encode(t, other), 0o600)
	if _, err := d.Read(id); err == nil || !strings.Contains(err.Error(), other.ID) {
		t.Errorf("another container's record: %v", err)
	}
	target := path + ".target"
	if err := errors.Join(os.Rename(path, target), os.Symlink(target, path)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Read(id); err == nil {
		t.Error("a link is followed")
	}
	if _, err := d.Read("../" + id); err == nil {
		t.Error("a path is taken for an ID")
	}
}

func TestCheckProcess(t *testing.T) {
	self, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		t.Fatal(err)
	}
	uids, err := ParseMappings(string(self))
	if err != nil || len(uids) == 0 {
		t.Fatal(uids, err)
	}
	u := UserNamespace{UIDs: uids, GIDs: uids}
	if err := u.CheckProcess(os.Getpid()); err != nil {
		t.Error(err)
	}
	u.GIDs = []Mapping{{HostID: 100000, Size: 65536}}
	if err := u.CheckProcess(os.Getpid()); err == nil {
		t.Error("other mappings are taken for these")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encode(f, example()))
	f.Add([]byte(`{"version":1,"id":"` + id + `","runtime":{"path":"runc"},"userNamespace":{"uids":[{"containerID":0,"hostID":1,"size":1}],"gids":[{"containerID":0,"hostID":1,"size":4294967294}]}}`))
	f.Add([]byte(`{"version":1,"Version":2}`))
	f.Add([]byte(`{"version":1} {}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Decode(b)
		if err != nil {
			return
		}
		if r.Version < 1 || r.Version > Version || !IsID(r.ID) || !r.changes() {
			t.Fatalf("accepted %+v", r)
		}
		var mappings []Mapping
		if u := r.UserNamespace; u != nil {
			mappings = slices.Concat(u.UIDs, u.GIDs)
		}
		for _, m := range mappings {
			if m.HostID == 0 || m.HostID+m.Size < m.HostID || m.Size == 0 {
				t.Fatalf("accepted mapping %v", m)
			}
		}
		if len(b) > 1<<16 {
			return // its text may be too long once characters are escaped
		}
		text := encode(t, *r)
		again, err := Decode(text)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(text), string(encode(t, *again))); diff != "" {
			t.Fatal(diff)
		}
	})
}

func FuzzParseMappings(f *testing.F) {
	f.Add("         0     100000      65536\n")
	f.Add("0 0 4294967295\n1 2 3")
	f.Add("0 1\n")
	f.Fuzz(func(t *testing.T, text string) {
		mappings, err := ParseMappings(text)
		if err != nil {
			return
		}
		if lines := strings.Count(text, "\n") + 1; len(mappings) > lines {
			t.Fatalf("%d mappings in %d lines", len(mappings), lines)
		}
	})
}
