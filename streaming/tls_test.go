package streaming

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"bytes"
	"context"
)

// authority is one test's certificate authority.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{}
	a.pem, _, a.cert, a.key = a.sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign})
	return a
}

// issue creates a certificate for 127.0.0.1.
func (a *authority) issue(t *testing.T, name string) (cert, key []byte) {
	t.Helper()
	cert, key, _, _ = a.sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}})
	return cert, key
}

func (a *authority) sign(t *testing.T, template *x509.Certificate) (certPEM, keyPEM []byte, cert *x509.Certificate, key *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, signer := template, key
	if a.cert != nil {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err = x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), cert, key
}

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
func tlsServer(t *testing.T, ca *authority, clientCA []byte) (s *Server, config Config) {
	t.Helper()
	dir := t.TempDir()
	config = Config{CertFile: filepath.Join(dir, "cert"), KeyFile: filepath.Join(dir, "key")}
	cert, key := ca.issue(t, "first")
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

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
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
	ca := newAuthority(t, "ca")
	s, _ := tlsServer(t, ca, nil)
	for _, ws := range []bool{false, true} {
		u := execURL(t, s, &runtimeapi.ExecRequest{ContainerId: "c", Cmd: []string{"cat"}, Stdin: true, Stdout: true})
		if u.Scheme != "https" {
			t.Fatalf("URL %s", u)
		}
		config := &rest.Config{Host: u.String(), TLSClientConfig: rest.TLSClientConfig{CAData: ca.pem}}
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
	ca := newAuthority(t, "ca")
	s, config := tlsServer(t, ca, nil)
	client := &tls.Config{RootCAs: ca.pool(), ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	expect := func(want string) {
		t.Helper()
		if got, err := serverName(t, s, client); err != nil || got != want {
			t.Errorf("certificate of %q, %v, want %q", got, err, want)
		}
	}
	expect("first")
	cert, key := ca.issue(t, "second")
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
	ca, clients, others := newAuthority(t, "ca"), newAuthority(t, "clients"), newAuthority(t, "others")
	s, config := tlsServer(t, ca, clients.pem)
	with := func(a *authority) *tls.Config {
		c := &tls.Config{RootCAs: ca.pool()}
		if a != nil {
			cert, key := a.issue(t, "client")
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
	replace(t, config.ClientCAFile, others.pem)
	if _, err := serverName(t, s, known); err == nil {
		t.Error("a client of the former authority is served")
	}
	if _, err := serverName(t, s, other); err != nil {
		t.Errorf("client of the new authority: %v", err)
	}
}
