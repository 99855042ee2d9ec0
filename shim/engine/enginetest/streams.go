package enginetest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/pkg/stdcopy"
)

const (
	stdoutStream = "stdout"
	stderrStream = "stderr"
)

// output receives a container's streams: it writes the json-file log, one record
// per line, and serves attached clients.
type output struct {
	log string

	mu       sync.Mutex
	tty      bool
	closed   bool
	partial  map[string][]byte
	attached map[*attachment]struct{}
}

// attachment is one attached connection.
type attachment struct {
	streams map[string]io.Writer
	done    chan struct{}
}

type outputWriter struct {
	*output
	stream string
}

func (o *output) open(tty bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tty, o.closed, o.partial = tty, false, map[string][]byte{}
	if o.attached == nil {
		o.attached = map[*attachment]struct{}{}
	}
}

func (o *output) writer(stream string) io.Writer { return outputWriter{o, stream} }

func (w outputWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return 0, io.ErrClosedPipe
	}
	stream := w.stream
	if w.tty {
		stream = stdoutStream
	}
	for a := range w.attached {
		if out := a.streams[stream]; out != nil {
			_, _ = out.Write(p)
		}
	}
	w.partial[stream] = append(w.partial[stream], p...)
	for {
		i := bytes.IndexByte(w.partial[stream], '\n')
		if i < 0 {
			return len(p), nil
		}
		w.record(stream, w.partial[stream][:i+1])
		w.partial[stream] = w.partial[stream][i+1:]
	}
}

// logRecord is one line of Docker's json-file log.
type logRecord struct {
	Log    string    `json:"log"`
	Stream string    `json:"stream"`
	Time   time.Time `json:"time"`
}

func (o *output) record(stream string, line []byte) {
	f, err := os.OpenFile(o.log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return // the container was removed
	}
	defer f.Close()
	_ = json.NewEncoder(f).Encode(logRecord{string(line), stream, time.Now().UTC()})
}

func (o *output) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for stream, rest := range o.partial {
		if len(rest) > 0 {
			o.record(stream, rest)
		}
	}
	o.closed = true
	for a := range o.attached {
		close(a.done)
	}
	clear(o.attached)
}

// stdin is a container's standard input: what attached clients write.
type stdin struct {
	*io.PipeReader
	w    *io.PipeWriter
	once bool
}

func newStdin(cfg *container.Config) *stdin {
	r, w := io.Pipe()
	if !cfg.OpenStdin {
		_ = w.Close()
	}
	return &stdin{r, w, cfg.StdinOnce}
}

func (s *stdin) close() {
	_ = s.w.Close()
	_ = s.Close()
}

// hijack takes over a call's connection, as Docker does for raw streams. It is
// closed when the engine stops, or by hangUp.
func (s *Server) hijack(w http.ResponseWriter, tty bool) (net.Conn, *bufio.Reader, error) {
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, nil, err
	}
	s.mu.Lock()
	s.conns[conn] = struct{}{}
	if s.http == nil {
		_ = conn.Close()
	}
	s.mu.Unlock()
	kind := "multiplexed-stream"
	if tty || s.version() < "1.42" {
		kind = "raw-stream"
	}
	_, err = io.WriteString(conn, "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker."+kind+"\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
	return conn, rw.Reader, err
}

func (s *Server) hangUp(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, conn)
	_ = conn.Close()
}

// writers returns the writers for stdout and stderr on a hijacked connection.
func writers(conn io.Writer, tty bool) (stdout, stderr io.Writer) {
	if tty {
		return conn, conn
	}
	one := &lockedWriter{w: conn}
	return stdcopy.NewStdWriter(one, stdcopy.Stdout), stdcopy.NewStdWriter(one, stdcopy.Stderr)
}

type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

func (s *Server) attachContainer(w http.ResponseWriter, r *http.Request, ref string) error {
	s.mu.Lock()
	c, err := s.findLocked(ref)
	if err != nil {
		s.mu.Unlock()
		return err
	}
	o, in, tty, running := c.output, c.stdin, c.inspect.Config.Tty, c.running()
	openStdin := c.inspect.Config.OpenStdin
	s.mu.Unlock()
	conn, rd, err := s.hijack(w, tty)
	if err != nil {
		return err
	}
	defer s.hangUp(conn)
	if !running {
		return nil
	}
	stdout, stderr := writers(conn, tty)
	a := &attachment{streams: map[string]io.Writer{}, done: make(chan struct{})}
	if r.FormValue("stdout") == "1" {
		a.streams[stdoutStream] = stdout
	}
	if r.FormValue("stderr") == "1" {
		a.streams[stderrStream] = stderr
	}
	o.mu.Lock()
	o.attached[a] = struct{}{}
	o.mu.Unlock()
	go func() {
		if r.FormValue("stdin") != "1" || !openStdin {
			_, _ = io.Copy(io.Discard, rd)
			return
		}
		_, _ = io.Copy(in.w, rd)
		if in.once {
			_ = in.w.Close()
		}
	}()
	<-a.done
	return nil
}

func (s *Server) containerLogs(w http.ResponseWriter, r *http.Request, ref string) error {
	s.mu.Lock()
	c, err := s.findLocked(ref)
	if err != nil {
		s.mu.Unlock()
		return err
	}
	file, exited, tty := c.output.log, c.exited, c.inspect.Config.Tty
	s.mu.Unlock()
	since := parseSince(r.FormValue("since"))
	w.WriteHeader(http.StatusOK)
	out := http.NewResponseController(w)
	_ = out.Flush()
	stdout, stderr := writers(w, tty)
	sent := 0
	for {
		over := r.FormValue("follow") != "1" || isClosed(exited)
		records := readLog(file)
		for _, rec := range records[sent:] {
			to := stdout
			if rec.Stream == stderrStream {
				to = stderr
			}
			if !rec.Time.Before(since) {
				_, _ = io.WriteString(to, rec.Time.Format(time.RFC3339Nano)+" "+rec.Log)
			}
		}
		_ = out.Flush()
		sent = len(records)
		if over {
			return nil
		}
		select {
		case <-exited:
		case <-time.After(5 * time.Millisecond):
		case <-r.Context().Done():
			return nil
		case <-s.stopped():
			return nil
		}
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func readLog(file string) []logRecord {
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	var all []logRecord
	for d := json.NewDecoder(f); ; {
		var rec logRecord
		if d.Decode(&rec) != nil {
			return all
		}
		all = append(all, rec)
	}
}

func parseSince(v string) time.Time {
	sec, nano, _ := strings.Cut(v, ".")
	n, err := strconv.ParseInt(sec, 10, 64)
	if err != nil {
		return time.Time{}
	}
	frac, _ := strconv.ParseInt((nano + "000000000")[:9], 10, 64)
	return time.Unix(n, frac)
}
