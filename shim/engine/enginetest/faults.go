package enginetest

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"sync"
)

// faults holds the faults that tests ordered for future calls, and counts calls.
type faults struct {
	mu     sync.Mutex
	calls  map[string]int
	orders map[string][]*order
	hung   chan struct{} // closed when a hanging engine answers again; nil if not hanging
}

// order is one fault for the nth call of its kind.
type order struct {
	n  int
	do func(rt route, w http.ResponseWriter, r *http.Request, serve func(http.ResponseWriter))
}

func (f *faults) init() { f.calls, f.orders = map[string]int{}, map[string][]*order{} }

// Calls returns how many calls have reached the engine, by kind.
func (s *Server) Calls() map[string]int {
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	return maps.Clone(s.faults.calls)
}

// ResetCalls sets all counters to zero.
func (s *Server) ResetCalls() {
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	clear(s.faults.calls)
}

// FailNext makes the nth call of a kind from now on (1 is the next) return an
// error and do nothing.
func (s *Server) FailNext(kind string, n, status int, message string) {
	s.order(kind, n, func(_ route, w http.ResponseWriter, _ *http.Request, _ func(http.ResponseWriter)) {
		answer(w, errorf(status, "%s", message))
	})
}

// DropNext makes the nth call of a kind close its connection without an answer
// and without any effect.
func (s *Server) DropNext(kind string, n int) {
	s.order(kind, n, func(route, http.ResponseWriter, *http.Request, func(http.ResponseWriter)) {
		panic(http.ErrAbortHandler)
	})
}

// LoseAnswer makes the nth call of a kind take effect, then close its connection
// instead of answering.
func (s *Server) LoseAnswer(kind string, n int) {
	s.order(kind, n, func(_ route, _ http.ResponseWriter, _ *http.Request, serve func(http.ResponseWriter)) {
		serve(httptest.NewRecorder())
		panic(http.ErrAbortHandler)
	})
}

// HangNext makes the nth call of a kind never answer.
func (s *Server) HangNext(kind string, n int) {
	s.order(kind, n, func(_ route, _ http.ResponseWriter, r *http.Request, _ func(http.ResponseWriter)) {
		s.hang(r, nil)
	})
}

// HoldNext makes the nth call of a kind take effect at once, but send its answer,
// unchanged, only after release. held is closed when the call has arrived.
// Streaming calls cannot be held.
func (s *Server) HoldNext(kind string, n int) (held <-chan struct{}, release func()) {
	came, released := make(chan struct{}), make(chan struct{})
	s.order(kind, n, func(_ route, w http.ResponseWriter, r *http.Request, serve func(http.ResponseWriter)) {
		kept := httptest.NewRecorder()
		serve(kept)
		close(came)
		s.hang(r, released)
		maps.Copy(w.Header(), kept.Header())
		w.WriteHeader(kept.Code)
		_, _ = w.Write(kept.Body.Bytes())
	})
	return came, sync.OnceFunc(func() { close(released) })
}

// Hang makes the engine accept every call and answer none until resume. Open
// streams stay open but silent.
func (s *Server) Hang() (resume func()) {
	f := &s.faults
	f.mu.Lock()
	defer f.mu.Unlock()
	hung := make(chan struct{})
	f.hung = hung
	return sync.OnceFunc(func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.hung = nil
		close(hung)
	})
}

func (s *Server) order(kind string, n int, do func(route, http.ResponseWriter, *http.Request, func(http.ResponseWriter))) {
	s.t.Helper()
	if !s.knows(kind) {
		s.t.Fatalf("engine: there are no calls of kind %q", kind)
	}
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	s.faults.orders[kind] = append(s.faults.orders[kind], &order{n, do})
}

func (s *Server) knows(kind string) bool {
	for _, rt := range s.routes {
		if rt.kind == kind {
			return true
		}
	}
	return false
}

// inject counts one call and serves it, or injects the fault ordered for it.
func (s *Server) inject(rt route, w http.ResponseWriter, r *http.Request, serve func(http.ResponseWriter)) {
	do, hung := s.faults.next(rt.kind)
	if hung != nil {
		s.hang(r, hung)
	}
	if do != nil {
		do(rt, w, r, serve)
		return
	}
	serve(w)
}

func (f *faults) next(kind string) (do func(route, http.ResponseWriter, *http.Request, func(http.ResponseWriter)), hung chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[kind]++
	var waiting []*order
	for _, o := range f.orders[kind] {
		if o.n--; o.n == 0 && do == nil {
			do = o.do
			continue
		}
		waiting = append(waiting, o)
	}
	f.orders[kind] = waiting
	return do, f.hung
}

// hang returns when release is closed; it aborts the call if its client leaves or
// the engine stops first.
func (s *Server) hang(r *http.Request, release <-chan struct{}) {
	select {
	case <-release:
	case <-r.Context().Done():
		panic(http.ErrAbortHandler)
	case <-s.stopped():
		panic(http.ErrAbortHandler)
	}
}
