package enginetest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
	"golang.org/x/sys/unix"
)

func (s *Server) startContainer(w http.ResponseWriter, r *http.Request, ref string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := s.findLocked(ref)
	if err != nil {
		return err
	}
	if c.running() {
		return errorf(http.StatusNotModified, "")
	}
	if err := s.findCheckpoint(c, r.FormValue("checkpoint")); err != nil {
		return err
	}
	if err := s.joinable(c); err != nil {
		return s.failStart(c, 128, err)
	}
	if err := s.launch(c); err != nil {
		return s.failStart(c, 127, err)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// joinable returns an error if c joins the network of a container that is not
// running.
func (s *Server) joinable(c *ctr) error {
	mode := c.inspect.HostConfig.NetworkMode
	if !mode.IsContainer() {
		return nil
	}
	other := s.containers[mode.ConnectedContainer()]
	switch {
	case other == nil:
		return noSuchContainer(mode.ConnectedContainer())
	case !other.running():
		return errorf(http.StatusConflict, "cannot join network of a non running container: %s", mode.ConnectedContainer())
	}
	return nil
}

// failStart leaves the container as it was, with an exit code and a reason. Docker
// sends no event for a failed start.
func (s *Server) failStart(c *ctr, code int, err error) error {
	c.inspect.State.ExitCode, c.inspect.State.Error = code, err.Error()
	return err
}

func (s *Server) launch(c *ctr) error {
	c.stdin, c.exited = newStdin(c.inspect.Config), make(chan struct{})
	c.output.open(c.inspect.Config.Tty)
	argv := append([]string{c.inspect.Path}, c.inspect.Args...)
	exited := c.exited
	c.proc = s.spawn(Process{
		Args: argv, Env: c.inspect.Config.Env, User: c.inspect.Config.User,
		Stdin: c.stdin, Stdout: c.output.writer(stdoutStream), Stderr: c.output.writer(stderrStream),
	}, func(code int) { s.exit(c, code, exited) })
	if c.proc == nil {
		close(c.exited)
		return errorf(http.StatusBadRequest, "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: exec: %q: executable file not found in $PATH: unknown", c.inspect.Path)
	}
	st := c.inspect.State
	*st = container.State{
		Status: container.StateRunning, Running: true, Pid: c.proc.pid,
		StartedAt: now(), FinishedAt: st.FinishedAt,
	}
	s.connect(c)
	s.containerEventLocked(c, "start")
	return nil
}

func now() string { return time.Now().UTC().Format(time.RFC3339Nano) }

// connect gives a container an address on its network.
func (s *Server) connect(c *ctr) {
	mode := c.inspect.HostConfig.NetworkMode
	if mode.IsContainer() {
		return
	}
	e := &network.EndpointSettings{}
	if !mode.IsHost() && !mode.IsNone() {
		s.nextIP++
		e.IPAddress, e.IPPrefixLen, e.Gateway = fmt.Sprintf("172.17.%d.%d", s.nextIP/250, s.nextIP%250+2), 16, "172.17.0.1"
	}
	c.inspect.NetworkSettings.SandboxKey = filepath.Join(s.dir, "netns", c.inspect.ID[:12])
	c.inspect.NetworkSettings.Networks = map[string]*network.EndpointSettings{strings.Replace(string(mode), "default", "bridge", 1): e}
}

// exit is called when a run has ended, without s.mu.
func (s *Server) exit(c *ctr, code int, exited chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.exitLocked(c, code, exited, true)
}

func (s *Server) exitLocked(c *ctr, code int, exited chan struct{}, tell bool) {
	if c.exited != exited || c.proc == nil {
		return
	}
	c.proc = nil
	st := c.inspect.State
	*st = container.State{
		Status: container.StateExited, ExitCode: code, OOMKilled: c.oom,
		StartedAt: st.StartedAt, FinishedAt: now(),
	}
	for _, e := range c.inspect.NetworkSettings.Networks {
		*e = network.EndpointSettings{}
	}
	c.oom = false
	c.output.close()
	c.stdin.close()
	for _, e := range s.execs {
		if e.ctr == c && e.proc != nil {
			// The exit of process 1 kills its PID namespace. The handler needs s.mu.
			go e.proc.signal(unix.SIGKILL)
		}
	}
	close(exited)
	if tell {
		s.containerEventLocked(c, "die", "exitCode", strconv.Itoa(code))
	}
}

// Exit makes a running container's process exit with a code.
func (s *Server) Exit(id string, code int) {
	s.t.Helper()
	s.end(id, code, false)
}

// OOM ends a running container as the kernel's OOM killer would: exit code 137 and
// the OOM flag.
func (s *Server) OOM(id string) {
	s.t.Helper()
	s.end(id, 137, true)
}

func (s *Server) end(id string, code int, oom bool) {
	s.t.Helper()
	s.mu.Lock()
	c := s.containers[id]
	if c == nil || !c.running() {
		s.mu.Unlock()
		s.t.Fatalf("engine: container %s is not running", id)
	}
	p := c.proc
	if oom {
		c.oom = true
		s.containerEventLocked(c, "oom")
	}
	s.mu.Unlock()
	p.end(code)
}

// KillQuietly kills all containers without an event, as a daemon restart without
// live-restore does.
func (s *Server) KillQuietly() {
	s.mu.Lock()
	var ended []*proc
	for _, c := range s.containers {
		if p := c.proc; p != nil {
			s.exitLocked(c, 137, c.exited, false)
			ended = append(ended, p)
		}
	}
	s.mu.Unlock()
	for _, p := range ended {
		p.end(137)
	}
}

func (s *Server) killContainer(w http.ResponseWriter, r *http.Request, ref string) error {
	sig, err := parseSignal(r.FormValue("signal"))
	if err != nil {
		return err
	}
	s.mu.Lock()
	c, err := s.findLocked(ref)
	if err != nil {
		s.mu.Unlock()
		return err
	}
	p := c.proc
	if p == nil {
		s.mu.Unlock()
		return errorf(http.StatusConflict, "Cannot kill container: %s: Container %s is not running", ref, c.inspect.ID)
	}
	s.containerEventLocked(c, "kill", "signal", strconv.Itoa(int(sig)))
	if c.inspect.State.Paused {
		s.setPausedLocked(c, false)
	}
	s.mu.Unlock()
	p.signal(sig)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func parseSignal(name string) (unix.Signal, error) {
	if n, err := strconv.Atoi(name); err == nil && n > 0 {
		return unix.Signal(n), nil
	}
	if name == "" {
		return unix.SIGKILL, nil
	}
	if n := unix.SignalNum("SIG" + strings.TrimPrefix(name, "SIG")); n != 0 {
		return n, nil
	}
	return 0, errorf(http.StatusBadRequest, "Invalid signal: %s", name)
}

func (s *Server) removeContainer(w http.ResponseWriter, r *http.Request, ref string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := s.findLocked(ref)
	if err != nil {
		return err
	}
	if p := c.proc; p != nil {
		if r.FormValue("force") != "1" {
			return errorf(http.StatusConflict, "You cannot remove a running container %s. Stop the container before attempting removal or force remove", c.inspect.ID)
		}
		s.containerEventLocked(c, "kill", "signal", "9")
		s.exitLocked(c, 137, c.exited, true)
		go p.end(137)
	}
	delete(s.containers, c.inspect.ID)
	s.containerEventLocked(c, "destroy")
	w.WriteHeader(http.StatusNoContent)
	return os.RemoveAll(filepath.Dir(c.output.log))
}

func (s *Server) waitContainer(w http.ResponseWriter, r *http.Request, ref string) error {
	s.mu.Lock()
	c, err := s.findLocked(ref)
	if err != nil {
		s.mu.Unlock()
		return err
	}
	exited := c.exited
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush()
	s.hang(r, exited)
	s.mu.Lock()
	defer s.mu.Unlock()
	return json.NewEncoder(w).Encode(container.WaitResponse{StatusCode: int64(c.inspect.State.ExitCode)})
}

func (s *Server) resizeContainer(w http.ResponseWriter, _ *http.Request, ref string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := s.findLocked(ref)
	if err != nil {
		return err
	}
	if !c.running() {
		return errorf(http.StatusConflict, "Container %s is not running", c.inspect.ID)
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// Containers returns the sorted IDs of all containers, for example to check a
// rollback.
func (s *Server) Containers() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := make([]string, 0, len(s.containers))
	for id := range s.containers {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// MarkOOM sets the OOM flag of an exited container: with cgroup v2 Docker learns
// of an OOM kill shortly after the exit.
func (s *Server) MarkOOM(id string) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.containers[id]
	if c == nil || c.running() {
		s.t.Fatalf("engine: container %s has not exited", id)
	}
	c.inspect.State.OOMKilled = true
}
