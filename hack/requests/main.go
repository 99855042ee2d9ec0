// Command requests sends HTTP requests at a steady rate, each over a new connection,
// until it gets SIGTERM. It prints each request that fails, and at the end how many it
// has sent and lost, and how long the slowest answer took.
//
//	requests URL RATE
//
// RATE is the number of requests a second. A request fails if there is no answer with
// status 200 within five seconds.
package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// patience is how long a request may take.
const patience = 5 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout, patience)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "requests:", err)
		os.Exit(1)
	}
}

// load counts requests.
type load struct {
	out    io.Writer
	client *http.Client
	url    string

	mu         sync.Mutex
	sent, lost int
	slowest    time.Duration
}

func run(ctx context.Context, args []string, out io.Writer, patience time.Duration) error {
	if len(args) != 2 {
		return fmt.Errorf("usage: requests URL RATE")
	}
	rate, err := strconv.Atoi(args[1])
	if err != nil || rate < 1 || rate > 10000 {
		return fmt.Errorf("rate %q: want 1 to 10000 requests a second", args[1])
	}
	l := &load{out: out, url: args[0], client: &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}}
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	var pending sync.WaitGroup
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-tick.C:
			pending.Go(l.request)
		}
	}
	pending.Wait()
	_, err = fmt.Fprintf(out, "sent %d, lost %d, slowest %d ms\n", l.sent, l.lost, l.slowest.Milliseconds())
	return err
}

// request sends one request.
func (l *load) request() {
	start := time.Now()
	err := l.get()
	took := time.Since(start)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent++
	l.slowest = max(l.slowest, took)
	if err != nil {
		l.lost++
		_, _ = fmt.Fprintf(l.out, "%s after %d ms: %v\n", start.Format("15:04:05.000"), took.Milliseconds(), err)
	}
}

func (l *load) get() error {
	resp, err := l.client.Get(l.url)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err = io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %s", resp.Status)
	}
	return nil
}
