package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"oras.land/oras-go/v2/registry/remote/auth"
)

// maxProbed bounds the hosts that are tried at once.
const maxProbed = 64

// Probe is one attempt to reach a host.
type Probe struct {
	// Registry is the one whose mirror the host is, as the directory is called.
	Registry string
	// Host is the host's URL; "" if the registry's file is not usable.
	Host string
	// Err is why the host, or the file, cannot be used; nil if the host answers.
	Err error
}

// ProbeAll tries all hosts in all files below dir, at once, without credentials: a host
// that refuses is fine. A missing directory has none. At most 64 are tried.
func ProbeAll(ctx context.Context, dir string) ([]Probe, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var probes []Probe
	var hosts []Host
	for _, entry := range entries {
		if info, err := os.Stat(filepath.Join(dir, entry.Name())); err == nil && !info.IsDir() {
			continue // such as a README
		}
		registry := registryOf(entry.Name())
		r, err := Read(dir, registry)
		if err != nil {
			probes, hosts = append(probes, Probe{Registry: entry.Name(), Err: err}), append(hosts, Host{})
			continue
		}
		if r.File == "" || strings.Contains(r.File, "/"+defaultDir+"/") != (entry.Name() == defaultDir) {
			continue // it has no file, or cannot be the name of a registry
		}
		for _, h := range r.Hosts {
			if h.Origin && entry.Name() == defaultDir {
				continue // the server of each registry
			}
			probes, hosts = append(probes, Probe{Registry: entry.Name(), Host: h.URL.String()}), append(hosts, h)
		}
	}
	probes, hosts = probes[:min(len(probes), maxProbed)], hosts[:min(len(hosts), maxProbed)]
	var wait sync.WaitGroup
	for i, h := range hosts {
		if h.URL != nil {
			wait.Go(func() { probes[i].Err = h.probe(ctx) })
		}
	}
	wait.Wait()
	return probes, nil
}

// registryOf returns the registry that a directory's name stands for.
func registryOf(name string) string {
	if host, port, ok := strings.Cut(strings.TrimSuffix(name, "_"), "_"); ok && host != "" && strings.HasSuffix(name, "_") {
		return host + ":" + port
	}
	return name
}

// probe asks for the root of the host's API.
func (h Host) probe(ctx context.Context) error {
	c := newClient(h, "", auth.CredentialFunc(nil))
	defer c.close()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.URL.String()+"/", nil)
	if err != nil {
		return err
	}
	resp, err := c.http.Client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	_, _ = io.CopyN(io.Discard, resp.Body, maxDrained)
	if resp.StatusCode >= http.StatusInternalServerError {
		return fmt.Errorf("%s", resp.Status)
	}
	return nil
}
