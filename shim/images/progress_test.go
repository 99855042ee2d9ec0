package images

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"k8s.io/klog/v2"
)

func TestPullProgress(t *testing.T) {
	for _, tc := range []struct {
		name, stream, digest, err string
	}{
		{"the digest is returned", `{"status":"Pulling","id":"x"}{"status":"Digest: sha256:abc"}{"status":"Status: ok"}`, "sha256:abc", ""},
		{"an error inside the stream fails the pull", `{"status":"Pulling"}{"errorDetail":{"message":"denied"},"error":"denied"}`, "", "denied"},
		{"an error in its newer form alone fails the pull", `{"errorDetail":{"message":"denied"}}`, "", "denied"},
		{"a stream that breaks off fails the pull", `{"status":"Pul`, "", "unexpected EOF"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			p := pullProgress{cancel: cancel, log: klog.Background()}
			digest, err := p.follow(strings.NewReader(tc.stream))
			got := ""
			if err != nil {
				got = err.Error()
			}
			if digest != tc.digest || got != tc.err {
				t.Errorf("got %q, %q; want %q, %q", digest, got, tc.digest, tc.err)
			}
		})
	}
}

// TestPullStalls repeats one message for longer than the limit: only a change
// counts as progress.
func TestPullStalls(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	r, w := io.Pipe()
	go func() {
		for ctx.Err() == nil {
			if _, err := io.WriteString(w, `{"status":"Extracting","id":"x","progressDetail":{"current":1,"total":2}}`); err != nil {
				return
			}
		}
		_ = w.CloseWithError(context.Cause(ctx))
	}()
	p := pullProgress{limit: 50 * time.Millisecond, cancel: cancel, log: klog.Background()}
	if _, err := p.follow(r); !errors.Is(err, errStalled) {
		t.Errorf("err = %v, want %v", err, errStalled)
	}
}
