// Package syncbuffer provides a buffer for tests that read what something else is
// still writing.
package syncbuffer

import (
	"bytes"
	"strings"
	"sync"
)

// Buffer is a [bytes.Buffer] that may be read while it is written. The zero value is
// an empty buffer. Do not copy it.
type Buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write appends p. It never fails.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// String returns everything written so far.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// Lines returns the lines that contain text.
func (b *Buffer) Lines(text string) string {
	var found strings.Builder
	for line := range strings.Lines(b.String()) {
		if strings.Contains(line, text) {
			found.WriteString(line)
		}
	}
	return found.String()
}
