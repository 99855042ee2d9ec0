// Package portclient forwards ports in tests, with the clients that kubectl and
// crictl use.
package portclient

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"testing"

	"k8s.io/apimachinery/pkg/util/httpstream" //nolint:staticcheck // what client-go takes
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
)

// Dial returns a dialer for the URL of a port-forward session.
type Dial func(*url.URL) (httpstream.Dialer, error)

// Protocols returns the dialers of the known clients by protocol.
func Protocols() map[string]Dial {
	return map[string]Dial{
		"SPDY": func(u *url.URL) (httpstream.Dialer, error) {
			transport, upgrader, err := spdy.RoundTripperFor(&rest.Config{Host: u.Host})
			if err != nil {
				return nil, err
			}
			return spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, u), nil
		},
		"SPDY over WebSocket": func(u *url.URL) (httpstream.Dialer, error) {
			return portforward.NewSPDYOverWebsocketDialer(u, &rest.Config{Host: u.Host})
		},
	}
}

// Forward runs a client until the test ends, and returns the local address, host:port,
// that it forwards to port.
func Forward(t testing.TB, dial Dial, u *url.URL, port int) string {
	t.Helper()
	dialer, err := dial(u)
	if err != nil {
		t.Fatal(err)
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	f, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{fmt.Sprintf("0:%d", port)}, stop, ready, io.Discard, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- f.ForwardPorts() }()
	t.Cleanup(func() { close(stop); <-done }) //nolint:errcheck // it was told to stop
	select {
	case <-ready:
	case err := <-done:
		done <- err
		t.Fatalf("port-forward client: %v", err)
	}
	ports, err := f.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", ports[0].Local)
}
