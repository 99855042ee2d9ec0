package app

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestLock: a lock that a killed process has left to a child for a moment is
// waited for, one that stays is not.
func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	open := func() *os.File {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	held, wanted := open(), open()
	if err := lock(t.Context(), held, time.Minute); err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := lock(ended, wanted, time.Minute); err == nil {
		t.Fatal("two have the lock")
	}
	time.AfterFunc(4*lockRetry, func() { _ = held.Close() })
	if err := lock(t.Context(), wanted, time.Minute); err != nil {
		t.Errorf("the lock was free in time: %v", err)
	}
}
