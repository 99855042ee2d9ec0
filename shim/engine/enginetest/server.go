package enginetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"testing"

	"github.com/docker/docker/api/types/system"
)

// Server is one engine. Its methods are safe for concurrent use.
type Server struct {
	t      testing.TB
	dir    string
	routes []route
	procs  sync.WaitGroup

	mu         sync.Mutex
	http       *http.Server
	served     chan struct{} // closed when http has ended
	stopping   chan struct{} // closed when the daemon stops: streams end
	apiVersion string
	info       system.Info
	programs   map[string]Program
	containers map[string]*ctr
	execs      map[string]*execution
	conns      map[net.Conn]struct{} // hijacked connections
	images     map[string]*Image
	registry   map[string]Image
	nextPid    int
	nextIP     int

	faults faults
	events broadcast
}

type handler func(s *Server, w http.ResponseWriter, r *http.Request, arg string) error

// route serves one kind of call. The first group of path is the handler's arg.
type route struct {
	kind, method string
	path         *regexp.Regexp
	serve        handler
	// stream: the handler writes while it runs, so the answer cannot be held.
	stream bool
}

// New starts an engine without containers and images. It stops at the test's end.
func New(t testing.TB) *Server {
	t.Helper()
	// Not t.TempDir: a long test name could exceed the limit for socket paths.
	dir, err := os.MkdirTemp("", "enginetest")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{
		t: t, dir: dir, apiVersion: "1.41", info: defaultInfo(dir), programs: builtins(),
		containers: map[string]*ctr{}, execs: map[string]*execution{}, conns: map[net.Conn]struct{}{},
		images: map[string]*Image{}, registry: map[string]Image{}, nextPid: firstPid,
	}
	s.routes = routes()
	s.faults.init()
	s.Start()
	t.Cleanup(func() {
		s.Stop()
		s.KillQuietly()
		s.KillExecs()
		s.procs.Wait()
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("engine: %v", err)
		}
	})
	return s
}

// Endpoint returns the address for engine.New.
func (s *Server) Endpoint() string { return "unix://" + s.socket() }

func (s *Server) socket() string { return filepath.Join(s.dir, "docker.sock") }

// Root returns the engine's data root; containers' log files are below it.
func (s *Server) Root() string { return s.dir }

// Start makes a stopped engine listen again.
func (s *Server) Start() {
	s.t.Helper()
	l, err := net.Listen("unix", s.socket())
	if err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.http = &http.Server{Handler: http.HandlerFunc(s.serve)}
	s.served, s.stopping = make(chan struct{}), make(chan struct{})
	go func(h *http.Server, done chan struct{}) {
		defer close(done)
		_ = h.Serve(l)
	}(s.http, s.served)
}

// Stop stops the engine: it stops listening and closes every connection.
// Containers keep running, as with live-restore; [Server.KillQuietly] kills them
// as a restart without it does. Stopping twice is harmless.
func (s *Server) Stop() {
	s.mu.Lock()
	h, served, stopping := s.http, s.served, s.stopping
	s.http = nil
	for conn := range s.conns {
		_ = conn.Close()
	}
	s.mu.Unlock()
	if h == nil {
		return
	}
	close(stopping)
	_ = h.Close()
	<-served
}

func (s *Server) stopped() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopping
}

var versionPrefix = regexp.MustCompile(`^/v(1\.\d+)(/.*)$`)

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	if m := versionPrefix.FindStringSubmatch(path); m != nil {
		path = m[2]
	}
	w.Header().Set("Api-Version", s.version())
	w.Header().Set("Ostype", "linux")
	for _, rt := range s.routes {
		if m := rt.path.FindStringSubmatch(path); m != nil && rt.accepts(r.Method) {
			s.inject(rt, w, r, func(w http.ResponseWriter) {
				arg := ""
				if len(m) > 1 {
					arg = m[1]
				}
				answer(w, rt.serve(s, w, r, arg))
			})
			return
		}
	}
	answer(w, &statusError{http.StatusNotFound, "page not found"})
}

func (rt route) accepts(method string) bool {
	return method == rt.method || rt.method == http.MethodGet && method == http.MethodHead
}

func routes() []route {
	on := func(kind, method, path string, h handler) route {
		return route{kind: kind, method: method, path: regexp.MustCompile("^" + path + "$"), serve: h}
	}
	stream := func(kind, method, path string, h handler) route {
		r := on(kind, method, path, h)
		r.stream = true
		return r
	}
	const c = "/containers/([^/]+)"
	return []route{
		on("ping", "GET", "/_ping", (*Server).ping),
		on("info", "GET", "/info", (*Server).getInfo),
		on("version", "GET", "/version", (*Server).getVersion),
		stream("events", "GET", "/events", (*Server).streamEvents),
		on("container list", "GET", "/containers/json", (*Server).listContainers),
		on("container create", "POST", "/containers/create", (*Server).createContainer),
		on("container inspect", "GET", c+"/json", (*Server).inspectContainer),
		on("container stats", "GET", c+"/stats", (*Server).containerStats),
		on("container start", "POST", c+"/start", (*Server).startContainer),
		on("container kill", "POST", c+"/kill", (*Server).killContainer),
		on("container pause", "POST", c+"/pause", (*Server).pauseContainer),
		on("container unpause", "POST", c+"/unpause", (*Server).unpauseContainer),
		on("container checkpoint", "POST", c+"/checkpoints", (*Server).checkpointContainer),
		on("container remove", "DELETE", c, (*Server).removeContainer),
		on("container update", "POST", c+"/update", (*Server).updateContainer),
		on("container resize", "POST", c+"/resize", (*Server).resizeContainer),
		on("container archive", "GET", c+"/archive", (*Server).archive),
		stream("container wait", "POST", c+"/wait", (*Server).waitContainer),
		stream("container attach", "POST", c+"/attach", (*Server).attachContainer),
		stream("container logs", "GET", c+"/logs", (*Server).containerLogs),
		on("exec create", "POST", c+"/exec", (*Server).createExec),
		stream("exec start", "POST", "/exec/([^/]+)/start", (*Server).startExec),
		on("exec resize", "POST", "/exec/([^/]+)/resize", (*Server).resizeExec),
		on("exec inspect", "GET", "/exec/([^/]+)/json", (*Server).inspectExec),
		on("image list", "GET", "/images/json", (*Server).listImages),
		stream("image pull", "POST", "/images/create", (*Server).pullImage),
		on("image load", "POST", "/images/load", (*Server).loadImage),
		on("image history", "GET", "/images/(.+)/history", (*Server).imageHistory),
		on("image tag", "POST", "/images/(.+)/tag", (*Server).tagImage),
		on("distribution inspect", "GET", "/distribution/(.+)/json", (*Server).inspectDistribution),
		on("image inspect", "GET", "/images/(.+)/json", (*Server).inspectImage),
		on("image remove", "DELETE", "/images/(.+)", (*Server).removeImage),
	}
}

// statusError is an answer with Docker's error body. 304 has no body.
type statusError struct {
	status  int
	message string
}

func (e *statusError) Error() string { return e.message }

func errorf(status int, format string, args ...any) error {
	return &statusError{status, fmt.Sprintf(format, args...)}
}

// answer sends err; a handler that returned nil has already answered.
func answer(w http.ResponseWriter, err error) {
	if err == nil {
		return
	}
	status := &statusError{http.StatusInternalServerError, err.Error()}
	errors.As(err, &status)
	if status.status == http.StatusNotModified {
		w.WriteHeader(status.status)
		return
	}
	_ = reply(w, status.status, map[string]string{"message": status.message})
}

func reply(w http.ResponseWriter, status int, body any) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	return json.NewEncoder(w).Encode(body)
}
