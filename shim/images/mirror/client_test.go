package mirror

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"
)

// TestNoConnectionStays: a client that is closed while content arrives leaves no
// connection when the content has arrived.
func TestNoConnectionStays(t *testing.T) {
	more, closed := make(chan struct{}), make(chan struct{}, 1)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			t.Errorf("the protocol is %s", r.Proto)
		}
		_ = http.NewResponseController(w).Flush()
		<-more
	}))
	s.EnableHTTP2 = true
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			select {
			case closed <- struct{}{}:
			default:
			}
		}
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(Host{URL: u, dial: dialTimeout, tls: &tls.Config{InsecureSkipVerify: true}}, "app", nil)
	transport := c.http.Client.Transport.(hostHeaders).next.(*http.Transport)
	if transport.IdleConnTimeout <= 0 || transport.IdleConnTimeout > time.Minute {
		t.Fatalf("idle connections stay for %v", transport.IdleConnTimeout)
	}
	transport.IdleConnTimeout = time.Second // the request must come before
	resp, err := c.get(t.Context(), "blobs", "x", nil)
	if err != nil {
		t.Fatal(err)
	}
	c.close()
	close(more)
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Error(err)
	}
	_ = resp.Body.Close()
	<-closed
}
