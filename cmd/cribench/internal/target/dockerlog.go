package target

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"
	"github.com/docker/docker/pkg/stdcopy"
)

// isRawPod reports whether one of a container's names was given by [Docker].
func isRawPod(names []string) bool {
	for _, n := range names {
		if strings.HasPrefix(strings.TrimPrefix(n, "/"), "cribench_") {
			return true
		}
	}
	return false
}

// dockerLog counts the lines that Docker's logs call returns.
type dockerLog struct {
	client *client.Client
	id     string
}

// Wait implements Log. It counts from the container's first line each time.
func (l *dockerLog) Wait(ctx context.Context, lines int) error {
	body, err := l.client.ContainerLogs(ctx, l.id, container.LogsOptions{ShowStdout: true, ShowStderr: true, Follow: true})
	if err != nil {
		return fmt.Errorf("logs: %w", err)
	}
	defer body.Close()
	counter := &lineCounter{want: lines}
	_, err = stdcopy.StdCopy(counter, counter, body)
	if counter.want <= 0 {
		return nil // the counter stopped the copy
	}
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("logs: %d lines missing: %w", counter.want, err)
}

// Close implements Log.
func (l *dockerLog) Close() error { return nil }

// lineCounter is a writer that fails when it has seen enough lines.
type lineCounter struct{ want int }

func (c *lineCounter) Write(b []byte) (int, error) {
	if c.want -= bytes.Count(b, []byte{'\n'}); c.want <= 0 {
		return 0, io.EOF
	}
	return len(b), nil
}
