package app

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const root = "../../.."

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// table returns the rows below a header row, each as the text of its cells.
func table(t *testing.T, text, header string) [][]string {
	t.Helper()
	_, rest, ok := strings.Cut(text, header+"\n")
	if !ok {
		t.Fatalf("no table %q", header)
	}
	var rows [][]string
	for line := range strings.Lines(rest) {
		line, ok := strings.CutPrefix(strings.TrimSpace(line), "|")
		if !ok {
			break
		}
		cells := strings.Split(strings.TrimSuffix(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if !strings.HasPrefix(cells[0], "---") {
			rows = append(rows, cells)
		}
	}
	return rows
}

// quoted returns the parts of a text between backquotes.
func quoted(text string) []string {
	var parts []string
	for i, part := range strings.Split(text, "`") {
		if i%2 == 1 {
			parts = append(parts, part)
		}
	}
	return parts
}

// TestSettingsDocument: each flag is in the table, with its default.
func TestSettingsDocument(t *testing.T) {
	flags := pflag.NewFlagSet("cridock", pflag.ContinueOnError)
	NewOptions().AddFlags(flags)
	seen := map[string]bool{"config": true, "config-dir": true} // the text above the table has them
	for _, row := range table(t, read(t, "docs/settings.md"), "| setting | default | meaning |") {
		names, defaults := quoted(row[0]), quoted(row[1])
		if len(defaults) != 0 && len(defaults) != len(names) {
			t.Errorf("%s: %d defaults for %d settings", row[0], len(defaults), len(names))
			continue
		}
		for i, name := range names {
			if seen[name] {
				t.Errorf("%s is in the table twice", name)
			}
			seen[name] = true
			f := flags.Lookup(name)
			if f == nil || f.Hidden {
				t.Errorf("%s is not a setting", name)
				continue
			}
			want := ""
			if len(defaults) != 0 {
				want = defaults[i]
			}
			if got := documentedDefault(t, f); got != want {
				t.Errorf("%s: the document says the default is %q; it is %q", name, want, got)
			}
		}
	}
	flags.VisitAll(func(f *pflag.Flag) {
		if !f.Hidden && !seen[f.Name] {
			t.Errorf("docs/settings.md lacks %s", f.Name)
		}
	})
}

// documentedDefault returns a flag's default as the document writes it; "" for what
// is off or empty.
func documentedDefault(t *testing.T, f *pflag.Flag) string {
	t.Helper()
	switch f.Value.Type() {
	case "bool":
		if f.DefValue == "false" {
			return ""
		}
	case "stringSlice":
		return strings.Trim(f.DefValue, "[]")
	case "duration":
		d, err := time.ParseDuration(f.DefValue)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.TrimSuffix(d.String(), "0s")
		if rest, ok := strings.CutSuffix(text, "h0m"); ok {
			return rest + "h"
		}
		return text
	}
	if f.Name == "docker-config" && f.DefValue == defaultDockerConfig() {
		return "~/.docker/config.json"
	}
	return f.DefValue
}

// TestCompatibilityDocument: the document names all of cri-dockerd's settings that
// have another name or no effect.
func TestCompatibilityDocument(t *testing.T) {
	text := read(t, "docs/settings.md")
	flags := pflag.NewFlagSet("cridock", pflag.ContinueOnError)
	NewOptions().AddFlags(flags)
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden && !slices.Contains(quoted(text), f.Name) {
			t.Errorf("docs/settings.md does not mention %s", f.Name)
		}
	})
}

// TestCallsInREADME: each call of the CRI has one place in the table.
func TestCallsInREADME(t *testing.T) {
	var want, got []string
	for _, service := range []grpc.ServiceDesc{runtimeapi.RuntimeService_ServiceDesc, runtimeapi.ImageService_ServiceDesc} {
		for _, m := range service.Methods {
			want = append(want, m.MethodName)
		}
		for _, m := range service.Streams {
			want = append(want, m.StreamName)
		}
	}
	for _, row := range table(t, read(t, "README.md"), "| RPC | state |") {
		got = append(got, strings.Split(row[0], ", ")...)
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("README's table of calls (-CRI +README):\n%s", diff)
	}
}

// documents are all of the project's, relative to its root.
func documents(t *testing.T) []string {
	t.Helper()
	var paths []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && (d.Name() == ".git" || d.Name() == "vendor" || d.Name() == "bin") {
			return fs.SkipDir
		}
		if err == nil && strings.HasSuffix(path, ".md") {
			path, err = filepath.Rel(root, path)
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

// TestLinks: links between documents lead to files and headings that exist.
func TestLinks(t *testing.T) {
	for _, document := range documents(t) {
		for _, match := range link.FindAllStringSubmatch(read(t, document), -1) {
			if strings.Contains(match[1], "://") {
				continue
			}
			file, heading, _ := strings.Cut(match[1], "#")
			target := document
			if file != "" {
				target = filepath.Join(filepath.Dir(document), file)
			}
			if _, err := os.Stat(filepath.Join(root, target)); err != nil {
				t.Errorf("%s: %s: %v", document, match[1], err)
			} else if heading != "" && !slices.Contains(headings(read(t, target)), heading) {
				t.Errorf("%s: %s has no heading %s", document, target, heading)
			}
		}
	}
}

// headings returns the anchors of a document.
func headings(text string) []string {
	var anchors []string
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "#") {
			continue
		}
		anchors = append(anchors, strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-', r == '_', unicode.IsLetter(r), unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, strings.TrimSpace(strings.TrimLeft(line, "#"))))
	}
	return anchors
}

var declared = regexp.MustCompile(`(?m)^func ((?:Fuzz|Benchmark)\w+)\(`)

// TestListsInCONTRIBUTING: the tables have all fuzz targets and benchmarks, each
// beside its package.
func TestListsInCONTRIBUTING(t *testing.T) {
	var want, got []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(path))
		for _, match := range declared.FindAllSubmatch(b, -1) {
			want = append(want, dir+" "+string(match[1]))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	text := read(t, "CONTRIBUTING.md")
	for _, header := range []string{"| package | targets | what they decode |", "| package | benchmarks | what they measure |"} {
		dir := ""
		for _, row := range table(t, text, header) {
			if names := quoted(row[0]); len(names) == 1 {
				dir = names[0] // else the row continues the one above
			}
			for _, name := range quoted(row[1]) {
				got = append(got, dir+" "+name)
			}
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("CONTRIBUTING's tables (-code +CONTRIBUTING):\n%s", diff)
	}
}
