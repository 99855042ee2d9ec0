package target

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/fsnotify/fsnotify"
)

// fileLog counts the lines of a CRI log file, which need not exist yet.
type fileLog struct {
	path    string
	watcher *fsnotify.Watcher
	file    *os.File
	lines   int
	buffer  []byte
}

// openFileLog watches the file's directory, which must exist. The time of the first
// line is exact because the watch begins before the container starts.
func openFileLog(path string) (*fileLog, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", path, err)
	}
	if err := w.Add(filepath.Dir(path)); err != nil {
		return nil, errors.Join(fmt.Errorf("watch %s: %w", path, err), w.Close())
	}
	return &fileLog{path: path, watcher: w, buffer: make([]byte, 256<<10)}, nil
}

// Wait implements Log.
func (l *fileLog) Wait(ctx context.Context, lines int) error {
	for {
		if err := l.read(); err != nil {
			return err
		}
		if l.lines >= lines {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d of %d lines in %s: %w", l.lines, lines, l.path, context.Cause(ctx))
		case err := <-l.watcher.Errors:
			return fmt.Errorf("watch %s: %w", l.path, err)
		case <-l.watcher.Events:
		}
	}
}

// read counts the new lines.
func (l *fileLog) read() error {
	if l.file == nil {
		f, err := os.Open(l.path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		l.file = f
		if err := l.watchTarget(); err != nil {
			return err
		}
	}
	for {
		n, err := l.file.Read(l.buffer)
		l.lines += bytes.Count(l.buffer[:n], []byte{'\n'})
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// watchTarget also watches the target if the file is a link: a write to it causes no
// event in the link's directory.
func (l *fileLog) watchTarget() error {
	real, err := filepath.EvalSymlinks(l.path)
	if err != nil || real == l.path {
		return err
	}
	return l.watcher.Add(real)
}

// Close implements Log.
func (l *fileLog) Close() error {
	err := l.watcher.Close()
	if l.file != nil {
		err = errors.Join(err, l.file.Close())
	}
	return err
}
