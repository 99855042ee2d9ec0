package streaming

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"k8s.io/klog/v2"
)

// tlsFiles makes the server's TLS configuration from files. Each handshake checks
// whether they have changed, which costs microseconds and needs no watcher.
type tlsFiles struct {
	cert, key, clientCA string

	mu     sync.Mutex
	loaded *tls.Config
	stamps [3]fileStamp
}

// fileStamp distinguishes two versions of a file.
type fileStamp struct {
	modified time.Time
	size     int64
}

// serverConfig returns the configuration of the listener.
func (t *tlsFiles) serverConfig() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return t.config() },
	}
}

// config returns the configuration from the current files, or the last good one if
// they cannot be used: certificate and key are never replaced at the same instant.
func (t *tlsFiles) config() (*tls.Config, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	stamps := [3]fileStamp{stamp(t.cert), stamp(t.key), stamp(t.clientCA)}
	if t.loaded != nil && stamps == t.stamps {
		return t.loaded, nil
	}
	config, err := t.load()
	if err != nil {
		if t.loaded == nil {
			return nil, err
		}
		klog.Background().Error(err, "Cannot use the changed TLS files, keeping the former ones")
		return t.loaded, nil
	}
	t.loaded, t.stamps = config, stamps
	return config, nil
}

func (t *tlsFiles) load() (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(t.cert, t.key)
	if err != nil {
		return nil, fmt.Errorf("TLS certificate %s and key %s: %w", t.cert, t.key, err)
	}
	config := &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{cert},
		// SPDY and WebSocket upgrades exist in HTTP/1.1 only.
		NextProtos: []string{"http/1.1"},
		// A resumed session would outlive the certificates it began with.
		SessionTicketsDisabled: true,
	}
	if t.clientCA == "" {
		return config, nil
	}
	pem, err := os.ReadFile(t.clientCA)
	if err != nil {
		return nil, fmt.Errorf("TLS client CA: %w", err)
	}
	config.ClientCAs = x509.NewCertPool()
	if !config.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("TLS client CA %s: %w: it has no certificate", t.clientCA, errdefs.ErrInvalidArgument)
	}
	config.ClientAuth = tls.RequireAndVerifyClientCert
	return config, nil
}

// stamp returns the stamp of a file; the zero value if it cannot be read.
func stamp(path string) fileStamp {
	if path == "" {
		return fileStamp{}
	}
	info, err := os.Stat(path)
	if err != nil {
		return fileStamp{}
	}
	return fileStamp{modified: info.ModTime(), size: info.Size()}
}
