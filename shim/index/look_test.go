package index

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"
)

// An inspect that times out is logged once, and not as an error; any other
// failure is logged as an error each time.
func TestUnansweredInspectIsNoError(t *testing.T) {
	for _, tc := range []struct {
		name  string
		err   error
		lines int
		level string
	}{
		{"locked", fmt.Errorf("no answer: %w: %w", errdefs.ErrUnavailable, context.DeadlineExceeded), 1, "I"},
		{"broken", fmt.Errorf("no answer: %w", errdefs.ErrInternal), 3, "E"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var log bytes.Buffer
			logger := textlogger.NewLogger(textlogger.NewConfig(textlogger.Verbosity(2), textlogger.Output(&log)))
			ctx := klog.NewContext(t.Context(), logger)
			ix, r := New(nil, Options{}), &record{id: "a"}
			for range 3 {
				ix.failed(ctx, r, tc.err)
			}
			if got := strings.Count(log.String(), "keeping its last state"); got != tc.lines || !strings.HasPrefix(log.String(), tc.level) {
				t.Errorf("log:\n%s\nwant %d lines of level %s", &log, tc.lines, tc.level)
			}
		})
	}
}
