package app

import (
	"context"
	"io"
	"net"
	"net/url"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/internal/leakcheck"
)

// TestFloods opens connections to both TCP servers that never say what they want:
// the servers keep a bounded number, and the CRI and the metrics answer.
func TestFloods(t *testing.T) {
	n := startNode(t, "--streaming-bind-addr=127.0.0.1:0")
	if status, body := n.get(t, "/healthz"); status != 200 {
		t.Fatalf("status %d: %s", status, body)
	}
	metrics, err := url.Parse(n.metrics)
	if err != nil {
		t.Fatal(err)
	}
	const count = 300
	before := leakcheck.OpenFiles(t)
	for range count {
		conn, err := net.DialTimeout("tcp", metrics.Host, 20*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_, _ = io.WriteString(conn, "GET /metrics HTTP/1.1\r\nHost: x\r\nX-Slow: ") // it may be closed already
	}
	for end := time.Now().Add(time.Minute); leakcheck.OpenFiles(t)-before-count > observeConnections+10; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the metrics server holds %d connections", leakcheck.OpenFiles(t)-before-count)
		}
	}
	if status, body := n.get(t, "/metrics"); status != 200 {
		t.Errorf("metrics during the flood: status %d: %s", status, body)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := n.client.Version(ctx, &runtimeapi.VersionRequest{}); err != nil {
		t.Errorf("CRI during the flood: %v", err)
	}
}
