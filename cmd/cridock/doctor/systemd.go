package doctor

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/cridock/cridock/internal/nodeconf"
)

// ownUnits are the names that units of cridock have: its own, and those of cri-dockerd
// in whose place it may be.
var ownUnits = []string{"cridock.service", "cridock.socket", "cri-docker.service", "cri-docker.socket"}

// own reports whether a unit starts cridock, by whichever name.
func (n *node) own(name string) bool {
	target, _ := os.Readlink(n.path(n.conf().UnitFile(name))) // empty if it is not a link
	if strings.HasPrefix(name, "cridock.") || strings.HasPrefix(filepath.Base(target), "cridock.") {
		return true
	}
	u, err := n.conf().ReadUnit(name)
	if err != nil || u == nil {
		return false
	}
	if base, ok := strings.CutSuffix(name, ".socket"); ok {
		service := u.Last("Socket.Service")
		if service == "" {
			service = base + ".service"
		}
		if u, err = n.conf().ReadUnit(service); err != nil {
			return false
		}
	}
	words, err := n.conf().ServiceCommand(u)
	if err != nil || len(words) == 0 {
		return false
	}
	return n.isCridock(n.path(strings.TrimLeft(words[0], "@-:+!|")))
}

// service returns the enabled unit that starts cridock, "" if there is none.
func (n *node) service() string {
	for _, name := range ownUnits {
		if n.conf().Enabled(name) && n.own(name) {
			return name
		}
	}
	return ""
}

// unitSocket returns the path on which a socket unit listens, "" if there is none.
func (n *node) unitSocket(name string) string {
	u, err := n.conf().ReadUnit(name)
	if err != nil {
		return ""
	}
	for _, address := range u["Socket.ListenStream"] {
		if path := strings.Replace(address, "%t", "/run", 1); filepath.IsAbs(path) {
			return nodeconf.SocketPath(path)
		}
	}
	return ""
}

// passedSocket returns the path of the socket that systemd passes to cridock, "" if
// no unit says where it is. An enabled unit is more likely than another: cri-dockerd's
// service starts its socket's unit itself.
func (n *node) passedSocket() string {
	found := ""
	for _, name := range ownUnits {
		if !strings.HasSuffix(name, ".socket") || !n.own(name) {
			continue
		}
		path := n.unitSocket(name)
		switch {
		case path != "" && n.conf().Enabled(name):
			return path
		case found == "" && path != "" && n.exists(path):
			found = path
		}
	}
	return found
}
