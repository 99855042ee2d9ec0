package app

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/moby/sys/atomicwriter"

	"github.com/cridock/cridock/translate"
)

// sealKeyFile is the name of the key's file in the root directory.
const sealKeyFile = "seal.key"

// loadSeal reads the key of the seal, or makes one at the first start. If the key is
// lost, the containers sealed with it are adopted. Whoever can read the key can make
// a container that passes for one of cridock's, so a file that others can access is
// refused. The caller holds the root directory's lock.
func loadSeal(rootDir string) (*translate.Seal, error) {
	path := filepath.Join(rootDir, sealKeyFile)
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return makeSeal(path)
	}
	if err != nil {
		return nil, fmt.Errorf("key of the seal: %w", err)
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("key of the seal %s: its mode is %v; want a file that only its owner can read and write", path, info.Mode())
	}
	key, err := os.ReadFile(path) //nolint:gosec // in the root directory
	if err != nil {
		return nil, fmt.Errorf("key of the seal: %w", err)
	}
	seal, err := translate.NewSeal(key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; restore it; if you remove it, the containers sealed with it are adopted", path, err)
	}
	return seal, nil
}

func makeSeal(path string) (*translate.Seal, error) {
	key := make([]byte, translate.SealKeySize)
	_, _ = rand.Read(key) // it never fails
	if err := atomicwriter.WriteFile(path, key, 0o600); err != nil {
		return nil, fmt.Errorf("key of the seal: %w", err)
	}
	return translate.NewSeal(key)
}
