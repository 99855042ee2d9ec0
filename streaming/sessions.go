package streaming

import "sync"

// sessions counts running calls. Once it is closed, no more can begin.
type sessions struct {
	mu     sync.Mutex
	closed bool
	calls  sync.WaitGroup
}

// begin reports whether a call may run; if so, the caller must call end after it.
func (s *sessions) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.calls.Add(1)
	return true
}

func (s *sessions) end() { s.calls.Done() }

// close refuses further calls and waits for the running ones.
func (s *sessions) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.calls.Wait()
}
