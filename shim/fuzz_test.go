package shim

import (
	"context"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/internal/beneath"
)

// FuzzCgroupDir: wherever a process says that it is, limits are written below
// the mounted control groups.
func FuzzCgroupDir(f *testing.F) {
	f.Add("0::/kubepods/pod1/c\n", "memory.high")
	f.Add("0::/../../../etc\n", "memory.high")
	f.Add("5:memory:/docker/c\n4:cpu,cpuacct:/docker/c\n", "cpu.shares")
	f.Add("5:../..:/x\n", "../...")
	f.Add("0::/docker/c\n", "../x")
	f.Fuzz(func(t *testing.T, membership, file string) {
		for _, v2 := range []bool{true, false} {
			found, ok := findCgroupFile("/cg", membership, file, v2)
			if !ok {
				continue
			}
			path := found.root.Path(found.name)
			if rest, below := strings.CutPrefix(path, "/cg/"); !below || !filepath.IsLocal(rest) || filepath.Base(path) != file {
				t.Fatalf("%q is %q", file, path)
			}
		}
	})
}

// FuzzUpdates: the limits that were kept come back as they were, and a file
// that was damaged hides no container.
func FuzzUpdates(f *testing.F) {
	f.Add([]byte(`{"unified":{"memory.high":"1"},"hugepageLimits":[{"pageSize":"2MB","limit":"4"}],"oomScoreAdj":"5"}`))
	f.Add([]byte(`{"unified":{"../../x":"1"},"newer":1}`))
	f.Add([]byte("{"))
	klog.SetLogger(klog.Logger{})
	f.Fuzz(func(t *testing.T, content []byte) {
		root := beneath.Root(t.TempDir())
		if err := root.MkdirAll(updatesDir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := root.WriteFile(updatesDir+"/c.json", content, 0o600); err != nil {
			t.Fatal(err)
		}
		first := &updates{state: root}
		kept := first.get("c")
		if kept == nil {
			return
		}
		if err := first.keep("d", kept); err != nil {
			t.Fatal(err)
		}
		second := &updates{state: root}
		want := &runtimeapi.LinuxContainerResources{Unified: kept.Unified, HugepageLimits: kept.HugepageLimits, OomScoreAdj: kept.OomScoreAdj}
		if got := second.get("d"); !proto.Equal(got, want) {
			t.Fatalf("%v, want %v", got, want)
		}
		if err := second.forget("d"); err != nil || second.get("d") != nil {
			t.Fatalf("not forgotten: %v", err)
		}
	})
}

// FuzzNodeCredentials: whatever Docker's config.json is, no error and no other
// registry gets what is in it. Helpers are programs of the node's and not run.
func FuzzNodeCredentials(f *testing.F) {
	f.Add(`{`, `}`, "registry.test")
	f.Add(`{"HttpHeaders":{"a":"b"},`, `,"auths":{"other.test":{"auth":"!"}}}`, "other.test")
	f.Add(`[`, `]`, "https://registry.test/v1/")
	f.Fuzz(func(t *testing.T, before, after, host string) {
		const secret = "s3cret-of-the-registry"
		encoded := base64.StdEncoding.EncodeToString([]byte("user:" + secret))
		text := before + `"auths":{"registry.test":{"auth":"` + encoded + `"}}` + after
		if lower := strings.ToLower(text); strings.Contains(lower, "cred") || strings.Contains(text, `\u`) {
			return
		}
		path := filepath.Join(t.TempDir(), "config.json")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		auth, err := nodeCredentials(context.Background(), path, host)
		if err != nil && (strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), encoded)) {
			t.Fatalf("the error has the credentials: %v", err)
		}
		if auth.Password == secret && !strings.Contains(host, "registry.test") {
			t.Fatalf("%q gets the credentials of registry.test", host)
		}
	})
}

// FuzzPullProgress: a stream of messages ends in a digest or an error; one that
// reports an error never counts as pulled.
func FuzzPullProgress(f *testing.F) {
	f.Add([]byte(`{"status":"Pulling","id":"a","progressDetail":{"current":1,"total":2}}{"status":"Digest: sha256:0"}`))
	f.Add([]byte(`{"error":"denied","errorDetail":{"message":"denied"}}`))
	f.Add([]byte(`{"status":"Digest: x"}{`))
	f.Fuzz(func(t *testing.T, stream []byte) {
		p := &pullProgress{log: klog.Background()}
		digest, err := p.follow(strings.NewReader(string(stream)))
		if err != nil && digest != "" {
			t.Fatalf("%q, %v", digest, err)
		}
		if _, after := p.follow(strings.NewReader(string(stream) + `{"error":"refused"}`)); after == nil {
			t.Fatal("an error at the end is overlooked")
		}
	})
}
