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

// TestPullCounts: bytes and layers count once, also if a download starts again.
func TestPullCounts(t *testing.T) {
	stream := `{"status":"Pulling from app","id":"1"}
{"id":"a","status":"Pulling fs layer"}{"id":"b","status":"Pulling fs layer"}{"id":"c","status":"Already exists"}
{"id":"a","status":"Downloading","progressDetail":{"current":10,"total":100}}
{"id":"b","status":"Downloading","progressDetail":{"current":5,"total":50}}
{"id":"a","status":"Downloading","progressDetail":{"current":60,"total":100}}
{"id":"a","status":"Retrying in 5 seconds"}
{"id":"a","status":"Downloading","progressDetail":{"current":20,"total":100}}
{"id":"a","status":"Verifying Checksum"}{"id":"a","status":"Download complete"}
{"id":"a","status":"Extracting","progressDetail":{"current":100,"total":100}}
{"id":"b","status":"Downloading","progressDetail":{"current":25,"total":50}}`
	bytes, layers, calls := int64(0), 0, 0
	p := pullProgress{log: klog.Background(), received: func(b int64, l int) { bytes, layers, calls = bytes+b, layers+l, calls+1 }}
	if _, err := p.follow(strings.NewReader(stream)); err != nil {
		t.Fatal(err)
	}
	if bytes != 125 || layers != 1 || calls != 5 || p.bytes != bytes || p.done != layers {
		t.Errorf("%d bytes, %d layers in %d calls; want 125 bytes and one layer in 5", bytes, layers, calls)
	}
}
