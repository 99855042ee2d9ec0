package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/seam"
)

// TestCheckRDT stands a plain directory in for the kernel's file system.
func TestCheckRDT(t *testing.T) {
	root := t.TempDir()
	var st unix.Statfs_t
	if err := unix.Statfs(root, &st); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(root, "gold"), 0o755); err != nil {
		t.Fatal(err)
	}
	here := int64(st.Type) //nolint:unconvert // 32 bits on some architectures
	for name, tc := range map[string]struct {
		rdt   *specs.LinuxIntelRdt
		magic int64
		want  string // of the error
	}{
		"none":                {nil, 0, ""},
		"a group":             {&specs.LinuxIntelRdt{ClosID: "gold"}, here, ""},
		"no group":            {&specs.LinuxIntelRdt{ClosID: "silver"}, here, "no such file"},
		"the runtime's":       {&specs.LinuxIntelRdt{ClosID: "silver", Schemata: []string{"L3:0=f"}}, here, ""},
		"monitoring":          {&specs.LinuxIntelRdt{EnableMonitoring: true}, here, ""},
		"not mounted":         {&specs.LinuxIntelRdt{ClosID: "gold"}, here + 1, "not in a resctrl file system"},
		"schemata for naught": {&specs.LinuxIntelRdt{ClosID: "gold", Schemata: []string{"L3:0=f"}}, here + 1, "not in a resctrl file system"},
	} {
		r := &seam.Record{Spec: &seam.Spec{IntelRdt: tc.rdt}}
		if err := checkRDT(r, root, tc.magic); (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v; want %q", name, err, tc.want)
		}
	}
	if err := checkRDT(&seam.Record{}, root, 0); err != nil {
		t.Error(err)
	}
}

// TestCreateWithRDT: a class becomes the closID of the container's configuration, unless
// it does not exist: then the real runtime, which may ignore it, is not executed.
func TestCreateWithRDT(t *testing.T) {
	b := newBundle(t)
	b.limitsOnly(nil)
	b.record.Spec = &seam.Spec{IntelRdt: &specs.LinuxIntelRdt{ClosID: "cridock-test-no-such-group"}}
	b.writeFile(t, b.record.Runtime.Path, "#!/bin/sh\necho args: $*\n", 0o755)
	b.writeRecord(t)
	out, message, err := b.create(t)
	if err == nil || !strings.Contains(message, `RDT class "cridock-test-no-such-group"`) || strings.Contains(out, "args: ") {
		t.Errorf("%v, %q: %s", err, message, out)
	}
	s, bundle := parseSpec(t, docker)
	if err := s.extend(&seam.Spec{IntelRdt: &specs.LinuxIntelRdt{ClosID: "gold"}}); err != nil {
		t.Fatal(err)
	}
	if text, _ := changedSpec(t, s, bundle); !strings.Contains(text, `"intelRdt":{"closID":"gold"}`) {
		t.Errorf("the configuration is %s", text)
	}
}
