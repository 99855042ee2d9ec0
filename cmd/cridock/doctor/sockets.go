package doctor

import (
	"debug/buildinfo"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cridock/cridock/internal/nodeconf"
)

// sockets are the unix sockets of interest on which processes listen. Nothing
// connects to them: for the first client, systemd would start a service.
type sockets struct {
	err    error
	byPath map[string]listener
}

// listener reports what kinds of processes hold a listening socket; none of them if
// the processes are not visible, as without root.
type listener struct {
	systemd bool // starts a service when a client comes
	cridock bool
	other   bool
}

// running reports whether a process other than systemd is seen to hold the socket.
func (l listener) running() bool { return l.cridock || l.other }

// resolve returns the path that a path leads to if it is a link.
func (n *node) resolve(path string) string {
	for range 10 {
		path = nodeconf.SocketPath(path)
		target, err := os.Readlink(n.path(path))
		if err != nil {
			return path
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(path), target)
		}
		path = target
	}
	return path
}

// acceptsConnections is the kernel's flag of a socket that listens.
const acceptsConnections = 1 << 16

// readSockets looks for listeners on the paths, of this network namespace.
func (n *node) readSockets(paths []string) sockets {
	text, err := n.readFile("/proc/net/unix")
	if err != nil {
		return sockets{err: err}
	}
	s := sockets{byPath: map[string]listener{}}
	wanted := map[string]bool{}
	for _, path := range paths {
		wanted[n.resolve(path)] = true
	}
	byInode := map[string]string{}
	for line := range strings.Lines(text) {
		// Num RefCount Protocol Flags Type St Inode Path
		f := strings.Fields(line)
		if len(f) != 8 {
			continue
		}
		flags, err := strconv.ParseUint(f[3], 16, 64)
		if err != nil || flags&acceptsConnections == 0 {
			continue
		}
		if path := n.resolve(f[7]); wanted[path] {
			byInode["socket:["+f[6]+"]"] = path
			s.byPath[path] = listener{}
		}
	}
	if len(byInode) > 0 {
		n.findHolders(byInode, s.byPath)
	}
	return s
}

// findHolders adds the processes that hold sockets. Processes that come, go, or
// belong to others are left out.
func (n *node) findHolders(byInode map[string]string, byPath map[string]listener) {
	processes, _ := filepath.Glob(n.path("/proc/[0-9]*")) // the pattern is valid
	for _, process := range processes {
		descriptors, _ := os.ReadDir(filepath.Join(process, "fd"))
		for _, d := range descriptors {
			target, _ := os.Readlink(filepath.Join(process, "fd", d.Name()))
			path, ok := byInode[target]
			if !ok {
				continue
			}
			l := byPath[path]
			switch {
			case n.isCridock(filepath.Join(process, "exe")):
				l.cridock = true
			case filepath.Base(process) == "1" && n.read("/proc/1/comm") == "systemd\n":
				l.systemd = true
			default:
				l.other = true
			}
			byPath[path] = l
		}
	}
}

// listener returns the listener on a path or on what it leads to.
func (n *node) listener(path string) (listener, bool) {
	l, ok := n.sockets.byPath[n.resolve(path)]
	return l, ok
}

// module is cridock's.
const module = "github.com/cridock/cridock"

// isCridock reports whether a file is a program that contains cridock, under
// whichever name.
func isCridock(path string) bool {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return false
	}
	if info.Main.Path == module {
		return true
	}
	for _, d := range info.Deps {
		if d.Path == module {
			return true
		}
	}
	return false
}

// SocketPath returns the path of the socket that a cridock with these settings serves;
// "" if systemd passes it and no unit says where it is. It reads units of systemd.
func SocketPath(s Settings) string { return newNode(s, nil).servedPath() }

// servedPath returns the socket that cridock with these settings serves, "" if
// systemd passes it and no unit says where it is.
func (n *node) servedPath() string {
	if n.Endpoint == passedEndpoint {
		return n.passedSocket()
	}
	return nodeconf.SocketPath(n.Endpoint)
}

// passedEndpoint means that systemd passes the socket.
const passedEndpoint = "fd://"

// reaches reports whether an endpoint leads to cridock's socket, or will when
// cridock makes its link.
func (n *node) reaches(endpoint string) bool {
	if n.socket == "" {
		return false
	}
	path := nodeconf.SocketPath(endpoint)
	return n.resolve(path) == n.resolve(n.socket) || n.SocketLink != "" && path == nodeconf.SocketPath(n.SocketLink)
}

// servedByCridock reports whether a cridock serves a path, or starts if a client
// comes.
func (n *node) servedByCridock(path string) bool {
	l, listens := n.listener(path)
	switch {
	case !listens || l.other && !l.cridock:
		return false
	case l.cridock:
		return true
	}
	// Only systemd is seen to hold it, or nobody.
	for _, name := range ownUnits {
		if strings.HasSuffix(name, ".socket") && n.own(name) && n.resolve(n.unitSocket(name)) == n.resolve(path) {
			return true
		}
	}
	return false
}
