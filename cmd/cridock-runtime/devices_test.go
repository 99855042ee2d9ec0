package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cridock/cridock/internal/seam"
)

func TestSetDevices(t *testing.T) {
	const (
		host  = `{"path": "/dev/sda", "type": "b", "major": 8, "minor": 0, "uid": 0}`
		asked = `{"path": "/dev/x", "type": "c", "major": 1, "minor": 3, "uid": 0, "gid": 5}`
		rules = `[{"allow": true, "access": "rwm"}]`
	)
	uid, gid := uint32(1000), uint32(2000)
	for name, tc := range map[string]struct {
		devices               seam.Devices
		before, want, allowed string
	}{
		"owner": {seam.Devices{Nodes: []seam.DeviceNode{{Path: "/dev/x", UID: &uid}}}, `[` + host + `,` + asked + `]`,
			`[` + host + `,{"path": "/dev/x", "type": "c", "major": 1, "minor": 3, "uid": 1000, "gid": 5}]`, rules},
		"exclusive": {seam.Devices{Exclusive: true, Nodes: []seam.DeviceNode{{Path: "/dev/x", GID: &gid, Access: "rw"}}}, `[` + host + `,` + asked + `]`,
			`[{"path": "/dev/x", "type": "c", "major": 1, "minor": 3, "uid": 0, "gid": 2000}]`,
			`[{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"}]`},
		"none":                        {seam.Devices{Exclusive: true}, `[` + host + `]`, `[]`, `[{"allow": false, "access": "rwm"}]`},
		"one that hides a host's one": {seam.Devices{Exclusive: true, Nodes: []seam.DeviceNode{{Path: "/dev/x", Access: "r"}}}, `[{"path": "/dev/x", "type": "b", "major": 8, "minor": 0},` + asked + `]`, `[` + asked + `]`, `[{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "r"}]`},
	} {
		t.Run(name, func(t *testing.T) {
			s, bundle := parseSpec(t, `{"linux": {"devices": `+tc.before+`, "resources": {"devices": `+rules+`}}}`)
			if err := s.setDevices(&tc.devices); err != nil {
				t.Fatal(err)
			}
			_, out := changedSpec(t, s, bundle)
			if diff := cmp.Diff(parsed(t, `{"linux": {"devices": `+tc.want+`, "resources": {"devices": `+tc.allowed+`}}}`), out); diff != "" {
				t.Error(diff)
			}
		})
	}
	for _, text := range []string{`{}`, `{"linux": {"devices": {}}}`, `{"linux": {"devices": [` + host + `]}}`, `{"linux": {"devices": [` + asked + `], "resources": 1}}`} {
		s, _ := parseSpec(t, text)
		if err := s.setDevices(&seam.Devices{Exclusive: true, Nodes: []seam.DeviceNode{{Path: "/dev/x", Access: "r"}}}); err == nil {
			t.Errorf("%s is accepted", text)
		}
	}
}
