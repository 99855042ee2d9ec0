package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// mountOptionsOf returns the options of the mount on a destination.
func mountOptionsOf(t *testing.T, s spec, destination string) any {
	t.Helper()
	mounts, err := objects(s, "mounts")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mounts {
		if m["destination"] == destination {
			return m["options"]
		}
	}
	return nil
}

func TestAddMountOptions(t *testing.T) {
	s, bundle := parseSpec(t, docker)
	if err := s.addMountOptions(bundle, map[string][]string{"/data": {"nosuid", "rro"}, "/etc/hosts": {"noexec"}}); err != nil {
		t.Fatal(err)
	}
	for destination, want := range map[string]any{
		"/data": []any{"rbind", "rprivate", "nosuid", "rro"}, "/etc/hosts/": []any{"bind", "noexec"}, "/proc": nil,
	} {
		if diff := cmp.Diff(want, mountOptionsOf(t, s, destination)); diff != "" {
			t.Errorf("%s: %s", destination, diff)
		}
	}
	for _, destination := range []string{"/other", "/proc"} {
		if err := s.addMountOptions(bundle, map[string][]string{destination: {"noexec"}}); err == nil {
			t.Errorf("options for %s, which is no bind mount, are accepted", destination)
		}
	}
	s["mounts"] = append(s["mounts"].([]any), s["mounts"].([]any)...)
	if err := s.addMountOptions(bundle, map[string][]string{"/data": {"noexec"}}); err == nil || !strings.Contains(err.Error(), "2 bind mounts") {
		t.Errorf("two mounts on one path: %v", err)
	}
}

// TestDropMounts: only a volume of the engine's is dropped, and nothing else on its path.
func TestDropMounts(t *testing.T) {
	const volume = `{"destination": "/vol/", "type": "bind", "source": "/volumes/` + id + `/_data", "options": ["rbind"]}`
	with := func(more string) string { return strings.Replace(docker, `"mounts": [`, `"mounts": [`+more+`, `, 1) }
	for name, tc := range map[string]struct {
		text string
		drop []string
		want string // of the error
	}{
		"a volume":             {with(volume), []string{"/vol"}, ""},
		"nothing":              {docker, nil, ""},
		"not there":            {docker, []string{"/vol"}, "0 mounts on /vol"},
		"twice":                {with(volume + ", " + volume), []string{"/vol"}, "2 mounts on /vol"},
		"with another":         {with(volume + `, {"destination": "/vol", "type": "tmpfs", "source": "tmpfs"}`), []string{"/vol"}, "2 mounts on /vol"},
		"a bind mount":         {with(volume), []string{"/vol", "/data"}, "1 mounts on /data"},
		"no bind mount":        {docker, []string{"/proc"}, "1 mounts on /proc"},
		"a named volume":       {with(strings.Replace(volume, id, "name", 1)), []string{"/vol"}, "1 mounts on /vol"},
		"a part of a volume":   {with(strings.Replace(volume, "_data", "_data/sub", 1)), []string{"/vol"}, "1 mounts on /vol"},
		"mounts are no list":   {`{"mounts": {}}`, []string{"/vol"}, "not a list"},
		"an unusable mount":    {`{"mounts": [{"type": "bind"}]}`, []string{"/vol"}, "without source"},
		"a mount is no object": {`{"mounts": [1]}`, []string{"/vol"}, "not an object"},
	} {
		t.Run(name, func(t *testing.T) {
			s, bundle := parseSpec(t, tc.text)
			before, err := objects(s, "mounts")
			if err == nil {
				err = s.dropMounts(bundle, tc.drop)
			}
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("%v, want %q", err, tc.want)
			}
			after, listErr := objects(s, "mounts")
			if want := len(before) - len(tc.drop); err == nil && (listErr != nil || len(after) != want) {
				t.Errorf("mounts %v, %v; want %d", after, listErr, want)
			}
			for _, m := range after {
				if err == nil && m["destination"] == "/vol/" {
					t.Errorf("%v is still there", m)
				}
			}
		})
	}
}

// TestCreateWithMountOptions: the real runtime is only executed if it knows what is
// asked of it.
func TestCreateWithMountOptions(t *testing.T) {
	for name, tc := range map[string]struct {
		options  []string
		features string
		want     string // of the error
	}{
		"all":                 {[]string{"noexec", "rro"}, `echo '{"mountOptions": ["rro"]}'`, ""},
		"an old runtime":      {[]string{"noexec", "rro"}, "echo unknown command >&2; exit 1", "unknown command"},
		"one that ignores it": {[]string{"rro"}, `echo '{"mountOptions": ["ro"]}'`, "does not know it"},
		"not recursive":       {[]string{"noexec"}, "exit 1", ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBundle(t)
			b.limitsOnly(nil)
			b.record.MountOptions = map[string][]string{"/data": tc.options}
			b.writeFile(t, b.record.Runtime.Path, "#!/bin/sh\ncase $2 in features) "+tc.features+"; exit;; esac\necho args: $*\n", 0o755)
			b.writeRecord(t)
			out, message, err := b.create(t)
			if executed := strings.Contains(out, "args: "); executed != (tc.want == "") || (err == nil) != executed || !strings.Contains(message, tc.want) {
				t.Errorf("%v, %q: %s", err, message, out)
			}
			s, err := readSpec(b.bundle)
			if err != nil {
				t.Fatal(err)
			}
			if _, added := mountOptionsOf(t, s, "/data").([]any); !added || strings.Contains(strings.Join(strs(mountOptionsOf(t, s, "/data")), " "), tc.options[0]) != (tc.want == "") {
				t.Errorf("the mount has the options %v", mountOptionsOf(t, s, "/data"))
			}
		})
	}
}

// strs returns a list of strings from JSON.
func strs(list any) (out []string) {
	for _, v := range list.([]any) {
		out = append(out, v.(string))
	}
	return out
}
