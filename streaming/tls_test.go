package streaming

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/internal/testca"
)

// replace rewrites a file with a different modification time.
func replace(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path+".new", content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// tlsServer is a server whose files can be replaced.
func tlsServer(t *testing.T, ca *testca.Authority, clientCA []byte) (s *Server, config Config) {
	t.Helper()
	dir := t.TempDir()
	config = Config{CertFile: filepath.Join(dir, "cert"), KeyFile: filepath.Join(dir, "key")}
	cert, key := ca.Issue(t, "first")
	replace(t, config.CertFile, cert)
	replace(t, config.KeyFile, key)
	if clientCA != nil {
		config.ClientCAFile = filepath.Join(dir, "ca")
		replace(t, config.ClientCAFile, clientCA)
	}
	return start(t, config, &fakeRuntime{exec: func(_ context.Context, _ string, _ []string, s Streams) error {
		_, err := io.Copy(s.Stdout, s.Stdin)
		return err
	}}), config
}

// serverName is the name in the certificate that the server shows.
func serverName(t *testing.T, s *Server, c *tls.Config) (string, error) {
	t.Helper()
	conn, err := tls.Dial("tcp", s.URL().Host, c)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	// With TLS 1.3, a refused client certificate is noticed at the first read.
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		return "", err
	}
	if _, err := io.ReadAll(conn); err != nil {
		return "", err
	}
	return conn.ConnectionState().PeerCertificates[0].Subject.CommonName, nil
}

func TestTLSExec(t *testing.T) {
	ca := testca.New(t, "ca")
	s, _ := tlsServer(t, ca, nil)
	for _, ws := range []bool{false, true} {
		u := execURL(t, s, &runtimeapi.ExecRequest{ContainerId: "c", Cmd: []string{"cat"}, Stdin: true, Stdout: true})
		if u.Scheme != "https" {
			t.Fatalf("URL %s", u)
		}
		config := &rest.Config{Host: u.String(), TLSClientConfig: rest.TLSClientConfig{CAData: ca.PEM}}
		e, err := remotecommand.NewSPDYExecutor(config, http.MethodPost, u)
		if ws {
			e, err = remotecommand.NewWebSocketExecutor(config, http.MethodGet, u.String())
		}
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		in := bytes.Repeat([]byte("secret"), 100000)
		if err := e.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: bytes.NewReader(in), Stdout: &out}); err != nil {
			t.Errorf("WebSocket %t: %v", ws, err)
		}
		if !bytes.Equal(in, out.Bytes()) {
			t.Errorf("WebSocket %t: %d of %d bytes", ws, out.Len(), len(in))
		}
	}
	if resp, err := http.Get("http://" + s.URL().Host); err == nil {
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("without TLS: %s", resp.Status)
		}
	}
}

func TestTLSReload(t *testing.T) {
	ca := testca.New(t, "ca")
	s, config := tlsServer(t, ca, nil)
	client := &tls.Config{RootCAs: ca.Pool(), ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	expect := func(want string) {
		t.Helper()
		if got, err := serverName(t, s, client); err != nil || got != want {
			t.Errorf("certificate of %q, %v, want %q", got, err, want)
		}
	}
	expect("first")
	cert, key := ca.Issue(t, "second")
	replace(t, config.CertFile, cert)
	// The key is still the old one.
	expect("first")
	replace(t, config.KeyFile, key)
	expect("second")
	if err := os.Remove(config.CertFile); err != nil {
		t.Fatal(err)
	}
	expect("second")
}

func TestTLSClientCA(t *testing.T) {
	ca, clients, others := testca.New(t, "ca"), testca.New(t, "clients"), testca.New(t, "others")
	s, config := tlsServer(t, ca, clients.PEM)
	with := func(a *testca.Authority) *tls.Config {
		c := &tls.Config{RootCAs: ca.Pool()}
		if a != nil {
			cert, key := a.Issue(t, "client")
			pair, err := tls.X509KeyPair(cert, key)
			if err != nil {
				t.Fatal(err)
			}
			c.Certificates = []tls.Certificate{pair}
		}
		return c
	}
	known, other := with(clients), with(others)
	if _, err := serverName(t, s, with(nil)); err == nil {
		t.Error("a client without certificate is served")
	}
	if _, err := serverName(t, s, other); err == nil {
		t.Error("a client of another authority is served")
	}
	if _, err := serverName(t, s, known); err != nil {
		t.Errorf("client of the authority: %v", err)
	}
	replace(t, config.ClientCAFile, others.PEM)
	if _, err := serverName(t, s, known); err == nil {
		t.Error("a client of the former authority is served")
	}
	if _, err := serverName(t, s, other); err != nil {
		t.Errorf("client of the new authority: %v", err)
	}
}
