package shim_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestNeverColumn checks what a package never imports according to the table of
// packages in docs/architecture.md, beyond the directions that TestDependencies
// checks.
func TestNeverColumn(t *testing.T) {
	direct := func(p pkg) []string { return p.Imports }
	all := func(p pkg) []string { return p.Deps }
	tests := func(p pkg) []string { return slices.Concat(p.Imports, p.TestImports, p.XTestImports) }
	packages := list(t)
	for _, rule := range []struct {
		names   string // a package of the module, or a pattern with /...
		imports func(pkg) []string
		never   []string
		except  string // below one of never, but allowed
	}{
		{"cmd/cridock", direct, []string{module}, module + "/cmd/cridock/app"},
		{"cmd/cridock/app", direct, []string{"github.com/docker/docker"}, ""},
		{"shim/pause", all, []string{dockerClient, module + "/shim/engine"}, ""},
		{"shim/checkpoint", all, []string{dockerClient, module + "/shim/engine"}, ""},
		{"shim/mounts/imagevolume", all, []string{dockerClient, module + "/shim/engine"}, ""},
		{"shim/oom", all, []string{dockerClient, module + "/shim/engine"}, ""},
		{"internal/...", all, []string{module}, module + "/internal"},
		{"hack/...", direct, []string{module}, ""},
		{"e2e/...", tests, []string{module}, module + "/internal"},
		{"...", direct, []string{module + "/shim/engine/enginetest"}, ""},
	} {
		found := false
		for name, p := range packages {
			if !matches(rule.names, name) {
				continue
			}
			found = true
			for _, imported := range rule.imports(p) {
				if slices.ContainsFunc(rule.never, func(root string) bool { return below(root, imported) }) &&
					(rule.except == "" || !below(rule.except, imported)) {
					t.Errorf("%s imports %s", name, imported)
				}
			}
		}
		if !found {
			t.Errorf("no package matches %s", rule.names)
		}
	}
}

// matches reports whether a pattern names a package of the module, given by its
// import path.
func matches(pattern, importPath string) bool {
	if dir, ok := strings.CutSuffix(pattern, "..."); ok {
		return below(strings.TrimSuffix(module+"/"+dir, "/"), importPath)
	}
	return importPath == module+"/"+pattern
}

func below(root, importPath string) bool {
	return importPath == root || strings.HasPrefix(importPath, root+"/")
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

// TestServiceIsSmall: what handlers share is a part with a type of its own, and not
// one more method of Service.
func TestServiceIsSmall(t *testing.T) {
	const most = 99
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	methods := 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range parsed.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Recv == nil {
				continue
			}
			if p, ok := f.Recv.List[0].Type.(*ast.StarExpr); ok {
				if name, ok := p.X.(*ast.Ident); ok && name.Name == "Service" {
					methods++
				}
			}
		}
	}
	if methods == 0 || methods > most {
		t.Errorf("Service has %d methods, want at most %d", methods, most)
	}
}
