package result

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestDocumentSurvivesAFile(t *testing.T) {
	d := &Document{Schema: Schema, Run: "r", Machine: ThisMachine(), Targets: []Target{{Name: "a"}}}
	key := Key{Workload: "pod start", Step: "sandbox", Level: 2, Unit: Seconds}
	d.Add("a", key, 0.5)
	d.Add("a", key, 0.25)
	d.Fail("a", key, errors.New("no"))
	d.Note("once")
	d.Note("once")
	path := filepath.Join(t.TempDir(), "r.json")
	if err := d.Write(path); err != nil {
		t.Fatal(err)
	}
	got, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(d, got, cmpopts.IgnoreUnexported(Document{})); diff != "" {
		t.Errorf("written and read differ (-written +read):\n%s", diff)
	}
	want := []*Series{{Key: key, Target: "a", Samples: []float64{0.5, 0.25}, Failures: 1, LastError: "no"}}
	if diff := cmp.Diff(want, got.Series); diff != "" {
		t.Error(diff)
	}
	if len(got.Notes) != 1 {
		t.Errorf("notes %q, want one", got.Notes)
	}
}

func TestReadRefusesAnotherSchema(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.json")
	if err := os.WriteFile(path, []byte(`{"schema": 99}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(path); err == nil {
		t.Error("schema 99 was read")
	}
}

func TestKeysAreGrouped(t *testing.T) {
	d := &Document{}
	for _, k := range []Key{
		{"read", "list", 10, Seconds}, {"memory", "total", 10, MiB},
		{"read", "stats", 10, Seconds}, {"read", "list", 50, Seconds},
	} {
		d.Add("a", k, 1)
		d.Add("b", k, 1)
	}
	want := []Key{
		{"read", "list", 10, Seconds}, {"read", "list", 50, Seconds},
		{"read", "stats", 10, Seconds}, {"memory", "total", 10, MiB},
	}
	if diff := cmp.Diff(want, d.Keys()); diff != "" {
		t.Error(diff)
	}
}

func TestThisMachine(t *testing.T) {
	m := ThisMachine()
	if m.Kernel == "" || m.CPUs == 0 || m.MemoryMiB == 0 {
		t.Errorf("unknown: %+v", m)
	}
}
