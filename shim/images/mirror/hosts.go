package mirror

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/containerd/errdefs"

	"github.com/cridock/cridock/internal/trust"
)

const (
	// hostsFile is the name of a registry's file, in a directory named after it.
	hostsFile = "hosts.toml"
	// dockerHub is Docker Hub in image names.
	dockerHub = "docker.io"
	// defaultDir is for registries without a directory.
	defaultDir = "_default"
	// maxFile bounds, in bytes, a file that the operator has written.
	maxFile = 1 << 20
	// dialTimeout is for hosts without dial_timeout.
	dialTimeout = 10 * time.Second
)

// Host is a place from which images of a registry can be pulled.
type Host struct {
	// URL is its API's root: https://mirror.example/v2.
	URL *url.URL
	// Resolve and Pull report whether it may be asked which digest a tag has, and for
	// content.
	Resolve, Pull bool
	// Origin reports whether it is the registry itself.
	Origin bool

	registry string // that the images' names have
	header   http.Header
	tls      *tls.Config
	dial     time.Duration
}

// hostSettings is a table of a host, or the top of a file, which is about the server.
type hostSettings struct {
	Capabilities []string       `toml:"capabilities"`
	CA           any            `toml:"ca"`
	Client       any            `toml:"client"`
	SkipVerify   bool           `toml:"skip_verify"`
	Header       map[string]any `toml:"header"`
	OverridePath bool           `toml:"override_path"`
	DialTimeout  string         `toml:"dial_timeout"`
}

// isZero reports whether nothing is set.
func (s hostSettings) isZero() bool {
	return s.Capabilities == nil && s.CA == nil && s.Client == nil && !s.SkipVerify && s.Header == nil && !s.OverridePath && s.DialTimeout == ""
}

// hostsTOML is a hosts.toml file.
type hostsTOML struct {
	Server string `toml:"server"`
	hostSettings
	Hosts map[string]hostSettings `toml:"host"`
}

// Registry is what a hosts.toml says about a registry.
type Registry struct {
	// File is the file's path; "" if there is none for the registry.
	File string
	// Hosts are in the order in which they are tried. The registry itself is among them
	// if the file has settings for it.
	Hosts []Host
	// Direct reports whether the engine should then try the registry itself: unless the
	// file has settings for it, or another server takes its place.
	Direct bool
}

// Read reads what the directory dir says about a registry, given as in a normalised
// image name ("docker.io", "registry.example:5000"). No file is not an error; an
// invalid one, or one that other users can change, is errdefs.ErrFailedPrecondition.
func Read(dir, registry string) (Registry, error) {
	file, err := find(dir, registry)
	if err != nil || file == "" {
		return Registry{Direct: true}, err
	}
	r, err := load(file, registry)
	if err != nil {
		return r, fmt.Errorf("mirrors of %s: %s: %w: %w", registry, file, errdefs.ErrFailedPrecondition, err)
	}
	return r, nil
}

// find returns the file for a registry; "" if there is none. As in containerd, the
// first directory that exists decides, and a colon may be written as HOST_PORT_. The
// case of a registry's name does not matter, as it does not in DNS.
func find(dir, registry string) (string, error) {
	if dir == "" {
		return "", nil
	}
	names := directories(registry)
	if lower := strings.ToLower(registry); lower != registry {
		names = append(names, directories(lower)...)
	}
	for _, name := range append(names, defaultDir) {
		if _, err := os.Stat(filepath.Join(dir, name)); errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return "", err
		}
		file := filepath.Join(dir, name, hostsFile)
		_, err := os.Stat(file)
		if errors.Is(err, fs.ErrNotExist) {
			return "", nil
		}
		return file, err
	}
	return "", nil
}

// directories returns the names that a registry's own directory may have.
func directories(registry string) []string {
	if registry == "" || !filepath.IsLocal(registry) || strings.ContainsAny(registry, "/_") {
		return nil
	}
	if host, port, ok := strings.Cut(registry, ":"); ok {
		return []string{host + "_" + port + "_", registry}
	}
	return []string{registry}
}

// load reads a file.
func load(file, registry string) (Registry, error) {
	r := Registry{File: file, Direct: true}
	if err := trust.Check(file, os.Geteuid()); err != nil {
		return r, err
	}
	text, err := readFile(file)
	if err != nil {
		return r, err
	}
	var in hostsTOML
	meta, err := toml.Decode(string(text), &in)
	if err != nil {
		return r, err
	}
	if unknown := meta.Undecoded(); len(unknown) > 0 {
		return r, fmt.Errorf("unknown key %q", unknown[0])
	}
	for _, name := range hostOrder(meta) {
		h, err := newHost(name, registry, filepath.Dir(file), in.Hosts[name])
		if err != nil {
			return r, fmt.Errorf("host %q: %w", name, err)
		}
		r.Hosts = append(r.Hosts, h)
	}
	return r, r.addServer(in, registry)
}

// addServer adds the server of a file, unless the engine can try it better: by the
// image's own name.
func (r *Registry) addServer(in hostsTOML, registry string) error {
	server := in.Server
	if server == "" {
		server = originHost(registry)
	}
	h, err := newHost(server, registry, filepath.Dir(r.File), in.hostSettings)
	if err != nil {
		return fmt.Errorf("server %q: %w", server, err)
	}
	plain := h.URL.Scheme == "https" && h.URL.Path == "/v2" && in.isZero()
	if h.Origin && plain {
		return nil
	}
	r.Direct = false
	r.Hosts = append(r.Hosts, h)
	return nil
}

// hostOrder returns the names of the host tables in the order of the file.
func hostOrder(meta toml.MetaData) []string {
	var names []string
	for _, key := range meta.Keys() {
		if len(key) >= 2 && key[0] == "host" && !slices.Contains(names, key[1]) {
			names = append(names, key[1])
		}
	}
	return names
}

// originHost returns the host that serves a registry's API.
func originHost(registry string) string {
	if strings.EqualFold(registry, dockerHub) {
		return "registry-1." + dockerHub
	}
	return registry
}

func newHost(address, registry, dir string, s hostSettings) (Host, error) {
	u, err := hostURL(address, s.OverridePath)
	if err != nil {
		return Host{}, err
	}
	h := Host{URL: u, registry: registry, Origin: strings.EqualFold(u.Host, originHost(registry)), dial: dialTimeout}
	if err := h.setCapabilities(s.Capabilities); err != nil {
		return Host{}, err
	}
	if s.DialTimeout != "" {
		if h.dial, err = time.ParseDuration(s.DialTimeout); err != nil || h.dial <= 0 {
			return Host{}, fmt.Errorf("dial_timeout %q: want a duration, such as 5s", s.DialTimeout)
		}
	}
	if h.header, err = headers(s.Header); err != nil {
		return Host{}, err
	}
	h.tls, err = tlsConfig(dir, s)
	return h, err
}

// hostURL reads the address of a host as containerd does: https without a scheme,
// and "/v2" after its path unless override says that the path is complete.
func hostURL(address string, override bool) (*url.URL, error) {
	if !strings.Contains(address, "://") {
		address = "https://" + address
	}
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	if u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("want https://HOST[:PORT][/PATH]")
	}
	if u.Host == dockerHub || u.Host == "index."+dockerHub {
		u.Host = originHost(dockerHub)
	}
	if u.Path != "" {
		u.Path = strings.TrimSuffix(path.Clean(u.Path), "/")
	}
	if !override && !strings.HasSuffix(u.Path, "/v2") {
		u.Path += "/v2"
	}
	return u, nil
}

func (h *Host) setCapabilities(list []string) error {
	if list == nil {
		h.Resolve, h.Pull = true, true
	}
	for _, c := range list {
		switch c {
		case "resolve":
			h.Resolve = true
		case "pull":
			h.Pull = true
		case "push", "referrers": // cridock does neither
		default:
			return fmt.Errorf("capabilities: unknown %q", c)
		}
	}
	return nil
}

// headers reads a table of headers, whose values are strings or lists of them.
func headers(in map[string]any) (http.Header, error) {
	out := http.Header{}
	for key, v := range in {
		values, ok := stringList(v)
		if !ok {
			return nil, fmt.Errorf("header %q: want a string or a list of strings", key)
		}
		for _, value := range values {
			out.Add(key, value)
		}
	}
	return out, nil
}

// stringList reads a value that is a string or a list of strings.
func stringList(v any) ([]string, bool) {
	switch v := v.(type) {
	case nil:
		return nil, true
	case string:
		return []string{v}, true
	case []any:
		out := make([]string, len(v))
		for i, item := range v {
			s, ok := item.(string)
			if !ok {
				return nil, false
			}
			out[i] = s
		}
		return out, true
	}
	return nil, false
}

// tlsConfig reads the certificates of a host. Relative paths begin at dir.
func tlsConfig(dir string, s hostSettings) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: s.SkipVerify} //nolint:gosec // the operator's choice
	authorities, ok := stringList(s.CA)
	if !ok {
		return nil, errors.New("ca: want a path or a list of paths")
	}
	if len(authorities) > 0 {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		for _, name := range authorities {
			pem, err := readFile(absolute(dir, name))
			if err != nil {
				return nil, fmt.Errorf("ca: %w", err)
			}
			if !pool.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("ca: %s has no certificate", name)
			}
		}
		c.RootCAs = pool
	}
	pairs, err := clientPairs(s.Client)
	if err != nil {
		return nil, err
	}
	for _, pair := range pairs {
		cert, err := readPair(absolute(dir, pair[0]), absolute(dir, pair[1]))
		if err != nil {
			return nil, fmt.Errorf("client: %w", err)
		}
		c.Certificates = append(c.Certificates, cert)
	}
	return c, nil
}

// clientPairs returns the files of client certificates and of their keys. The value
// is a file with both, a list of those, or a list of pairs.
func clientPairs(v any) ([][2]string, error) {
	var pairs [][2]string
	if files, ok := stringList(v); ok {
		for _, file := range files {
			pairs = append(pairs, [2]string{file, file})
		}
		return pairs, nil
	}
	list, _ := v.([]any)
	for _, item := range list {
		pair, ok := stringList(item)
		if !ok || len(pair) == 0 || len(pair) > 2 {
			pairs = nil
			break
		}
		pairs = append(pairs, [2]string{pair[0], pair[len(pair)-1]})
	}
	if len(pairs) == 0 {
		return nil, errors.New("client: want a path, a list of paths, or a list of pairs of certificate and key")
	}
	return pairs, nil
}

func readPair(certFile, keyFile string) (tls.Certificate, error) {
	cert, err := readFile(certFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := readFile(keyFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(cert, key)
}

func absolute(dir, name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(dir, name)
}

// readFile reads a file of the operator's.
func readFile(name string) ([]byte, error) {
	f, err := os.Open(name) //nolint:gosec // the operator has named it
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%s: larger than %d bytes", name, maxFile)
	}
	return b, err
}
