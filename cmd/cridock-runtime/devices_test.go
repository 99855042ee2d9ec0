package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
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

// TestCreateWithDevices: in a user namespace, devices that the host does not have on
// their paths become nodes of the container's own.
func TestCreateWithDevices(t *testing.T) {
	b := newBundle(t)
	uid := uint32(1000)
	b.record.Devices = &seam.Devices{Nodes: []seam.DeviceNode{{Path: "/dev/zero", UID: &uid}}}
	text, err := os.ReadFile(filepath.Join(b.bundle, specName))
	if err != nil {
		t.Fatal(err)
	}
	const devices = `"linux": {"devices": [{"path": "/dev/full", "type": "c", "major": 1, "minor": 7, "uid": 0}, {"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 5, "fileMode": 416, "uid": 0, "gid": 70000},
		{"path": "/dev/../dev/asked", "type": "b", "major": 7, "minor": 1, "uid": 5, "gid": 6}, {"path": "/dev/zero", "type": "c", "major": 1, "minor": 5, "uid": 0}],`
	b.writeFile(t, filepath.Join(b.bundle, specName), strings.Replace(string(text), `"linux": {`, devices, 1), 0o644)
	b.writeFile(t, b.record.Runtime.Path, "#!/bin/sh\ncd "+b.dir.Mounts()+"/devices && stat -c '%n %F %t:%T %u:%g %a' *\n", 0o755)
	b.writeRecord(t)
	out, message, err := b.create(t)
	const want = "1 character special file 1:5 100000:200000 640\n2 block special file 7:1 100005:200006 666\n3 character special file 1:5 101000:200000 666\n"
	if err != nil || out != want {
		t.Fatalf("%v, %s: %s", err, message, out)
	}
	s, err := readSpec(b.bundle)
	if err != nil {
		t.Fatal(err)
	}
	if left, err := objects(object(s, "linux"), "devices"); err != nil || len(left) != 1 || left[0]["path"] != "/dev/full" {
		t.Errorf("the real runtime has the devices %v, %v", left, err)
	}
	mounts, err := objects(s, "mounts")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range mounts[len(mounts)-3:] {
		got = append(got, fmt.Sprint(m["type"], m["source"], m["destination"]))
	}
	nodes := b.dir.Mounts() + "/devices/"
	if diff := cmp.Diff([]string{"bind" + nodes + "1/dev/kmsg", "bind" + nodes + "2/dev/asked", "bind" + nodes + "3/dev/zero"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestReadDevice(t *testing.T) {
	for _, device := range []map[string]any{{}, {"type": "c", "path": "dev"}, {"type": "x", "path": "/dev/x"}, {"type": "c", "path": "/dev/x", "major": -1}, {"type": "c", "path": "/dev/x", "uid": "root"}} {
		if n, err := readDevice(device); err == nil {
			t.Errorf("%v is %+v", device, n)
		}
	}
}
