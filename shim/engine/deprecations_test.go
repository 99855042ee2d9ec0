package engine

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDeprecations(t *testing.T) {
	for _, tc := range []struct {
		name string
		caps *Capabilities
		want []string
	}{
		{"before the first connect", nil, nil},
		{"current", &Capabilities{APIVersion: "1.44", CgroupV2: true}, nil},
		{"cgroup v1", &Capabilities{APIVersion: "1.51"}, []string{DeprecatedCgroupV1}},
		{"Docker 24", &Capabilities{APIVersion: "1.43", CgroupV2: true}, []string{DeprecatedEngine}},
		{"Docker 20.10 on cgroup v1", &Capabilities{APIVersion: "1.41"}, []string{DeprecatedCgroupV1, DeprecatedEngine}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got []string
			for _, d := range tc.caps.Deprecations() {
				got = append(got, d.Name)
				if d.Why == "" || d.Cure == "" {
					t.Errorf("%+v lacks a sentence", d)
				}
				if _, ok := tc.caps.Deprecated(d.Name); !ok {
					t.Errorf("Deprecated does not find %s", d.Name)
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("deprecations (-want +got):\n%s", diff)
			}
		})
	}
}
