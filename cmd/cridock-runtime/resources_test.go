package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cridock/cridock/internal/seam"
)

// limitsOnly is a record without a user namespace.
func (b *bundleTest) limitsOnly(r *seam.Resources) {
	b.record.UserNamespace, b.record.MappedMounts, b.record.MappedFiles, b.record.Resources = nil, nil, nil, r
}

// parsed returns a JSON text as the decoder does.
func parsed(t *testing.T, text string) (out map[string]any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestSetResources(t *testing.T) {
	for name, tc := range map[string]struct {
		resources    seam.Resources
		before, want string
	}{
		"nothing":           {seam.Resources{}, `{"pids": {"limit": 7}}`, `{"pids": {"limit": 7}}`},
		"memory":            {seam.Resources{Memory: &seam.Memory{Limit: 4, Swap: 9}}, `{"memory": {"limit": 6, "swap": 6, "reservation": 1}, "pids": {"limit": 7}}`, `{"memory": {"limit": 4, "swap": 9, "reservation": 1}, "pids": {"limit": 7}}`},
		"unlimited swap":    {seam.Resources{Memory: &seam.Memory{Limit: 4, Swap: -1}}, `{"memory": {"limit": 6, "swap": 6}}`, `{"memory": {"limit": 4}}`},
		"no swap accounted": {seam.Resources{Memory: &seam.Memory{Limit: 4, Swap: 4}}, `{"memory": {"limit": 6}}`, `{"memory": {"limit": 4}}`},
		"none in Docker's":  {seam.Resources{Memory: &seam.Memory{Limit: 4, Swap: 4}}, `null`, `{"memory": {"limit": 4}}`},
		"unified":           {seam.Resources{Unified: map[string]string{"memory.high": "5", "io.max": "a"}}, `{"unified": {"memory.low": "1", "memory.high": "2"}}`, `{"unified": {"memory.low": "1", "memory.high": "5", "io.max": "a"}}`},
		"first unified":     {seam.Resources{Unified: map[string]string{"memory.high": "5"}}, `{}`, `{"unified": {"memory.high": "5"}}`},
		"huge pages": {seam.Resources{Hugepages: []seam.Hugepages{{PageSize: "2MB", Limit: 18446744073709551615}}}, `{"hugepageLimits": [{"pageSize": "1GB", "limit": 0}, {"pageSize": "2MB", "limit": 1}]}`,
			`{"hugepageLimits": [{"pageSize": "1GB", "limit": 0}, {"pageSize": "2MB", "limit": 18446744073709551615}]}`},
	} {
		t.Run(name, func(t *testing.T) {
			s, bundle := parseSpec(t, `{"linux": {"resources": `+tc.before+`, "future": 1}}`)
			if err := s.setResources(&tc.resources); err != nil {
				t.Fatal(err)
			}
			_, out := changedSpec(t, s, bundle)
			if diff := cmp.Diff(parsed(t, `{"linux": {"resources": `+tc.want+`, "future": 1}}`), out); diff != "" {
				t.Error(diff)
			}
		})
	}
	for _, text := range []string{`{"linux": []}`, `{"linux": {"resources": 1}}`, `{"linux": {"resources": {"memory": "all"}}}`,
		`{"linux": {"resources": {"unified": []}}}`, `{"linux": {"resources": {"hugepageLimits": {}}}}`} {
		s, _ := parseSpec(t, text)
		all := seam.Resources{Memory: &seam.Memory{Limit: 4, Swap: 4}, Unified: map[string]string{"a.b": ""}, Hugepages: make([]seam.Hugepages, 1)}
		if err := s.setResources(&all); err == nil {
			t.Errorf("%s is accepted", text)
		}
	}
}

// TestCreateWithLimits: without a user namespace, only the limits change, and no
// stream changes its owner.
func TestCreateWithLimits(t *testing.T) {
	b := newBundle(t)
	b.limitsOnly(&seam.Resources{Memory: &seam.Memory{Limit: 4 << 20, Swap: 4 << 20}})
	b.writeFile(t, b.record.Runtime.Path, "#!/bin/sh\necho args: $*\nstat -L -c 'stdout %u:%g' /dev/stdout\n", 0o755)
	b.writeRecord(t)
	want, err := readSpec(b.bundle)
	if err != nil {
		t.Fatal(err)
	}
	out, message, err := b.create(t)
	if err != nil || message != "" || !strings.Contains(out, "args: --own ") || !strings.Contains(out, "stdout 0:0\n") {
		t.Fatal(err, message, out)
	}
	got, err := readSpec(b.bundle)
	if err != nil {
		t.Fatal(err)
	}
	object(want, "linux")["resources"] = map[string]any{"memory": map[string]any{"limit": json.Number("4194304")}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if out, message, err := b.call(t, "exec", "--process", "/p", id); err != nil || !strings.Contains(out, "stdout 0:0\n") {
		t.Error(err, message, out)
	}
	if out, _, err := b.call(t, "run", "--bundle", b.bundle, id); err == nil || strings.Contains(out, "args:") {
		t.Errorf("run: a runtime was executed: %s", out)
	}
}
