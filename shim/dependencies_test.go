package shim_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const (
	module       = "github.com/cridock/cridock"
	dockerClient = "github.com/docker/docker/client"
)

// pkg is go list's description of a package.
type pkg struct {
	ImportPath                string
	Standard                  bool
	Imports, Deps             []string
	TestImports, XTestImports []string
}

// TestDependencies checks the direction of dependencies between packages.
func TestDependencies(t *testing.T) {
	packages := list(t)
	own := func(path string) pkg {
		t.Helper()
		p, ok := packages[module+"/"+path]
		if !ok {
			t.Fatalf("there is no package %s", path)
		}
		return p
	}
	under := func(root string) func(string) bool {
		return func(path string) bool { return path == root || strings.HasPrefix(path, root+"/") }
	}
	is := func(paths ...string) func(string) bool {
		return func(path string) bool { return slices.Contains(paths, path) }
	}
	forbid := func(p pkg, of []string, what string, bad func(string) bool) {
		t.Helper()
		for _, d := range of {
			if bad(d) {
				t.Errorf("%s depends on %s: %s", p.ImportPath, d, what)
			}
		}
	}

	p := own("translate")
	forbid(p, p.Imports, "it is pure", func(d string) bool {
		return slices.Contains([]string{
			"context", "io", "io/fs", "log", "log/slog", "net", "net/http", "os", "os/exec", "sync", "syscall", "golang.org/x/sys/unix",
		}, d) || under("k8s.io/klog")(d) || under("google.golang.org/grpc")(d)
	})
	forbid(p, p.Deps, "it does no I/O", under(dockerClient))
	forbid(p, p.Deps, "everything else depends on it", under(module+"/shim"))

	for _, command := range []string{"cmd/cridock", "cmd/cribench"} {
		p := own(command)
		forbid(p, p.Deps, "helpers of tests are not shipped", func(d string) bool { return d == "testing" })
	}

	for name, p := range packages {
		switch {
		case under(module + "/streaming")(name):
			forbid(p, p.Deps, "streaming does not know Docker", under("github.com/docker/docker"))
			forbid(p, p.Deps, "streaming and network do not know each other", under(module+"/network"))
			forbid(p, p.Deps, "dependencies point the other way", under(module+"/shim"))
		case under(module + "/network")(name):
			forbid(p, p.Deps, "network does not know Docker", under("github.com/docker/docker"))
			forbid(p, p.Deps, "streaming and network do not know each other", under(module+"/streaming"))
			forbid(p, p.Deps, "dependencies point the other way", under(module+"/shim"))
		case under(module + "/shim/mounts/imagevolume")(name):
			forbid(p, p.Deps, "it knows directories alone", under(module+"/shim/engine"))
			forbid(p, p.Deps, "it knows directories alone", under(module+"/translate"))
			forbid(p, p.Deps, "dependencies point the other way", is(module+"/shim", module+"/shim/mounts"))
		case under(module + "/shim/mounts")(name):
			forbid(p, p.Imports, "shim alone makes gRPC codes", under("google.golang.org/grpc"))
			forbid(p, p.Imports, "it knows no other part of shim", func(d string) bool {
				return under(module)(d) && !under(name)(d) && !under(module+"/internal")(d) && !is(module+"/shim/engine", module+"/translate")(d)
			})
		case name == module+"/shim/limits":
			forbid(p, p.Deps, "it knows no other part of the shim", under(module+"/shim"))
			forbid(p, p.Imports, "shim makes gRPC codes", under("google.golang.org/grpc"))
		case name == module+"/shim/engine":
			forbid(p, p.Deps, "the engine does not know CRI", under("k8s.io/cri-api"))
			forbid(p, p.Deps, "it is the lowest", under(module))
		case name == module+"/cmd/cridock-runtime":
			forbid(p, p.Deps, "every start of a container loads it", func(d string) bool {
				return under(module)(d) && !is(module+"/internal/seam", module+"/internal/idmap", module+"/internal/ocifeatures")(d)
			})
		case name == module+"/cmd/cridock/doctor":
			forbid(p, p.Deps, "it looks at the node and serves nothing", func(d string) bool { return d == module+"/shim" })
		case name == module+"/shim/images":
			forbid(p, p.Imports, "it does not know the service's other parts", func(d string) bool {
				return under(module+"/shim")(d) && !slices.Contains([]string{module + "/shim/engine", module + "/shim/images/mirror", module + "/shim/pause", module + "/shim/stats"}, d)
			})
			forbid(p, p.Imports, "gRPC is the service's", under("google.golang.org/grpc"))
		case name == module+"/internal/keylock":
			forbid(p, p.Deps, "it is one of the lowest", func(d string) bool { return under(module)(d) && d != name })
		case under(module + "/cmd/cribench")(name):
			forbid(p, p.Deps, "a benchmark of others as well", under(module+"/shim"))
		}
		if !under(module)(name) {
			continue
		}
		if !under(module + "/cmd")(name) {
			forbid(p, p.Deps, "nothing depends on a command", under(module+"/cmd"))
		}
		// The benchmark also measures Docker itself, and must not use the shim's
		// client.
		if name != module+"/shim/engine" && !under(module+"/cmd/cribench")(name) {
			forbid(p, p.Imports, "shim/engine alone imports the Docker client", under(dockerClient))
		}
	}
}

// list returns the packages of the module and all their dependencies.
func list(t *testing.T) map[string]pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=ImportPath,Standard,Imports,Deps,TestImports,XTestImports", module+"/...")
	var message strings.Builder
	cmd.Stderr = &message
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, message.String())
	}
	packages := map[string]pkg{}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages[p.ImportPath] = p
	}
}
