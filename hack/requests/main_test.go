package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestRequests counts requests of which every third one fails.
func TestRequests(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(t.Context())
	var count atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if n := count.Add(1); n%3 == 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
		} else if n == 100 {
			stop()
		}
	}))
	defer server.Close()
	var out bytes.Buffer
	if err := run(ctx, []string{server.URL, "200"}, &out, time.Minute); err != nil {
		t.Fatal(err)
	}
	total := int(count.Load())
	if want := fmt.Sprintf("sent %d, lost %d, slowest ", total, total/3); total < 100 || !strings.Contains(out.String(), want) {
		t.Errorf("printed %q, want %q", out.String(), want)
	}
	if got := strings.Count(out.String(), "503 Service Unavailable"); got != total/3 {
		t.Errorf("%d lines of failures, want %d", got, total/3)
	}
}

// TestUsage refuses what is not a rate.
func TestUsage(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{nil, {"http://localhost"}, {"http://localhost", "0"}, {"http://localhost", "often"}} {
		if err := run(t.Context(), args, &bytes.Buffer{}, time.Minute); err == nil {
			t.Errorf("%q: no error", args)
		}
	}
}
