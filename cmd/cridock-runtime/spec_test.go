package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cridock/cridock/internal/seam"
)

var userns = &seam.UserNamespace{UIDs: []seam.Mapping{{HostID: 100000, Size: 65536}}, GIDs: []seam.Mapping{{HostID: 200000, Size: 65536}}}

// docker is, in short, what Docker writes. It has a field and a number that no Go
// type here knows.
const docker = `{
	"ociVersion": "1.0.2", "hostname": "pod", "future": {"large": 18446744073709551615},
	"root": {"path": "/docker/merged", "readonly": true},
	"mounts": [
		{"destination": "/proc", "type": "proc", "source": "proc"},
		{"destination": "/data", "type": "bind", "source": "/volumes/data", "options": ["rbind", "ro", "rprivate"]},
		{"destination": "/etc/hosts/", "source": "/docker/hosts", "options": ["bind"]}
	],
	"linux": {
		"sysctl": {"net.ipv4.ping_group_range": "0 2147483647", "net.ipv4.ip_unprivileged_port_start": "0"},
		"namespaces": [{"type": "mount"}, {"type": "network"}, {"type": "uts"}, {"type": "pid"}, {"type": "ipc"}]
	}
}`

func parseSpec(t *testing.T, text string) (spec, string) {
	t.Helper()
	bundle := t.TempDir()
	if err := os.WriteFile(filepath.Join(bundle, specName), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := readSpec(bundle)
	if err != nil {
		t.Fatal(err)
	}
	return s, bundle
}

// changedSpec returns the written file.
func changedSpec(t *testing.T, s spec, bundle string) (text string, out map[string]any) {
	t.Helper()
	if err := s.write(bundle); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(bundle, specName))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	if files, err := os.ReadDir(bundle); err != nil || len(files) != 1 {
		t.Errorf("the bundle has %v, %v", files, err)
	}
	return string(b), out
}

func TestSetUserNamespace(t *testing.T) {
	for name, join := range map[string]string{"new": "", "joined": "/run/cridock/mnt/userns"} {
		t.Run(name, func(t *testing.T) {
			s, bundle := parseSpec(t, docker)
			if err := s.setUserNamespace(userns, join); err != nil {
				t.Fatal(err)
			}
			s.setRootPath("/new")
			text, out := changedSpec(t, s, bundle)
			linux := object(out, "linux")
			ns := linux["namespaces"].([]any)
			want := map[string]any{"type": "user"}
			if join != "" {
				want["path"] = join
			}
			if diff := cmp.Diff(any(want), ns[len(ns)-1]); diff != "" || len(ns) != 6 {
				t.Errorf("namespaces %v", ns)
			}
			for key, host := range map[string]float64{"uidMappings": 100000, "gidMappings": 200000} {
				want := []any{map[string]any{"containerID": 0.0, "hostID": host, "size": 65536.0}}
				if diff := cmp.Diff(any(want), linux[key]); diff != "" {
					t.Errorf("%s: %s", key, diff)
				}
			}
			sysctls := map[string]any{pingGroups: "0 65535", "net.ipv4.ip_unprivileged_port_start": "0"}
			if diff := cmp.Diff(any(sysctls), linux["sysctl"]); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(any(map[string]any{"path": "/new", "readonly": true}), out["root"]); diff != "" {
				t.Error(diff)
			}
			if !strings.Contains(text, `"future":{"large":18446744073709551615}`) {
				t.Errorf("a field was lost or changed: %s", text)
			}
		})
	}
}

func TestPingGroupsOfPodAreKept(t *testing.T) {
	s, _ := parseSpec(t, strings.Replace(docker, "0 2147483647", "1 9", 1))
	if err := s.setUserNamespace(userns, ""); err != nil {
		t.Fatal(err)
	}
	if got := object(object(s, "linux"), "sysctl")[pingGroups]; got != "1 9" {
		t.Errorf("it is %q", got)
	}
}

func TestSetUserNamespaceRefuses(t *testing.T) {
	for name, change := range map[string][2]string{
		"host network":        {`{"type": "network"}, `, ``},
		"host IPC":            {`, {"type": "ipc"}`, ``},
		"host PIDs":           {`{"type": "pid"}, `, ``},
		"host mounts":         {`{"type": "mount"}, `, ``},
		"a user namespace":    {`{"type": "mount"}`, `{"type": "mount"}, {"type": "user"}`},
		"mappings":            {`"namespaces"`, `"uidMappings": [], "namespaces"`},
		"no list":             {`[{"type": "mount"}, {"type": "network"}, {"type": "uts"}, {"type": "pid"}, {"type": "ipc"}]`, `{}`},
		"nothing about Linux": {`"linux"`, `"other"`},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(docker, change[0], change[1], 1)
			if text == docker {
				t.Fatal("nothing was changed")
			}
			s, _ := parseSpec(t, text)
			if err := s.setUserNamespace(userns, ""); err == nil {
				t.Error("it is accepted")
			}
		})
	}
}

func TestBinds(t *testing.T) {
	s, bundle := parseSpec(t, docker)
	binds, err := s.binds(bundle)
	if err != nil {
		t.Fatal(err)
	}
	if len(binds) != 2 || binds[0].destination != "/data" || !binds[0].recursive || binds[1].destination != "/etc/hosts" || binds[1].recursive {
		t.Fatalf("bind mounts are %+v", binds)
	}
	got, err := mapped(&seam.Record{MappedMounts: []string{"/data"}, MappedFiles: []string{"/etc/hosts", "/etc/hostname"}}, binds)
	if err != nil || !got["/data"] || !got["/etc/hosts"] {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := mapped(&seam.Record{MappedMounts: []string{"/other"}}, binds); err == nil {
		t.Error("a mount that is missing is not missed")
	}
	twice := slices.Concat(binds, binds)
	for _, r := range []*seam.Record{{MappedMounts: []string{"/data"}}, {MappedFiles: []string{"/data"}}} {
		if _, err := mapped(r, twice); err == nil {
			t.Errorf("two mounts on one path are accepted for %+v", r)
		}
	}
	s, bundle = parseSpec(t, strings.Replace(docker, `"type": "bind"`, `"uidMappings": [], "type": "bind"`, 1))
	if _, err := s.binds(bundle); err == nil {
		t.Error("a mount with other mappings is accepted")
	}
}
