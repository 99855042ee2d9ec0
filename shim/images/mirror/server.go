package mirror

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/docker/docker/api/types/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"k8s.io/klog/v2"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/cridock/cridock/streaming/guard"
	"github.com/cridock/cridock/translate"
)

const (
	// address is where Docker finds the images. It is the same each time, since it is
	// part of names that Docker keeps; if it is taken, any free port serves.
	address = "127.0.0.1:5089"
	// user is the name that Docker logs in with.
	user = "cridock"
	// maxStrangers bounds connections without a pull's password.
	maxStrangers = 64
	// closeTimeout bounds the wait for Docker's requests at the end.
	closeTimeout = 5 * time.Second
)

// Options configures a [Server].
type Options struct {
	// Dir has a directory for each registry; empty for no mirrors.
	Dir string
	// Credential returns the node's credentials for a mirror.
	Credential func(ctx context.Context, host string) (registry.AuthConfig, error)
}

// Server offers images from mirrors to the engine of this node. Its methods are safe
// for concurrent use.
type Server struct {
	opts Options

	mu       sync.Mutex
	server   *http.Server // nil until it is needed
	address  string
	closed   bool
	sessions map[string]*session // by password
	serving  sync.WaitGroup
}

// New returns a Server. It starts nothing.
func New(o Options) *Server { return &Server{opts: o, sessions: map[string]*session{}} }

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	<-ctx.Done()
	s.mu.Lock()
	s.closed = true
	server := s.server
	s.mu.Unlock()
	if server == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	err := server.Shutdown(ctx)
	if err != nil {
		err = server.Close()
	}
	s.serving.Wait()
	return err
}

// start opens the port once and returns its address.
func (s *Server) start(ctx context.Context) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return "", errors.New("shutting down")
	}
	if s.server != nil {
		return s.address, nil
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", address)
	if err != nil {
		l, err = (&net.ListenConfig{}).Listen(ctx, "tcp4", "127.0.0.1:0")
	}
	if err != nil {
		return "", fmt.Errorf("serve images from mirrors: %w", err)
	}
	s.address = l.Addr().String()
	server := &http.Server{
		Handler: http.HandlerFunc(s.serve), ReadHeaderTimeout: time.Minute, IdleTimeout: time.Minute, MaxHeaderBytes: 64 << 10,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, connKey{}, c) },
	}
	s.server = server
	s.serving.Go(func() { _ = server.Serve(guard.Listen(l.(*net.TCPListener), maxStrangers)) })
	return s.address, nil
}

// connKey is the key of a request's connection in its context.
type connKey struct{}

// Source is an image as one mirror has it, offered to the engine.
type Source struct {
	// Host is the mirror's URL.
	Host string
	// Name is what the engine pulls, by digest; see [translate.MirrorName].
	Name string
	// Image is the image's descriptor.
	Image ocispec.Descriptor
	// Auth lets the engine in.
	Auth registry.AuthConfig
}

// Attempts is what became of the mirrors.
type Attempts struct {
	// Direct reports whether the engine should try the registry itself next.
	Direct bool
	// Failed are the mirrors that could not be used, and why.
	Failed []error
}

// Fail adds a mirror that could not be used.
func (a *Attempts) Fail(host string, err error) {
	a.Failed = append(a.Failed, fmt.Errorf("%s: %w", host, err))
}

// Err returns why no mirror has the image.
func (a *Attempts) Err() error {
	if len(a.Failed) == 0 {
		return errors.New("no host in hosts.toml has the capabilities that this needs: pull, and resolve for a tag")
	}
	return errors.Join(a.Failed...)
}

// Sources yields the places that have an image, in the order in which to try them.
// Each is usable until the loop goes on, within the context that comes with it, which
// ends with the cause when the mirror fails. A mirror without the image is not
// yielded. auth are the credentials for the registry itself; no mirror gets them.
// The error is about the registry's hosts.toml.
func (s *Server) Sources(ctx context.Context, ref translate.ImageReference, auth registry.AuthConfig) (iter.Seq2[context.Context, Source], *Attempts, error) {
	attempts := &Attempts{Direct: true}
	none := func(func(context.Context, Source) bool) {}
	r, err := Read(s.opts.Dir, ref.Registry())
	if err != nil || len(r.Hosts) == 0 {
		return none, attempts, err
	}
	attempts.Direct = r.Direct
	if _, ok := translate.MirrorName(address, ref.Name); !ok {
		attempts.Failed = append(attempts.Failed, fmt.Errorf("%s: a registry of this name cannot have mirrors", ref.Name))
		return none, attempts, nil
	}
	p := &pulling{server: s, ref: ref, auth: auth, hosts: r.Hosts, attempts: attempts}
	return func(yield func(context.Context, Source) bool) { p.sources(ctx, yield) }, attempts, nil
}

// pulling is the search for one image.
type pulling struct {
	server   *Server
	ref      translate.ImageReference
	auth     registry.AuthConfig
	hosts    []Host
	attempts *Attempts
}

func (p *pulling) sources(ctx context.Context, yield func(context.Context, Source) bool) {
	at, err := p.server.start(ctx)
	if err != nil {
		p.attempts.Failed = append(p.attempts.Failed, err)
		return
	}
	digest, failed := p.resolve(ctx)
	for i, h := range p.hosts {
		if digest == "" {
			return
		}
		if !h.Pull || failed[i] {
			continue
		}
		if !p.offer(ctx, h, at, digest, yield) {
			return
		}
	}
}

// resolve returns the digest of the image: of a tag, what the first host says that can
// resolve it; "" if none can. failed are the hosts that were asked in vain.
func (p *pulling) resolve(ctx context.Context) (digest string, failed map[int]bool) {
	failed = map[int]bool{}
	if p.ref.Digest != "" {
		return p.ref.Digest, failed
	}
	for i, h := range p.hosts {
		if !h.Resolve {
			continue
		}
		c := p.client(h)
		m, err := c.manifest(ctx, p.ref.Tag)
		c.close()
		if err == nil {
			return m.digest.String(), failed
		}
		failed[i] = true
		p.attempts.Fail(h.URL.Host, err)
		klog.FromContext(ctx).Info("Mirror does not resolve image", "image", p.ref.String(), "mirror", h.URL.Host, "err", err)
	}
	return "", failed
}

// offer yields one host, if it has the image, and reports whether to go on.
func (p *pulling) offer(ctx context.Context, h Host, at, digest string, yield func(context.Context, Source) bool) bool {
	c := p.client(h)
	defer c.close()
	m, err := c.manifest(ctx, digest)
	if err != nil {
		p.attempts.Fail(h.URL.Host, err)
		klog.FromContext(ctx).Info("Mirror does not have image", "image", p.ref.String(), "mirror", h.URL.Host, "err", err)
		return ctx.Err() == nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	password := rand.Text()
	name, _ := translate.MirrorName(at, p.ref.Name) // Sources has checked it
	session := newSession(c, strings.TrimPrefix(name, at+"/"), cancel)
	session.add(m)
	p.server.open(password, session)
	defer p.server.forget(password)
	return yield(ctx, Source{
		Host: h.URL.Host, Name: name + "@" + digest,
		Image: ocispec.Descriptor{MediaType: m.mediaType, Digest: m.digest, Size: int64(len(m.body))},
		Auth:  registry.AuthConfig{Username: user, Password: password, ServerAddress: at},
	})
}

// client returns a client of a host. The registry itself gets the pull's credentials,
// any other host those that the node has for it.
func (p *pulling) client(h Host) *client {
	_, repo, _ := strings.Cut(p.ref.Name, "/")
	return newClient(h, repo, func(ctx context.Context, host string) (auth.Credential, error) {
		if host != h.URL.Host {
			return auth.EmptyCredential, nil
		}
		found := p.auth
		if !h.Origin {
			var err error
			if found, err = p.server.opts.Credential(ctx, host); err != nil {
				return auth.EmptyCredential, err
			}
		}
		return auth.Credential{Username: found.Username, Password: found.Password, RefreshToken: found.IdentityToken, AccessToken: found.RegistryToken}, nil
	})
}

func (s *Server) open(password string, ss *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions[password] = ss
}

func (s *Server) forget(password string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, password)
}

// serve answers the engine.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
	name, password, _ := r.BasicAuth()
	s.mu.Lock()
	session := s.sessions[password]
	s.mu.Unlock()
	if session == nil || name != user {
		w.Header().Set("WWW-Authenticate", `Basic realm="cridock"`)
		refuse(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
		return
	}
	if conn, ok := r.Context().Value(connKey{}).(net.Conn); ok && !guard.Vouch(conn) {
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "this is for pulls alone")
		return
	}
	session.serve(w, r)
}

// refuse sends an error in the format of the distribution API.
func refuse(w http.ResponseWriter, status int, code, message string) {
	type item struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string][]item{"errors": {{code, message}}})
}
