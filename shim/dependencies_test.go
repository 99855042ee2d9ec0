package shim_test

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const (
	module       = "github.com/cridock/cridock"
	dockerClient = "github.com/docker/docker/client"
)

// pkg is what go list prints for a package.
type pkg struct {
	ImportPath                string
	Standard                  bool
	Imports, Deps             []string
	TestImports, XTestImports []string
}

// TestDependencies checks the direction of dependencies that docs/architecture.md
// describes.
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
		case name == module+"/shim/engine":
			forbid(p, p.Deps, "the engine does not know CRI", under("k8s.io/cri-api"))
			forbid(p, p.Deps, "it is the lowest", under(module))
		case name == module+"/shim/pause", name == module+"/shim/checkpoint", name == module+"/shim/imagevolume", name == module+"/shim/oom":
			forbid(p, p.Deps, "it does not talk to Docker", func(d string) bool { return under(dockerClient)(d) || under(module+"/shim/engine")(d) })
		case under(module + "/internal")(name):
			forbid(p, p.Deps, "internal packages know only each other", func(d string) bool { return under(module)(d) && !under(module+"/internal")(d) })
		case name == module+"/cmd/cridock":
			forbid(p, p.Imports, "it only calls app", func(d string) bool {
				return strings.Contains(d, ".") && d != module+"/cmd/cridock/app"
			})
		case name == module+"/cmd/cridock/app":
			forbid(p, p.Imports, "it decides nothing about pods", func(d string) bool {
				return under("github.com/docker/docker")(d) || under("k8s.io/cri-api")(d) || under(module+"/shim/index")(d)
			})
		case under(module + "/cmd/cribench")(name):
			forbid(p, p.Deps, "a benchmark of others as well", under(module+"/shim"))
		case under(module + "/hack")(name):
			forbid(p, p.Imports, "it uses the CRI, as any client", under(module))
		case under(module + "/e2e")(name):
			forbid(p, slices.Concat(p.Imports, p.TestImports, p.XTestImports), "it tests the built binary", under(module))
		}
		if !under(module)(name) {
			continue
		}
		if !under(module + "/cmd")(name) {
			forbid(p, p.Deps, "nothing depends on a command", under(module+"/cmd"))
		}
		forbid(p, p.Imports, "it is for tests", under(module+"/shim/engine/enginetest"))
		// The benchmark measures Docker itself too, and may not use the shim's client.
		if name != module+"/shim/engine" && !under(module+"/cmd/cribench")(name) {
			forbid(p, p.Imports, "shim/engine alone imports the Docker client", under(dockerClient))
		}
	}
}

// list returns the packages of the module and all that they depend on.
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

// architecture is the document whose table of packages must be complete.
const architecture = "../docs/architecture.md"

// TestPackageTable compares that table with the module: each package has one row,
// and each row names packages that exist. A name that ends in /... covers the
// packages below it, as in Go's patterns.
func TestPackageTable(t *testing.T) {
	named := map[string]bool{} // and whether a package has that name
	for _, name := range packageTable(t) {
		if _, ok := named[name]; ok {
			t.Errorf("%s is in the table twice", name)
		}
		named[name] = false
	}
	for imported := range list(t) {
		name, ok := strings.CutPrefix(imported, module+"/")
		if !ok {
			continue
		}
		row := rowOf(name, named)
		if row == "" {
			t.Errorf("%s has no row for %s", architecture, name)
			continue
		}
		named[row] = true
	}
	for name, exists := range named {
		if !exists {
			t.Errorf("%s has a row for %s, which matches no package", architecture, name)
		}
	}
}

// rowOf returns the name in the table for a package: its own, else the longest
// pattern that covers it, else "".
func rowOf(name string, named map[string]bool) string {
	if _, ok := named[name]; ok {
		return name
	}
	for dir := name; dir != "."; dir = path.Dir(dir) {
		if _, ok := named[dir+"/..."]; ok {
			return dir + "/..."
		}
	}
	return ""
}

// packageTable returns the names in the first column of the table below "Packages".
func packageTable(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(architecture)
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "\n## Packages\n")
	if !ok {
		t.Fatalf("%s has no section Packages", architecture)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var names []string
	for line := range strings.Lines(section) {
		cells := strings.Split(line, "|")
		if len(cells) < 3 {
			continue
		}
		for i, part := range strings.Split(cells[1], "`") {
			if i%2 == 1 { // between backquotes
				names = append(names, part)
			}
		}
	}
	return names
}
