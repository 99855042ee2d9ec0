package app

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSealKey(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, sealKeyFile)
	if _, err := loadSeal(dir); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 || info.Size() != 32 {
		t.Errorf("the new key: %v, %v", info, err)
	}
	made, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := loadSeal(dir); err != nil {
		t.Error(err)
	}
	kept, err := os.ReadFile(path)
	if err != nil || !cmp.Equal(made, kept) {
		t.Errorf("the second start made another key, %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	for want, put := range map[string]func(path string) error{
		"want 32":        func(path string) error { return os.WriteFile(path, made[:31], 0o600) },
		"only its owner": func(path string) error { return os.WriteFile(path, made, 0o640) },
		"want a file":    func(path string) error { return os.Symlink(filepath.Join(dir, sealKeyFile), path) },
	} {
		dir := t.TempDir()
		if err := put(filepath.Join(dir, sealKeyFile)); err != nil {
			t.Fatal(err)
		}
		if _, err := loadSeal(dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
