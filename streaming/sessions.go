package streaming

import "sync"

// sessions counts calls under way until it is closed: then no more begin.
type sessions struct {
	mu     sync.Mutex
	closed bool
	calls  sync.WaitGroup
}

// begin says whether a call may run; it must end with end.
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

// close refuses further calls and waits for those under way.
func (s *sessions) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.calls.Wait()
}
