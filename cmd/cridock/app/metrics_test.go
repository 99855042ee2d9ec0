package app

import (
	"context"
	"crypto/tls"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cridock/cridock/internal/testca"
)

// replace puts a file in place of another at once, as tools that renew certificates do.
func replace(t *testing.T, path string, content []byte) {
	t.Helper()
	write(t, path+".new", string(content))
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// getTLS returns the status of /healthz and the name in the server's certificate.
func getTLS(port string, c *tls.Config) (status int, name string, err error) {
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: c, DisableKeepAlives: true}}
	resp, err := client.Get("https://127.0.0.1:" + port + "/healthz")
	if err != nil {
		return 0, "", err
	}
	_ = resp.Body.Close()
	return resp.StatusCode, resp.TLS.PeerCertificates[0].Subject.CommonName, nil
}

// TestMetricsTLS: the server takes a renewed certificate without a reload, and a
// reload turns TLS on and off on the same port.
func TestMetricsTLS(t *testing.T) {
	ca, clients := testca.New(t, "ca"), testca.New(t, "clients")
	conf, files := t.TempDir(), t.TempDir()
	config, certFile, keyFile, caFile := filepath.Join(conf, "a.yaml"), filepath.Join(files, "cert"), filepath.Join(files, "key"), filepath.Join(files, "ca")
	issue := func(name string) {
		cert, key := ca.Issue(t, name)
		replace(t, certFile, cert)
		replace(t, keyFile, key)
	}
	issue("first")
	write(t, caFile, string(clients.PEM))
	port := freePort(t)
	plain := "metrics-bind-address: '" + port + "'\n"
	encrypted := plain + "metrics-tls-cert: " + certFile + "\nmetrics-tls-key: " + keyFile + "\n"
	write(t, config, "")
	o := loaded(t, "--config-dir="+conf)
	m := newMetricsServer(http.NotFoundHandler(), nil)
	defer m.stop(t.Context())
	reread := func(content, wantChanged string) error {
		t.Helper()
		write(t, config, content)
		changed, restart, err := o.reread(t.Context(), m)
		if err == nil && (strings.Join(changed, " ") != wantChanged || len(restart) > 0) {
			t.Errorf("changed %q, restart %q; want %q", changed, restart, wantChanged)
		}
		return err
	}
	if err := reread(encrypted, "metrics-bind-address metrics-tls-cert metrics-tls-key"); err != nil {
		t.Fatal(err)
	}
	trusting := &tls.Config{RootCAs: ca.Pool()}
	if status, name, err := getTLS(port, trusting); status != http.StatusOK || name != "first" {
		t.Errorf("status %d, certificate of %q, %v", status, name, err)
	}
	if resp, err := http.Get("http://127.0.0.1:" + port + "/healthz"); err == nil {
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("without TLS: %s", resp.Status)
		}
	}
	issue("second")
	if status, name, err := getTLS(port, trusting); status != http.StatusOK || name != "second" {
		t.Errorf("after the renewal: status %d, certificate of %q, %v", status, name, err)
	}
	if err := reread(plain+"metrics-tls-cert: /nonexistent\nmetrics-tls-key: "+keyFile, ""); err == nil || !strings.Contains(err.Error(), "metrics-tls-cert") {
		t.Errorf("a file that is missing: %v", err)
	}
	if status, _, err := getTLS(port, trusting); status != http.StatusOK {
		t.Errorf("after a reload that failed: %d, %v", status, err)
	}
	if err := reread(encrypted+"metrics-tls-client-ca: "+caFile, "metrics-tls-client-ca"); err != nil {
		t.Error(err)
	}
	if _, _, err := getTLS(port, trusting); err == nil {
		t.Error("a client without a certificate is served")
	}
	cert, key := clients.Issue(t, "client")
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	if status, _, err := getTLS(port, &tls.Config{RootCAs: ca.Pool(), Certificates: []tls.Certificate{pair}}); status != http.StatusOK {
		t.Errorf("a client with a certificate: %d, %v", status, err)
	}
	if err := reread(plain, "metrics-tls-cert metrics-tls-key metrics-tls-client-ca"); err != nil {
		t.Error(err)
	}
	resp, err := http.Get("http://127.0.0.1:" + port + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
}

// TestMetricsSocket serves on a unix socket that only root and its group can use.
func TestMetricsSocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "cridock") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	path := filepath.Join(dir, "new", "metrics.sock")
	m := newMetricsServer(http.NotFoundHandler(), nil)
	defer m.stop(t.Context())
	port := freePort(t)
	for _, at := range []metricsEndpoint{{addr: "unix://" + path}, {addr: "127.0.0.1:" + port}, {addr: "unix://" + path}} {
		if err := m.apply(t.Context(), at, true); err != nil {
			t.Fatal(err)
		}
		network, address, isUnix := "tcp", at.addr, strings.HasPrefix(at.addr, "unix://")
		if isUnix {
			network, address = "unix", path
		}
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, address)
		}}}
		resp, err := client.Get("http://metrics/healthz")
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		info, err := os.Stat(path)
		if isUnix && (err != nil || info.Mode() != fs.ModeSocket|0o660) || !isUnix && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("serving on %s, the socket is %v, %v", at.addr, info, err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "new"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := newMetricsServer(http.NotFoundHandler(), nil).apply(t.Context(), metricsEndpoint{addr: "unix://" + filepath.Join(dir, "new", "other.sock")}, false); err == nil || !strings.Contains(err.Error(), "metrics-bind-address") {
		t.Errorf("a directory that others can change: %v", err)
	}
}
