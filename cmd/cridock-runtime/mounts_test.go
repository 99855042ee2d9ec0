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
