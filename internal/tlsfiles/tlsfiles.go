// Package tlsfiles makes a TLS server's configuration from files that may be replaced
// while it runs.
package tlsfiles

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

// Files makes a server's TLS configuration from files. Each handshake checks whether
// they have changed, which costs microseconds and needs no watcher. It is safe for
// concurrent use; do not change the paths after the first.
type Files struct {
	// Cert and Key are the paths of the PEM certificate and key.
	Cert, Key string
	// ClientCA is the path of certificate authorities: a client needs a certificate
	// from one of them. Empty: clients need none.
	ClientCA string

	mu     sync.Mutex
	loaded *tls.Config
	stamps [3]fileStamp
}

// fileStamp distinguishes two versions of a file.
type fileStamp struct {
	modified time.Time
	size     int64
}

// Check reads the files, and returns an error if they cannot be used. Once they could
// be, it always returns nil.
func (f *Files) Check() error {
	_, err := f.config()
	return err
}

// ServerConfig returns the configuration of a listener for HTTP/1.1.
func (f *Files) ServerConfig() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return f.config() },
	}
}

// config returns the configuration from the current files, or the last good one if
// they cannot be used: certificate and key are never replaced at the same instant.
func (f *Files) config() (*tls.Config, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	stamps := [3]fileStamp{stamp(f.Cert), stamp(f.Key), stamp(f.ClientCA)}
	if f.loaded != nil && stamps == f.stamps {
		return f.loaded, nil
	}
	config, err := f.load()
	if err != nil {
		if f.loaded == nil {
			return nil, err
		}
		klog.Background().Error(err, "Cannot use the changed TLS files, keeping the former ones")
		return f.loaded, nil
	}
	f.loaded, f.stamps = config, stamps
	return config, nil
}

func (f *Files) load() (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return nil, fmt.Errorf("TLS certificate %s and key %s: %w", f.Cert, f.Key, err)
	}
	config := &tls.Config{
		MinVersion:   tls.VersionTLS12,
		Certificates: []tls.Certificate{cert},
		// SPDY and WebSocket upgrades exist in HTTP/1.1 only.
		NextProtos: []string{"http/1.1"},
		// A resumed session would outlive the certificates it began with.
		SessionTicketsDisabled: true,
	}
	if f.ClientCA == "" {
		return config, nil
	}
	pem, err := os.ReadFile(f.ClientCA)
	if err != nil {
		return nil, fmt.Errorf("TLS client CA: %w", err)
	}
	config.ClientCAs = x509.NewCertPool()
	if !config.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("TLS client CA %s: %w: it has no certificate", f.ClientCA, errdefs.ErrInvalidArgument)
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
