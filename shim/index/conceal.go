package index

import "context"

// all is the context key of [All].
type all struct{}

// All returns a context with which reads also return concealed objects.
func All(ctx context.Context) context.Context { return context.WithValue(ctx, all{}, true) }

// Conceal hides the sandboxes and containers with a Docker name, without the slash,
// that are not visible yet, until the returned function is called: nobody but their
// creator knows of them, and subscribers are not told. See [All].
func (ix *Index) Conceal(name string) (reveal func()) {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	if ix.concealed == nil {
		ix.concealed = map[string]int{}
	}
	ix.concealed[name]++
	return func() {
		ix.mu.Lock()
		defer ix.mu.Unlock()
		if ix.concealed[name]--; ix.concealed[name] > 0 {
			return
		}
		delete(ix.concealed, name)
		for _, r := range ix.records {
			if !r.concealed || r.object == nil || r.object.name() != name {
				continue
			}
			r.concealed = false
			ix.changedLocked(r)
			ix.tellLocked(r, r.object)
		}
	}
}

// seen returns the view for a context.
func (ix *Index) seen(ctx context.Context) *view {
	v := ix.current()
	if v.all != nil && ctx.Value(all{}) != nil {
		return v.all
	}
	return v
}

func (s sandbox) name() string { return s.Name }
func (m member) name() string  { return m.Name }
