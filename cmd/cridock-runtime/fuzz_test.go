package main

import (
	"encoding/json"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cridock/cridock/internal/seam"
)

// FuzzSpec: whatever Docker writes, a changed bundle has one user namespace, no
// namespace of the host's, and nothing else changed.
func FuzzSpec(f *testing.F) {
	f.Add([]byte(docker))
	f.Add([]byte(`{"linux":{"namespaces":[{"type":"mount"},{"type":"network","path":"/x"},{"type":"ipc"},{"type":"pid"}],"sysctl":{"net.ipv4.ping_group_range":"0 2147483647"}}}`))
	f.Add([]byte(`{"linux":{"namespaces":[{"type":"user"}],"uidMappings":null}}`))
	f.Add([]byte(`{"root":[],"linux":[],"mounts":[{"type":"bind","source":"x","destination":"/.."}]}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := decodeSpec(text)
		if err != nil {
			return
		}
		before, err := decodeSpec(text)
		if err != nil {
			t.Fatal(err)
		}
		binds, err := s.binds("/bundle")
		for _, b := range binds {
			if !path.IsAbs(b.source) || b.destination == "" {
				t.Fatalf("bind mount %+v (%v)", b, err)
			}
		}
		if s.setUserNamespace(userns, "/join") != nil {
			return
		}
		namespaces, err := objects(object(s, "linux"), "namespaces")
		if err != nil {
			t.Fatal(err)
		}
		var kinds []string
		for _, ns := range namespaces {
			kind, _ := ns["type"].(string)
			kinds = append(kinds, kind)
		}
		if slices.Index(kinds, "user") != len(kinds)-1 {
			t.Fatalf("namespaces %q", kinds)
		}
		for _, kind := range []string{"mount", "network", "ipc", "pid"} {
			if !slices.Contains(kinds, kind) {
				t.Fatalf("namespaces %q", kinds)
			}
		}
		for _, name := range []string{"namespaces", "uidMappings", "gidMappings", "sysctl"} {
			delete(object(s, "linux"), name)
			delete(object(before, "linux"), name)
		}
		if diff := cmp.Diff(before, s); diff != "" {
			t.Fatal(diff)
		}
		if _, err := json.Marshal(s); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzChange: whatever Docker writes, a bundle that could be changed has what the
// record says.
func FuzzChange(f *testing.F) {
	f.Add([]byte(docker))
	f.Add([]byte(`{"mounts":[{"destination":"/data","type":"bind","source":"/x","options":null}],"linux":{"resources":{"memory":null,"unified":{"memory.high":"1"},"hugepageLimits":[{}]}},"hooks":{"poststop":[1]}}`))
	f.Add([]byte(`{"mounts":[{"destination":"/data","type":"bind","source":"/x"},{"destination":"/vol","type":"bind","source":"/v/` + id + `/_data"}]}`))
	f.Add([]byte(`{"mounts":{},"hooks":[],"linux":1}`))
	f.Add([]byte(`null`))
	r := seam.Resources{Memory: &seam.Memory{Limit: 4, Swap: -1}, Unified: map[string]string{"memory.high": "5"}, Hugepages: []seam.Hugepages{{PageSize: "2MB", Limit: 1}}}
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := decodeSpec(text)
		if err != nil || s.setResources(&r) != nil || s.addHooks([]seam.Hook{{Name: "poststop", Path: "/own"}}) != nil ||
			s.addMountOptions("/bundle", map[string][]string{"/data": {"rro"}}) != nil {
			return
		}
		resources := object(object(s, "linux"), "resources")
		memory, unified, hooks := object(resources, "memory"), object(resources, "unified"), object(s, "hooks")["poststop"].([]any)
		if memory["limit"] != int64(4) || memory["swap"] != nil || unified["memory.high"] != "5" || object(map[string]any{"last": hooks[len(hooks)-1]}, "last")["path"] != "/own" {
			t.Fatalf("changed to %v", s)
		}
		binds, err := s.binds("/bundle")
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range binds {
			options, _ := b.mount["options"].([]any)
			if b.destination == "/data" && (!slices.Contains(options, any("rro")) || slices.Contains(options, any("rw"))) {
				t.Fatalf("the mount has the options %v", options)
			}
		}
		if s.dropMounts("/bundle", []string{"/vol"}) == nil {
			mounts, err := objects(s, "mounts")
			if err != nil || slices.ContainsFunc(mounts, func(m map[string]any) bool { return m["destination"] == "/vol" }) {
				t.Fatalf("without /vol the mounts are %v, %v", mounts, err)
			}
		}
		if _, err := json.Marshal(s); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzParse: the real runtime gets all arguments but our own, and create has an ID.
func FuzzParse(f *testing.F) {
	f.Add("--root\n/r\n--log\n/l\n--log-format\njson\ncreate\n--bundle\n/b\n" + id)
	f.Add("--cridock-dir=/d\n--root=/r\nexec\n--process\n/p\n" + id)
	f.Add("--systemd-cgroup\ndelete\n--force\n" + id)
	f.Add("--\ncreate")
	f.Fuzz(func(t *testing.T, line string) {
		args := strings.Split(line, "\n")
		c, err := parse(args)
		if err != nil {
			return
		}
		if c.command == "create" && !seam.IsID(c.id) {
			t.Fatalf("create of %q", c.id)
		}
		// Only our own flag, before the command, may be missing.
		rest := args
		for _, arg := range c.args {
			for len(rest) > 0 && rest[0] != arg && strings.HasPrefix(strings.TrimLeft(rest[0], "-"), dirFlag+"=") {
				rest = rest[1:]
			}
			if len(rest) == 0 || rest[0] != arg {
				t.Fatalf("arguments %q of %q", c.args, args)
			}
			rest = rest[1:]
		}
	})
}
