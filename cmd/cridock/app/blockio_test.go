package app

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/cridock/cridock/internal/needs"
	"github.com/cridock/cridock/translate"
)

func TestBlockIOConfigFile(t *testing.T) {
	needs.Root(t, "makes block devices")
	dir := t.TempDir()
	for i, name := range []string{"a1", "a2", "b"} {
		if err := unix.Mknod(filepath.Join(dir, name), unix.S_IFBLK|0o600, int(unix.Mkdev(7, uint32(i)))); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "a-file.yaml") // matched by the glob, but no device
	read := func(text string) (map[string]*translate.BlockIOClass, error) {
		text = strings.ReplaceAll(text, "DIR", dir)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		o, err := parse(t, "", "--blockio-config-file="+file)
		if err != nil {
			return nil, err
		}
		return o.blockIOClasses()
	}
	got, err := read(`Classes:
  low:
  - Weight: "80"
  - Devices: [DIR/a*, DIR/a1]
    ThrottleReadBps: 60M
    ThrottleWriteBps: 1Ki
  - Devices: [DIR/a2]
    ThrottleReadBps: 5
    ThrottleReadIOPS: 7
    ThrottleWriteIOPS: 8
    Weight: 90
  empty: []
`)
	if err != nil {
		t.Fatal(err)
	}
	throttle := func(name string, rate uint64) translate.BlockIOLimit {
		return translate.BlockIOLimit{Device: filepath.Join(dir, name), Value: rate}
	}
	type throttles = []translate.BlockIOLimit
	want := map[string]*translate.BlockIOClass{"empty": {}, "low": {
		Weight: 80, Weights: throttles{{Device: dir + "/a2", Value: 90}},
		ReadBps: throttles{throttle("a1", 60e6), throttle("a2", 5)}, WriteBps: throttles{throttle("a1", 1024), throttle("a2", 1024)},
		ReadIOps: throttles{throttle("a2", 7)}, WriteIOps: throttles{throttle("a2", 8)},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for text, want := range map[string]string{
		"Classes: {a: [{Weight: 5}]}":                               "from 10 to 1000",
		"Classes: {a: [{Weight: 70000}]}":                           "from 10 to 1000",
		"Classes: {a: [{Weight: -5}]}":                              "positive",
		"Classes: {a: [{ThrottleReadBps: 1M}]}":                     "without Devices",
		"Classes: {a: [{Devices: [DIR/c*], ThrottleReadBps: 1M}]}":  "no block device",
		"Classes: {a: [{Devices: [DIR/a-file.yaml]}]}":              "no block device",
		"Classes: {a: [{Devices: ['DIR/[']}]}":                      "syntax error",
		"Classes: {a: [{Devices: [DIR/b], ThrottleReadBps: fast}]}": "positive",
		"Classes: {a: [{ThrottleReadBPS2: 1}]}":                     "unknown field",
	} {
		if got, err := read(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v; want %q", text, got, err, want)
		}
	}
}
