package migrate

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/cridock/cridock/internal/nodeconf"
)

const (
	kubeletService = "kubelet.service"
	cridockService = "cridock.service"
	cridockSocket  = "cridock.socket"
)

// oldUnits are those of cri-dockerd, in the order in which they are stopped: a socket
// would start its service again. The second pair is kubespray's.
var oldUnits = []string{"cri-docker.socket", "cri-docker.service", "cri-dockerd.socket", "cri-dockerd.service"}

// safe matches an endpoint that needs no quotes in any file.
var safe = regexp.MustCompile(`^unix:///[A-Za-z0-9/._-]+$`)

// unitState is what systemd says about a unit.
type unitState struct {
	ID                      string // another one for an alias
	Loaded, Active, Enabled bool
	PID                     string
}

func (m *migration) unit(ctx context.Context, name string) (unitState, error) {
	out, err := m.Run(ctx, "systemctl", "show", "--property=Id,LoadState,ActiveState,UnitFileState,MainPID", name)
	if err != nil {
		return unitState{}, err
	}
	values := map[string]string{}
	for line := range strings.Lines(out) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		values[key] = value
	}
	s := unitState{ID: values["Id"], Loaded: values["LoadState"] == "loaded", Enabled: values["UnitFileState"] == "enabled", PID: values["MainPID"]}
	switch values["ActiveState"] {
	case "active", "activating", "reloading", "refreshing":
		s.Active = true
	case "":
		return s, fmt.Errorf("systemctl show %s has no ActiveState", name)
	}
	return s, nil
}

func (m *migration) systemctl(ctx context.Context, verb string, units ...string) error {
	_, err := m.Run(ctx, "systemctl", append([]string{verb}, units...)...)
	return err
}

// old returns the units of cri-dockerd that the node has, and that are not other names
// of cridock's.
func (m *migration) old(ctx context.Context) (names []string, states []unitState, err error) {
	for _, name := range oldUnits {
		s, err := m.unit(ctx, name)
		if err != nil {
			return nil, nil, err
		}
		if s.Loaded && !strings.HasPrefix(s.ID, "cridock.") {
			names, states = append(names, name), append(states, s)
		}
	}
	return names, states, nil
}

// socketOf returns the endpoint of a socket unit.
func (m *migration) socketOf(unit string) (string, error) {
	u, err := m.Root.ReadUnit(unit)
	if err != nil {
		return "", err
	}
	for _, address := range u["Socket.ListenStream"] {
		if path := strings.Replace(address, "%t", "/run", 1); filepath.IsAbs(path) {
			return "unix://" + path, nil
		}
	}
	return "", fmt.Errorf("%s listens on no unix socket", unit)
}

// command returns the command line of a unit's service; "" if there is none.
func (m *migration) command(unit string) (string, error) {
	u, err := m.Root.ReadUnit(unit)
	if err != nil {
		return "", err
	}
	words, err := m.Root.ServiceCommand(u)
	return strings.Join(words, " "), err
}

// oldEndpoint returns the endpoint of the old adapter; "" if it has no socket.
func (m *migration) oldEndpoint(from string, units []string) (string, error) {
	if from == FromDockershim {
		return "unix:///run/dockershim.sock", nil
	}
	for _, name := range units {
		if strings.HasSuffix(name, ".service") {
			line, err := m.command(name)
			if err != nil {
				return "", err
			}
			if e := nodeconf.FlagValue(line, "container-runtime-endpoint"); strings.HasPrefix(e, "unix://") || strings.HasPrefix(e, "/") {
				return e, nil
			}
			continue
		}
		if e, err := m.socketOf(name); err == nil {
			return e, nil
		}
	}
	return "unix:///run/cri-dockerd.sock", nil
}

func sameSocket(a, b string) bool { return nodeconf.SocketPath(a) == nodeconf.SocketPath(b) }
