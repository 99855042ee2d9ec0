package images

import (
	"context"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/klog/v2/textlogger"
)

// TestSlowPull: a pull may take as long as it needs if something changes within
// each limit.
func TestSlowPull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = 10 * time.Second
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		p := &pullProgress{limit: limit, cancel: cancel, log: textlogger.NewLogger(textlogger.NewConfig(textlogger.Output(io.Discard)))}
		r, w := io.Pipe()
		go func() {
			for i := range 20 {
				_, _ = fmt.Fprintf(w, `{"id":"layer","status":"Downloading","progressDetail":{"current":%d}}`, i)
				time.Sleep(limit - time.Second)
			}
			_ = w.Close()
		}()
		began := time.Now()
		if _, err := p.follow(r); err != nil || ctx.Err() != nil {
			t.Errorf("%v, cancelled: %v", err, context.Cause(ctx))
		}
		if took := time.Since(began); took < 10*limit {
			t.Errorf("the pull took %v only", took)
		}
	})
}
