package doctor

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

var nodeChecks = []Check{
	{Name: "disk-space", run: checkDiskSpace},
	{Name: "other-sockets", run: checkOtherSockets},
	{Name: "other-units", run: checkOtherUnits},
	{Name: "served-socket", run: checkServedSocket},
	{Name: "served-status", run: checkServedStatus},
	{Name: "served-settings", run: checkServedSettings},
}

// What the kubelet evicts pods at by default, as a part of the file system, and how
// much earlier there is a warning: DefaultEvictionHard in Kubernetes'
// pkg/kubelet/eviction/defaults_linux.go. The file system of images is Docker's, that
// of the node is the kubelet's.
const (
	imagesFree     = 0.15
	nodeFree       = 0.10
	evictionInodes = 0.05
	evictionAhead  = 0.05
)

// directory is one whose file system must have room.
type directory struct {
	path    string
	free    float64 // below which something happens
	evicted bool    // the kubelet looks at it, and evicts pods
}

func (n *node) directories() []directory {
	all := []directory{{kubeletDir, nodeFree, true}, {n.RootDir, nodeFree, false}, {n.PodLogsDir, nodeFree, false}}
	if n.caps != nil && n.caps.RootDir != "" {
		all = append([]directory{{n.caps.RootDir, imagesFree, true}}, all...)
	}
	return all
}

func checkDiskSpace(_ context.Context, n *node) Result {
	var results []Result
	var paths []string
	for _, d := range n.directories() {
		s, err := n.disk(n.path(d.path))
		if err != nil {
			return warning("Make the directory readable for this command.", "The space below %s is unknown: %v.", d.path, err)
		}
		paths = append(paths, d.path)
		results = append(results, d.judge(s))
	}
	if r := worst(results); r.State != OK {
		return r
	}
	return ok("There is enough space below %s.", strings.Join(paths, ", "))
}

// judge is worse for a directory that the kubelet looks at than for any other on the
// same file system.
func (d directory) judge(s space) Result {
	const cure = "Remove what is not needed (docker system df shows images), or enlarge the disk."
	at := fmt.Sprintf("%.0f %% of the space and %.0f %% of the inodes below %s are free", 100*s.free, 100*s.freeInodes, d.path)
	switch margin := min(s.free-d.free, s.freeInodes-evictionInodes); {
	case margin < 0 && d.evicted:
		return failure(cure, "%s: the kubelet evicts pods.", at)
	case margin < 0:
		return warning(cure, "%s, and the kubelet does not look at this file system.", at)
	case margin < evictionAhead && d.evicted:
		return warning(cure, "%s: the kubelet will soon evict pods.", at)
	}
	return ok("%s.", at)
}

// endpoint is where a CRI server usually listens.
type endpoint struct{ path, server string }

// otherEndpoints are those of other CRI servers. The socket of containerd is not
// among them: Docker uses it too.
var otherEndpoints = []endpoint{
	{"/run/cri-dockerd.sock", "cri-dockerd"}, {"/run/dockershim.sock", "dockershim"}, {"/run/crio/crio.sock", "CRI-O"},
}

func checkOtherSockets(_ context.Context, n *node) Result {
	if err := n.sockets.err; err != nil {
		return unknown("Which sockets have a server is unknown: %v.", err)
	}
	results := []Result{ok("No other CRI adapter has a socket.")}
	var own, stale []string
	for _, e := range otherEndpoints {
		l, listens := n.listener(e.path)
		switch {
		case !n.exists(e.path):
		case n.servedByCridock(e.path), n.reaches("unix://"+e.path) && (!l.other || l.cridock):
			own = append(own, e.path)
		case !listens:
			stale = append(stale, e.path)
		default:
			results = append(results, e.served())
		}
	}
	if len(own) > 0 {
		results[0] = ok("No other CRI adapter has a socket; %s is cridock's.", list(own))
	}
	if len(stale) > 0 {
		results = append(results, warning("Remove the file.", "Nobody listens on %s, but kubeadm takes it for an endpoint.", list(stale)))
	}
	return worst(results)
}

// served is the result if its server runs, or starts when a client comes.
func (e endpoint) served() Result {
	if e.server == "CRI-O" {
		return warning("Stop CRI-O (systemctl disable --now crio), or give kubeadm --cri-socket.",
			"CRI-O serves %s: it does not touch Docker's pods, but kubeadm refuses to choose between two endpoints.", e.path)
	}
	return failure("Run cridock migrate --from "+e.server+"; docs/migrating.md has its steps, and how to do them by hand.",
		"%s serves %s: it acts on the same pods as cridock, and kubeadm may choose it.", e.server, e.path)
}

var otherUnits = []string{"cri-docker.service", "cri-docker.socket", "crio.service"}

func checkOtherUnits(_ context.Context, n *node) Result {
	var enabled []string
	for _, unit := range otherUnits {
		if n.conf().Enabled(unit) && !n.own(unit) {
			enabled = append(enabled, unit)
		}
	}
	if len(enabled) > 0 {
		return warning("Run systemctl disable --now "+strings.Join(enabled, " ")+".", "Units of other adapters are enabled and start at the next boot: %s.", strings.Join(enabled, ", "))
	}
	return ok("No unit of another adapter is enabled.")
}

// expected reports whether cridock should be running: its unit is enabled, or the
// kubelet uses its endpoint.
func (n *node) expected() bool {
	return n.service() != "" || n.kubelet.present && n.reaches(n.kubelet.Endpoint)
}

// startCure names the unit that starts cridock, which may be cri-dockerd's.
func (n *node) startCure() string {
	return "Start cridock (systemctl start " + cmp.Or(n.service(), "cridock.service") + "); its log says why it does not run."
}

const settingsCure = "Give this command the same --config and flags as the service has."

// Why the served socket is not asked. Nobody listens; only systemd does, which would
// start a service; or it is not known who.
var (
	errNotServed  = errors.New("cridock does not run")
	errNotStarted = errors.New("systemd listens, and cridock has not started yet")
	errNotVisible = errors.New("no process is seen to hold the socket; run this command as root")
)

// status asks a running process that serves the socket.
func (n *node) status(ctx context.Context) (*runtimeapi.StatusResponse, error) {
	l, listens := n.listener(n.socket)
	switch {
	case n.sockets.err != nil:
		return nil, errors.Join(errNotVisible, n.sockets.err)
	case n.socket == "", !listens:
		return nil, errNotServed
	case !l.running() && l.systemd:
		return nil, errNotStarted
	case !l.running():
		return nil, errNotVisible
	}
	conn, err := grpc.NewClient("unix://"+n.path(n.socket), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	return runtimeapi.NewRuntimeServiceClient(conn).Status(ctx, &runtimeapi.StatusRequest{Verbose: true})
}

func checkServedSocket(_ context.Context, n *node) Result {
	if n.socket == "" {
		return skipped("systemd passes the socket, and no unit of cridock says where it is.")
	}
	info, err := os.Stat(n.path(n.resolve(n.socket)))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return n.missingSocket()
	case err != nil:
		return failure("Run this command as root.", "The socket is not accessible: %v.", err)
	case info.Mode().Type() != fs.ModeSocket:
		return failure("Remove it, or choose another container-runtime-endpoint.", "%s is not a socket, and cridock cannot serve it.", n.socket)
	case info.Mode().Perm()&0o007 != 0:
		return failure("Run chmod o-rwx "+n.socket+".", "All users may connect to %s, and whoever may is root on the node.", n.socket)
	case n.sockets.err != nil:
		return unknown("Whether a server listens on %s is unknown: %v.", n.socket, n.sockets.err)
	}
	l, listens := n.listener(n.socket)
	switch {
	case !listens:
		return failure(n.startCure(), "Nobody listens on %s.", n.socket)
	case l.systemd && !l.running():
		return ok("systemd listens on %s, and starts cridock for the first client.", n.socket)
	}
	return ok("A server listens on %s.", n.socket)
}

func (n *node) missingSocket() Result {
	for _, e := range otherEndpoints {
		if n.servedByCridock(e.path) {
			return warning(settingsCure, "There is no socket %s; cridock serves %s.", n.socket, e.path)
		}
	}
	if n.expected() {
		return failure(n.startCure(), "There is no socket %s, and the kubelet or systemd expects cridock.", n.socket)
	}
	return ok("cridock does not run on %s, and nothing expects it to.", n.socket)
}

func checkServedStatus(ctx context.Context, n *node) Result {
	status, err := n.status(ctx)
	switch {
	case errors.Is(err, errNotServed), errors.Is(err, errNotStarted), errors.Is(err, errNotVisible):
		return skipped("The server is not asked: %v.", err)
	case err != nil:
		return failure("Look into its log: journalctl -u "+cmp.Or(n.service(), "cridock.service")+".", "The server on %s does not answer Status: %v.", n.Endpoint, err)
	}
	for _, c := range status.GetStatus().GetConditions() {
		switch {
		case c.GetStatus():
		case c.GetType() == "RuntimeReady" || c.GetType() == "NetworkReady":
			return failure("Correct what the message names; docs/troubleshooting.md has the cases.", "Status says that %s is false: %s.", c.GetType(), c.GetMessage())
		default:
			return warning("Correct what the message names.", "Status says that %s is false: %s.", c.GetType(), c.GetMessage())
		}
	}
	return ok("Status says that runtime and network are ready.")
}

func checkServedSettings(ctx context.Context, n *node) Result {
	status, err := n.status(ctx)
	if err != nil {
		return skipped("cridock does not run, or does not answer.")
	}
	var served struct {
		Version string `json:"version"`
		RootDir string `json:"rootDirectory"`
	}
	if err := json.Unmarshal([]byte(status.GetInfo()["config"]), &served); err != nil || served.RootDir == "" {
		return failure("Stop it, or choose another container-runtime-endpoint.", "The server on %s is not cridock.", n.Endpoint)
	}
	switch {
	case filepath.Clean(served.RootDir) != filepath.Clean(n.RootDir):
		return warning(settingsCure,
			"cridock runs with root-directory %s, and this command with %s.", served.RootDir, n.RootDir)
	case served.Version != n.Version:
		return warning("Restart cridock, if the binary was upgraded.", "cridock %s runs; this is %s.", served.Version, n.Version)
	}
	return ok("cridock %s runs with these settings.", served.Version)
}
