package enginetest

import (
	"encoding/json"
	"maps"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
)

// eventBuffer is the size of Docker's: a reader that lags further behind loses
// events.
const eventBuffer = 1024

// broadcast sends events to all open streams.
type broadcast struct {
	mu    sync.Mutex
	lose  bool
	sinks map[*sink]struct{}
}

type sink struct {
	filter filters.Args
	ch     chan events.Message
	cut    chan struct{}
}

// LoseEvents drops all events until it is called with false.
func (s *Server) LoseEvents(lose bool) {
	s.events.mu.Lock()
	defer s.events.mu.Unlock()
	s.events.lose = lose
}

// CutEvents breaks all open event streams.
func (s *Server) CutEvents() {
	s.events.mu.Lock()
	defer s.events.mu.Unlock()
	for k := range s.events.sinks {
		close(k.cut)
	}
	clear(s.events.sinks)
}

// containerEventLocked sends an event. Attributes are the labels, overwritten by those that
// Docker adds.
func (s *Server) containerEventLocked(c *ctr, action string, extra ...string) {
	attributes := maps.Clone(c.inspect.Config.Labels)
	if attributes == nil {
		attributes = map[string]string{}
	}
	attributes["image"], attributes["name"] = c.inspect.Config.Image, strings.TrimPrefix(c.inspect.Name, "/")
	for i := 0; i+1 < len(extra); i += 2 {
		attributes[extra[i]] = extra[i+1]
	}
	s.events.send(events.ContainerEventType, action, c.inspect.ID, attributes)
}

func (b *broadcast) send(kind events.Type, action, id string, attributes map[string]string) {
	now := time.Now()
	m := events.Message{
		Type: kind, Action: events.Action(action), Actor: events.Actor{ID: id, Attributes: attributes},
		Scope: "local", Time: now.Unix(), TimeNano: now.UnixNano(),
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.lose {
		return
	}
	for k := range b.sinks {
		if !matches(k.filter, m) {
			continue
		}
		select {
		case k.ch <- m:
		default:
		}
	}
}

func matches(f filters.Args, m events.Message) bool {
	action, _, _ := strings.Cut(string(m.Action), ": ")
	return f.ExactMatch("type", string(m.Type)) && f.ExactMatch("event", action) &&
		f.MatchKVList("label", m.Actor.Attributes) &&
		(!f.Contains("container") || m.Type == events.ContainerEventType && f.ExactMatch("container", m.Actor.ID))
}

func (s *Server) streamEvents(w http.ResponseWriter, r *http.Request, _ string) error {
	f, err := filters.FromJSON(r.FormValue("filters"))
	if err != nil {
		return errorf(http.StatusBadRequest, "%v", err)
	}
	k := &sink{filter: f, ch: make(chan events.Message, eventBuffer), cut: make(chan struct{})}
	b := &s.events
	b.mu.Lock()
	if b.sinks == nil {
		b.sinks = map[*sink]struct{}{}
	}
	b.sinks[k] = struct{}{}
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.sinks, k)
	}()
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	out := http.NewResponseController(w)
	_ = out.Flush()
	for {
		select {
		case m := <-k.ch:
			if err := json.NewEncoder(w).Encode(m); err != nil {
				return nil
			}
			_ = out.Flush()
		case <-k.cut:
			return nil
		case <-s.stopped():
			return nil
		case <-r.Context().Done():
			return nil
		}
	}
}
