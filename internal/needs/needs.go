// Package needs states what a test needs of the machine. Where that is missing the
// test is skipped, except with CRIDOCK_CI=1: CI has all of it, so there the test
// fails.
package needs

import (
	"fmt"
	"os"
	"testing"
)

// Root ends a test that does not run as root; what says what it does as root.
func Root(t testing.TB, what string) {
	t.Helper()
	That(t, os.Geteuid() == 0, "needs root: %s", what)
}

// That ends a test unless ok; the text says what is missing.
func That(t testing.TB, ok bool, format string, args ...any) {
	t.Helper()
	if ok {
		return
	}
	missing := fmt.Sprintf(format, args...)
	if os.Getenv("CRIDOCK_CI") == "1" {
		t.Fatal(missing)
	}
	t.Skip(missing)
}
