package trust

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cridock/cridock/internal/needs"
)

const nobody = 65534

// tree is a file below some directories, all of them trusted, and ways to change that.
type tree struct {
	t   *testing.T
	dir string
}

func (f tree) path(name string) string { return filepath.Join(f.dir, name) }

func (f tree) chmod(name string, mode fs.FileMode) {
	f.t.Helper()
	if err := os.Chmod(f.path(name), mode); err != nil {
		f.t.Fatal(err)
	}
}

func (f tree) chown(name string) {
	f.t.Helper()
	needs.Root(f.t, "gives files away")
	if err := os.Lchown(f.path(name), nobody, -1); err != nil {
		f.t.Fatal(err)
	}
}

// link replaces the file by a link.
func (f tree) link(target string) {
	f.t.Helper()
	if err := errors.Join(os.Remove(f.path("a/b/file")), os.Symlink(target, f.path("a/b/file"))); err != nil {
		f.t.Fatal(err)
	}
}

func newTree(t *testing.T) tree {
	t.Helper()
	f := tree{t, t.TempDir()}
	for _, dir := range []string{"a/b", "other/sub", "public"} {
		if err := os.MkdirAll(f.path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"a/b/file", "other/file", "public/file"} {
		if err := os.WriteFile(f.path(name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	f.chmod("public", 0o777)
	return f
}

func TestCheck(t *testing.T) {
	for name, c := range map[string]struct {
		change func(f tree)
		want   string // words of the refusal
	}{
		"trusted":                  {func(tree) {}, ""},
		"public file":              {func(f tree) { f.chmod("a/b/file", 0o646) }, "a/b/file is writable"},
		"group's file":             {func(f tree) { f.chmod("a/b/file", 0o664) }, "a/b/file is writable"},
		"somebody's file":          {func(f tree) { f.chown("a/b/file") }, "belongs to user 65534"},
		"public directory":         {func(f tree) { f.chmod("a/b", 0o777) }, "a/b is writable"},
		"sticky directory":         {func(f tree) { f.chmod("a/b", fs.ModeSticky|0o777) }, ""},
		"public directory above":   {func(f tree) { f.chmod("a", 0o777) }, "a is writable"},
		"somebody's directory":     {func(f tree) { f.chown("a") }, "belongs to user 65534"},
		"link":                     {func(f tree) { f.link("../../other/file") }, ""},
		"somebody's link":          {func(f tree) { f.link("../../other/file"); f.chown("a/b/file") }, "belongs to user 65534"},
		"link to public directory": {func(f tree) { f.link(f.path("public/file")) }, "public is writable"},
		// Without links, the path that it leads to would be other/file.
		"link over another link": {func(f tree) {
			f.link("../../other/up/../file")
			if err := errors.Join(os.Mkdir(f.path("public/x"), 0o755), os.Symlink("../public/x", f.path("other/up"))); err != nil {
				f.t.Fatal(err)
			}
		}, "public is writable"},
		"circle":  {func(f tree) { f.link("file") }, "symbolic links"},
		"missing": {func(f tree) { f.link("nothing") }, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newTree(t)
			c.change(f)
			err := Check(f.path("a/b/file"), os.Geteuid())
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v; want %q", err, c.want)
			}
		})
	}
}

// TestCheckUser: what belongs to a user is trusted only by the user.
func TestCheckUser(t *testing.T) {
	f := newTree(t)
	f.chown("a/b/file")
	if err := Check(f.path("a/b/file"), nobody); err != nil {
		t.Errorf("the owner does not trust the file: %v", err)
	}
	if err := Check(f.path("a/b/file"), nobody-1); err == nil {
		t.Error("another user trusts the file")
	}
}

// TestCheckLookup: what a path leads to may be writable for others, or missing.
func TestCheckLookup(t *testing.T) {
	f := newTree(t)
	for path, trusted := range map[string]bool{"public": true, "public/file": false, "public/none": false, "a/none/none": true} {
		if err := CheckLookup(f.path(path), os.Geteuid()); (err == nil) != trusted {
			t.Errorf("%s: %v", path, err)
		}
	}
}
