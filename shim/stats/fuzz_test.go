package stats

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// FuzzNumber: a number is parsed exactly or not at all.
func FuzzNumber(f *testing.F) {
	for _, seed := range []string{"0", "18446744073709551615", "18446744073709551616", "max", "-1", "1 ", "007"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		v, ok := parseUint([]byte(text))
		if text == "max" {
			if !ok || v != none {
				t.Fatalf("max is %d, %v", v, ok)
			}
			return
		}
		digits := text != "" && strings.Trim(text, "0123456789") == ""
		want := strings.TrimLeft(text, "0")
		if want == "" {
			want = "0"
		}
		fits := len(want) < 20 || len(want) == 20 && want <= decimal(math.MaxUint64)
		if ok != (digits && fits) || ok && decimal(v) != want {
			t.Fatalf("%q is %d, %v", text, v, ok)
		}
	})
}

// FuzzMembership: the group found is below its hierarchy, and its last element
// names the container.
func FuzzMembership(f *testing.F) {
	f.Add("0::/kubepods/pod1/"+appID+"/init\n", "/", true)
	f.Add("0::/../../"+appID+"\n", "/", true)
	f.Add("0::../../"+appID+"\n", "/x", true)
	f.Add("4:memory:/docker/"+appID+"\n3:cpu,cpuacct:/docker/"+appID+"/x\n", "/docker", false)
	f.Fuzz(func(t *testing.T, content, mountRoot string, unified bool) {
		h := &hierarchies{
			root: "/cg", unified: unified, mountRoots: map[string]string{"/cg": mountRoot, "/cg/memory": mountRoot},
			controllers: map[string]string{"memory": "/cg/memory", "cpuacct": "/cg/cpu,cpuacct"},
		}
		g, err := h.find(appID, []byte(content))
		if err != nil {
			return
		}
		dirs := map[string]string{}
		switch g := g.(type) {
		case *unifiedGroup:
			dirs["/cg"] = g.dir
		case *v1Group:
			dirs["/cg/memory"], dirs["/cg/cpu,cpuacct"] = g.memoryDir, g.cpuacctDir
		}
		for root, dir := range dirs {
			if rel, err := filepath.Rel(root, dir); err != nil || !filepath.IsLocal(rel) {
				t.Fatalf("%q is not below %s", dir, root)
			}
			if dir != root && !strings.Contains(filepath.Base(dir), appID) {
				t.Fatalf("%q is not the container's", dir)
			}
		}
	})
}

// FuzzCgroupFiles: whatever text is in the files of a container's groups, the
// result is an error or consistent stats.
func FuzzCgroupFiles(f *testing.F) {
	f.Add([]byte("usage_usec 12\nnr_periods 3\nthrottled_usec 18446744073709551615\n"), []byte("18446744073709551615"), true)
	f.Add([]byte("total_rss 1\ntotal_inactive_file 99999999999\ntotal_swap 4\n8:0 Read 12\n"), []byte("max 100000\n"), false)
	f.Add([]byte("some avg10=1.00 avg60=NaN avg300=1e999 total=18446744073709551615\n8:0 rbytes=1 wios=x\n"), []byte("7\n"), true)
	stats := map[bool]func(keyed, number []byte) (*runtimeapi.ContainerStats, error){}
	for version, unified := range map[string]bool{"v1": false, "v2": true} {
		stats[unified] = writableFixture(f, version)
	}
	f.Fuzz(func(t *testing.T, keyed, number []byte, unified bool) {
		s, err := stats[unified](keyed, number)
		if err != nil {
			return
		}
		if _, err := proto.Marshal(s); err != nil {
			t.Fatalf("cannot be sent: %v", err)
		}
		if m := s.Memory; m.GetUsageBytes() != nil && m.GetWorkingSetBytes().GetValue() > m.GetUsageBytes().GetValue() {
			t.Fatalf("working set: %v", m)
		}
		for _, psi := range []*runtimeapi.PsiStats{s.Cpu.GetPsi(), s.Memory.GetPsi(), s.Io.GetPsi()} {
			for _, d := range []*runtimeapi.PsiData{psi.GetFull(), psi.GetSome()} {
				for _, avg := range []float64{d.GetAvg10(), d.GetAvg60(), d.GetAvg300()} {
					if math.IsNaN(avg) || math.IsInf(avg, 0) {
						t.Fatalf("pressure: %v", d)
					}
				}
			}
		}
	})
}

// writableFixture copies a fixture, and returns a function that overwrites the
// container's groups: files with a single number with number, the others with
// keyed.
func writableFixture(f *testing.F, version string) func(keyed, number []byte) (*runtimeapi.ContainerStats, error) {
	dir := f.TempDir()
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", version))); err != nil {
		f.Fatal(err)
	}
	c := New(Options{CgroupRoot: dir + "/cgroup", ProcRoot: dir + "/proc", SysRoot: "testdata/sys"})
	var keyedFiles, numberFiles []string
	err := filepath.WalkDir(dir+"/cgroup", func(name string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.Contains(name, appID) {
			return err
		}
		switch base := filepath.Base(name); {
		case base == "cgroup.procs":
		case strings.Contains(base, "stat") || strings.Contains(base, "pressure") || strings.Contains(base, "io_") || strings.Contains(base, "events"):
			keyedFiles = append(keyedFiles, name)
		default:
			numberFiles = append(numberFiles, name)
		}
		return nil
	})
	if err != nil || len(keyedFiles) == 0 || len(numberFiles) == 0 {
		f.Fatal(err, keyedFiles, numberFiles)
	}
	return func(keyed, number []byte) (*runtimeapi.ContainerStats, error) {
		for content, names := range map[*[]byte][]string{&keyed: keyedFiles, &number: numberFiles} {
			for _, name := range names {
				if err := os.WriteFile(name, *content, 0o600); err != nil {
					f.Fatal(err)
				}
			}
		}
		c.Forget(appID)
		return c.Container(context.Background(), fixtureContainer())
	}
}

// FuzzProcFiles: a process chooses the names of its interfaces and what it
// mounts; none of that may prevent the pod's stats from being sent.
func FuzzProcFiles(f *testing.F) {
	f.Add([]byte("Inter-|\n face |bytes\n  eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n"))
	f.Add([]byte("\xff\xfe: 1\n"))
	f.Add([]byte("Max open files            1024  4096  files\n"))
	f.Add([]byte("1 2 0:3 / / rw - overlay overlay rw,lowerdir=/l,upperdir=/u\\040pper\n3 4 0:5 / / rw - tmpfs tmpfs rw\n"))
	f.Add([]byte("1 2 0:3 / / rw - overlay overlay rw,upperdir=../../etc\n"))
	dir := f.TempDir()
	if err := os.MkdirAll(dir+"/1/net", 0o700); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		for _, name := range []string{"net/dev", "limits", "mountinfo"} {
			if err := os.WriteFile(filepath.Join(dir, "1", name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		p, err := openProcess(dir, 1)
		if err != nil {
			t.Fatal(err)
		}
		defer p.close()
		list, err := p.interfaces()
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range list {
			if !utf8.ValidString(i.name) || i.name == "lo" {
				t.Fatalf("interface %q", i.name)
			}
		}
		if _, err := p.openFilesLimit(); err != nil {
			t.Fatal(err)
		}
		if upper := p.root().upper; upper != "" && !filepath.IsAbs(upper) {
			t.Fatalf("upper directory %q", upper)
		}
	})
}
