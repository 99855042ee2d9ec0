package app

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"github.com/coreos/go-systemd/v22/activation"
)

// systemdEndpoint means that systemd passes the socket, as in cri-dockerd's unit
// files.
const systemdEndpoint = "fd://"

// passedSocket returns the socket that systemd passed to a process of cridock's own;
// nil if there is none. A missing socket is an error if the endpoint says that systemd
// passes it. So is one that others can connect to or replace: they would be as good as
// root. The members of its group may connect, as those of socket-group.
func (o *Options) passedSocket() (net.Listener, error) {
	if !o.OwnProcess {
		return nil, o.checkNonePassed()
	}
	l, err := takePassed()
	if err != nil {
		return nil, err
	}
	if l == nil {
		return nil, o.checkNonePassed()
	}
	if err := checkPassed(l.Addr().String()); err != nil {
		return nil, errors.Join(fmt.Errorf("socket passed by systemd: %w", err), l.Close())
	}
	return l, nil
}

func (o *Options) checkNonePassed() error {
	if o.Endpoint != systemdEndpoint {
		return nil
	}
	return fmt.Errorf("container-runtime-endpoint %s: systemd passed no socket; enable the socket's unit, or set a path", o.Endpoint)
}

// takePassed takes the socket out of the environment, where systemd has put it.
func takePassed() (net.Listener, error) {
	passed, err := activation.Listeners()
	switch {
	case err != nil:
		return nil, fmt.Errorf("sockets passed by systemd: %w", err)
	case len(passed) == 0:
		return nil, nil
	case len(passed) > 1:
		return nil, fmt.Errorf("systemd passed %d sockets; want one", len(passed))
	case passed[0] == nil || passed[0].Addr().Network() != "unix":
		return nil, fmt.Errorf("systemd passed something else than a unix stream socket")
	}
	return passed[0], nil
}

// checkPassed makes sure that others can neither connect to the socket at path nor
// replace it.
func checkPassed(path string) error {
	if !filepath.IsAbs(path) { // the name of an abstract socket
		return fmt.Errorf("everybody can connect to %s; set ListenStream to a path in its unit", path)
	}
	info, err := os.Lstat(path)
	switch {
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is not a socket", path)
	case info.Mode().Perm()&0o007 != 0:
		return fmt.Errorf("others have access to %s (mode %#o), and so root's power over the node; set SocketMode=0660 in its unit", path, info.Mode().Perm())
	}
	return checkTrusted(filepath.Dir(path))
}
