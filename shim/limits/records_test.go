package limits

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"k8s.io/klog/v2"
)

// TestDamagedRecords: names of cgroup files are checked when they are read, and
// a damaged document hides neither its container nor others.
func TestDamagedRecords(t *testing.T) {
	f := newFixture(t)
	for id, doc := range map[string]string{
		"good": `{"unified":{"memory.high":"1"},"newer":1}`, "path": `{"unified":{"cpu./../../x":"1"}}`, "own": `{"unified":{"cgroup.freeze":"1"}}`,
		"page": `{"hugepageLimits":[{"pageSize":"../2MB"}]}`, "cut": `{"unified":{`, "unreadable": "",
	} {
		f.store.docs[id] = []byte(doc)
		f.add(id, running, &linuxResources{CpuShares: 3}, nil)
	}
	for id, c := range f.index.byID {
		want := &linuxResources{CpuShares: 3}
		if id == "good" {
			want.Unified = map[string]string{"memory.high": "1"}
		}
		if diff := cmp.Diff(want, f.Effective(c).Resources, protocmp.Transform()); diff != "" {
			t.Errorf("resources of %s (-want +got):\n%s", id, diff)
		}
	}
	// An incomplete list is better than none.
	f.store.list = errors.New("unreadable")
	c := f.index.byID["good"]
	if f.newKeeper().Effective(c) == c {
		t.Error("what was listed is lost")
	}
}

// TestEffectiveIsKept: a status of an unchanged container costs nothing new.
func TestEffectiveIsKept(t *testing.T) {
	f := newFixture(t)
	c := f.add("c", running, &linuxResources{}, nil)
	k := f.newKeeper()
	f.must(k.records.keep("c", high("1")))
	first := k.Effective(c)
	if first == c || k.Effective(c) != first {
		t.Error("the effective container is made anew for each status")
	}
	again := *c
	if k.Effective(&again) == first {
		t.Error("a changed container has the old result")
	}
	f.must(k.records.keep("c", high("2")))
	if got := k.Effective(c).Resources.Unified["memory.high"]; got != "2" {
		t.Errorf("after another update: %s, want 2", got)
	}
}

func TestForget(t *testing.T) {
	f := newFixture(t)
	a, b := f.add("a", running, &linuxResources{}, nil), f.add("b", running, &linuxResources{}, nil)
	f.must(f.records.keep("a", high("1")))
	f.must(f.records.keep("b", high("2")))
	f.store.docs["damaged"] = nil
	k := f.newKeeper()
	f.store.remove = errors.New("in use")
	if err := k.Forget("a"); !errors.Is(err, f.store.remove) {
		t.Errorf("%v; want why the document is left", err)
	}
	f.store.remove = nil
	for _, id := range []string{"a", "a", "damaged", "other"} {
		f.must(k.Forget(id))
	}
	if k.Effective(a) != a || k.Effective(b) == b {
		t.Error("not the container's resources were forgotten")
	}
	if _, ok := f.store.docs["b"]; !ok || len(f.store.docs) != 1 {
		t.Errorf("left are %s", f.store.docs)
	}
}

// FuzzUpdates: stored limits are read back unchanged, and a damaged document
// hides no container.
func FuzzUpdates(f *testing.F) {
	f.Add([]byte(`{"unified":{"memory.high":"1"},"hugepageLimits":[{"pageSize":"2MB","limit":"4"}],"oomScoreAdj":"5"}`))
	f.Add([]byte(`{"unified":{"../../x":"1"},"newer":1}`))
	f.Add([]byte("{"))
	klog.SetLogger(klog.Logger{})
	f.Fuzz(func(t *testing.T, content []byte) {
		store := newFakeStore()
		store.docs["c"] = content
		first := &records{store: store}
		u := first.get("c")
		if u == nil {
			return
		}
		kept := u.resources
		if err := first.keep("d", kept); err != nil {
			t.Fatal(err)
		}
		second := &records{store: store}
		want := &linuxResources{Unified: kept.Unified, HugepageLimits: kept.HugepageLimits, OomScoreAdj: kept.OomScoreAdj}
		if got := second.get("d"); got == nil || !proto.Equal(got.resources, want) {
			t.Fatalf("%v, want %v", got, want)
		}
		if err := second.forget("d"); err != nil || second.get("d") != nil {
			t.Fatalf("not forgotten: %v", err)
		}
	})
}
