package logs

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// maxBeginLine bounds the lines of another container's log.
const maxBeginLine = tailSpan

// Begin makes a CRI log that begins with the lines of another container's, and stores
// the position after them. What is no line in the CRI format is left out: the kubelet
// would stop there. The container must be new, and not be followed yet.
func (s *Source) Begin(content io.Reader) (err error) {
	if err := s.validate(); err != nil {
		return err
	}
	if err := s.CRIRoot.MkdirAll(filepath.Dir(s.CRILog), 0o755); err != nil {
		return fmt.Errorf("container log directory: %w", err)
	}
	f, err := s.CRIRoot.OpenFile(s.CRILog, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, logMode)
	if err != nil {
		return fmt.Errorf("open container log: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	out := bufio.NewWriter(f)
	if err := copyLines(out, content); err != nil {
		return err
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("write container log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	file, _, err := openPosition(s.Position)
	if file == nil {
		return err
	}
	return errors.Join(file.store(position{criInode: idOf(info).ino, base: info.Size()}), file.close())
}

// copyLines copies the lines that are in the CRI format.
func copyLines(out io.Writer, content io.Reader) error {
	in := bufio.NewReaderSize(content, maxBeginLine)
	whole := true // the piece begins a line
	for {
		line, err := in.ReadSlice('\n')
		if err == nil && whole && isCRILine(line) {
			if _, err := out.Write(line); err != nil {
				return fmt.Errorf("write container log: %w", err)
			}
		}
		switch {
		case err == nil:
			whole = true
		case errors.Is(err, bufio.ErrBufferFull):
			whole = false
		case errors.Is(err, io.EOF):
			return nil
		default:
			return err
		}
	}
}

// isCRILine reports whether a line has a time, a stream and a tag.
func isCRILine(line []byte) bool {
	fields := bytes.SplitN(line, []byte(" "), 4)
	if len(fields) != 4 {
		return false
	}
	_, err := time.Parse(time.RFC3339Nano, string(fields[0]))
	stream, tag := string(fields[1]), string(fields[2])
	return err == nil && (stream == "stdout" || stream == "stderr") && (tag == "F" || tag == "P")
}
