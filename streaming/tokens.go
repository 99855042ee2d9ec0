package streaming

import (
	"crypto/rand"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

const (
	// tokenLifetime is how long a client may take to open its URL.
	tokenLifetime = time.Minute
	// maxTokens bounds the requests that wait for their client.
	maxTokens = 1000
)

// tokens holds requests whose client has not connected yet, each under a random
// token that works once. It is safe for concurrent use.
type tokens struct {
	mu      sync.Mutex
	waiting map[string]waitingRequest
}

type waitingRequest struct {
	// request is an *ExecRequest, *AttachRequest or *PortForwardRequest.
	request any
	expires time.Time
}

// put stores a request and returns its token. The error is
// errdefs.ErrResourceExhausted if too many requests wait.
func (t *tokens) put(request any) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	for token, w := range t.waiting {
		if !now.Before(w.expires) {
			delete(t.waiting, token)
		}
	}
	if len(t.waiting) >= maxTokens {
		return "", fmt.Errorf("%d streaming requests wait for their clients: %w: try again within %v",
			len(t.waiting), errdefs.ErrResourceExhausted, tokenLifetime)
	}
	if t.waiting == nil {
		t.waiting = make(map[string]waitingRequest)
	}
	token := rand.Text()
	t.waiting[token] = waitingRequest{request: request, expires: now.Add(tokenLifetime)}
	return token, nil
}

// take returns the request of a token and removes it; nil if the token is unknown,
// used or expired.
func (t *tokens) take(token string) any {
	t.mu.Lock()
	defer t.mu.Unlock()
	w, ok := t.waiting[token]
	delete(t.waiting, token)
	if !ok || !time.Now().Before(w.expires) {
		return nil
	}
	return w.request
}
