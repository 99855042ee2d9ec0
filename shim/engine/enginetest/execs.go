package enginetest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/docker/docker/api/types/container"
)

// execution is an exec in a container. Server.mu guards it.
type execution struct {
	id      string
	ctr     *ctr
	options container.ExecOptions
	proc    *proc
	pid     int // kept after the process has exited, as in Docker
	started bool
	code    *int
}

func (s *Server) createExec(w http.ResponseWriter, r *http.Request, ref string) error {
	e := &execution{id: randomID()}
	if err := json.NewDecoder(r.Body).Decode(&e.options); err != nil {
		return errorf(http.StatusBadRequest, "%v", err)
	}
	if len(e.options.Cmd) == 0 {
		return errorf(http.StatusBadRequest, "No exec command specified")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := s.findLocked(ref)
	if err != nil {
		return err
	}
	if !c.running() {
		return notRunning(c)
	}
	e.ctr = c
	s.execs[e.id] = e
	s.containerEventLocked(c, "exec_create: "+strings.Join(e.options.Cmd, " "), "execID", e.id)
	return reply(w, http.StatusCreated, container.ExecCreateResponse{ID: e.id})
}

func notRunning(c *ctr) error {
	return errorf(http.StatusConflict, "Container %s is not running", c.inspect.ID)
}

func (s *Server) findExec(id string) (*execution, error) {
	e := s.execs[id]
	if e == nil || s.containers[e.ctr.inspect.ID] == nil {
		return nil, errorf(http.StatusNotFound, "No such exec instance: %s", id)
	}
	return e, nil
}

func (s *Server) startExec(w http.ResponseWriter, r *http.Request, id string) error {
	var o container.ExecStartOptions
	if err := json.NewDecoder(r.Body).Decode(&o); err != nil {
		return errorf(http.StatusBadRequest, "%v", err)
	}
	s.mu.Lock()
	e, err := s.findExec(id)
	switch {
	case err != nil:
	case e.started:
		err = errorf(http.StatusConflict, "Error: Exec command %s has already run", id)
	case !e.ctr.running():
		err = notRunning(e.ctr)
	default:
		e.started = true
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	conn, rd, err := s.hijack(w, o.Tty)
	if err != nil {
		return err
	}
	defer s.hangUp(conn)
	in := &execInput{}
	if e.options.AttachStdin {
		in.r = rd
	} else {
		// Without a reader, a client's disconnect would go unnoticed.
		go func() { _, _ = io.Copy(io.Discard, rd) }()
	}
	defer in.close()
	done := s.runExec(e, in, conn, o.Tty)
	<-done
	return nil
}

func (s *Server) runExec(e *execution, in io.Reader, conn io.Writer, tty bool) <-chan struct{} {
	stdout, stderr := writers(conn, tty)
	done := make(chan struct{})
	s.mu.Lock()
	defer s.mu.Unlock()
	e.proc = s.spawn(Process{
		Args: e.options.Cmd, Env: append(slices.Clone(e.ctr.inspect.Config.Env), e.options.Env...), User: e.options.User,
		Stdin: in, Stdout: wanted(e.options.AttachStdout, stdout), Stderr: wanted(e.options.AttachStderr, stderr),
	}, func(code int) {
		s.mu.Lock()
		e.proc, e.code = nil, &code
		s.containerEventLocked(e.ctr, "exec_die", "execID", e.id, "exitCode", strconv.Itoa(code))
		s.mu.Unlock()
		close(done)
	})
	if e.proc != nil {
		e.pid = e.proc.pid
	}
	s.containerEventLocked(e.ctr, "exec_start: "+strings.Join(e.options.Cmd, " "), "execID", e.id)
	if e.proc == nil {
		// Docker has hijacked the connection by now: the error goes to the output.
		code := 127
		e.code = &code
		_, _ = fmt.Fprintf(stdout, "OCI runtime exec failed: exec failed: unable to start container process: exec: %q: executable file not found in $PATH: unknown\r\n", e.options.Cmd[0])
		close(done)
	}
	return done
}

func wanted(attach bool, w io.Writer) io.Writer {
	if attach {
		return w
	}
	return io.Discard
}

// execInput reads what the client sends until the exec has finished.
type execInput struct {
	mu sync.Mutex
	r  io.Reader
}

func (i *execInput) Read(p []byte) (int, error) {
	i.mu.Lock()
	r := i.r
	i.mu.Unlock()
	if r == nil {
		return 0, io.EOF
	}
	return r.Read(p)
}

func (i *execInput) close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.r = nil
}

func (s *Server) resizeExec(w http.ResponseWriter, _ *http.Request, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, err := s.findExec(id)
	if err != nil {
		return err
	}
	if e.proc == nil {
		return errorf(http.StatusConflict, "exec %s is not running", id)
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func (s *Server) inspectExec(w http.ResponseWriter, _ *http.Request, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, err := s.findExec(id)
	if err != nil {
		return err
	}
	// ExitCode is null until there is one; the client's type cannot express that.
	return reply(w, http.StatusOK, map[string]any{
		"ID": e.id, "ContainerID": e.ctr.inspect.ID, "Running": e.proc != nil, "ExitCode": e.code, "Pid": e.pid,
	})
}

// KillExecs kills the processes of all running execs, as a signal to their PIDs
// would, and returns their number.
func (s *Server) KillExecs() int {
	s.mu.Lock()
	var running []*proc
	for _, e := range s.execs {
		if e.proc != nil {
			running = append(running, e.proc)
		}
	}
	s.mu.Unlock()
	for _, p := range running {
		p.end(137)
	}
	return len(running)
}
