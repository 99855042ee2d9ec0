package app

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestBaseRuntimeSpec(t *testing.T) {
	dir := t.TempDir()
	file, hook := filepath.Join(dir, "base.json"), filepath.Join(dir, "hook")
	write := func(path, text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	read := func() error {
		o, err := parse(t, "", "--base-runtime-spec="+file)
		if err != nil {
			return err
		}
		base, err := o.baseSpec()
		if err == nil && len(base.Hooks) != 2 {
			t.Errorf("read %+v", base)
		}
		return err
	}
	refused := func(want string) {
		t.Helper()
		if err := read(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
	refused("no such file")
	// The other hook's path is in the container.
	write(file, `{"hooks": {"createRuntime": [{"path": "`+hook+`"}], "startContainer": [{"path": "/gone"}]}}`, 0o600)
	refused("no such file")
	write(hook, "", 0o700)
	if err := read(); err != nil {
		t.Error(err)
	}
	write(hook, "", 0o722)
	refused(hook)
	write(hook, "", 0o700)
	write(file, `{"hooks": {"createRuntime": [{"path": "`+hook+`"}]}}`, 0o622)
	refused(file)
	write(file, `{"root": {}}`, 0o600)
	refused("only process.env")
	if _, err := parse(t, "", "--base-runtime-spec=base.json"); err == nil || !strings.Contains(err.Error(), "absolute") {
		t.Errorf("a relative path: %v", err)
	}
}
