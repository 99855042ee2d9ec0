package engine

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"testing"

	"github.com/docker/docker/client"
)

// closeFails is a body whose Close fails.
type closeFails struct {
	io.Reader
	err error
}

func (c closeFails) Close() error { return c.err }

type transport func(*http.Request) (*http.Response, error)

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) { return t(r) }

// TestContainerFileReportsClose: an error from closing the response is not
// lost.
func TestContainerFileReportsClose(t *testing.T) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	if err := errors.Join(w.WriteHeader(&tar.Header{Name: "passwd", Typeflag: tar.TypeReg, Size: 4}), writeAll(w, "root"), w.Close()); err != nil {
		t.Fatal(err)
	}
	errClose := errors.New("the connection broke")
	answer := transport(func(*http.Request) (*http.Response, error) {
		return &http.Response{
			StatusCode: http.StatusOK,
			Header:     http.Header{"X-Docker-Container-Path-Stat": {base64.StdEncoding.EncodeToString([]byte(`{"name":"passwd"}`))}},
			Body:       closeFails{&archive, errClose},
		}, nil
	})
	cl, err := client.NewClientWithOpts(client.WithHTTPClient(&http.Client{Transport: answer}), client.WithVersion("1.41"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := New("unix:///nowhere", nil)
	if err != nil {
		t.Fatal(err)
	}
	c.conn.Store(&connection{calls: cl, streams: cl})
	if _, err := c.ContainerFile(t.Context(), "a", "/etc/passwd", 100); !errors.Is(err, errClose) {
		t.Errorf("error = %v, want %v", err, errClose)
	}
}

func writeAll(w io.Writer, s string) error {
	_, err := io.WriteString(w, s)
	return err
}
