package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"strconv"

	"k8s.io/klog/v2"

	"github.com/cridock/cridock/internal/unixsocket"
	"github.com/cridock/cridock/shim"
)

// listen returns the socket that systemd passed, or makes one if passed is nil, and
// links to it. The returned function removes the link.
func (o *Options) listen(ctx context.Context, passed net.Listener) (net.Listener, func(), error) {
	l, err := o.listener(ctx, passed)
	if err != nil {
		return nil, nil, err
	}
	if o.SocketLink == "" {
		return l, func() {}, nil
	}
	unlink, err := linkSocket(ctx, o.SocketLink, l.Addr().String())
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("socket-link: %w", err), l.Close())
	}
	return l, unlink, nil
}

func (o *Options) listener(ctx context.Context, passed net.Listener) (net.Listener, error) {
	if passed != nil {
		if names := o.unitSettings(); len(names) > 0 {
			klog.FromContext(ctx).Info("Settings have no effect", "settings", names, "reason", "systemd made the socket; set SocketGroup and SocketMode in its unit")
		}
		return passed, nil
	}
	l, err := shim.Listen(ctx, o.Endpoint)
	if err != nil {
		return nil, err
	}
	if err := o.restrictSocket(l.Addr().String()); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// unitSettings returns the names of the settings in use that a socket unit has
// instead.
func (o *Options) unitSettings() []string {
	var names []string
	defaults := NewOptions()
	if o.SocketGroup != defaults.SocketGroup {
		names = append(names, "socket-group")
	}
	if o.SocketMode != defaults.SocketMode {
		names = append(names, "socket-mode")
	}
	return names
}

// restrictSocket sets the group and the mode of the socket. Until then it has the
// process's group, and mode 0660.
func (o *Options) restrictSocket(path string) error {
	mode, err := o.socketMode()
	if err != nil {
		return err
	}
	if o.SocketGroup != "" {
		gid, err := groupID(o.SocketGroup)
		if err != nil {
			return fmt.Errorf("socket-group: %w", err)
		}
		if err := os.Chown(path, -1, gid); err != nil {
			return fmt.Errorf("socket-group: %w", err)
		}
	}
	if err := os.Chmod(path, mode); err != nil {
		return fmt.Errorf("socket-mode: %w", err)
	}
	return nil
}

func groupID(group string) (int, error) {
	if gid, err := strconv.ParseUint(group, 10, 31); err == nil {
		return int(gid), nil
	}
	g, err := user.LookupGroup(group)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(g.Gid)
}

// linkSocket makes path a symbolic link to the socket. It replaces a link, and a
// socket that nobody listens on, but nothing else. The returned function removes the
// link unless somebody has changed it.
func linkSocket(ctx context.Context, path, socket string) (unlink func(), err error) {
	unlink = func() {
		if leadsTo(path, socket) {
			_ = os.Remove(path)
		}
	}
	if leadsTo(path, socket) {
		return unlink, nil
	}
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return unlink, os.Symlink(socket, path)
	case err != nil:
		return nil, err
	case info.Mode().Type() != fs.ModeSymlink && info.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("%s exists and is no socket; remove it or choose another path", path)
	}
	served, err := unixsocket.Served(ctx, path)
	if err != nil {
		return nil, err
	}
	if served {
		return nil, fmt.Errorf("another process serves %s; stop that or choose another path", path)
	}
	next := path + ".cridock"
	if err := os.Symlink(socket, next); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	if !leadsTo(next, socket) {
		return nil, fmt.Errorf("%s is in the way; remove it", next)
	}
	return unlink, os.Rename(next, path)
}

func leadsTo(path, socket string) bool {
	target, err := os.Readlink(path)
	return err == nil && target == socket
}
