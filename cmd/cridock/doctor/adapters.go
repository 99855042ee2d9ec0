package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
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
// pkg/kubelet/eviction/defaults_linux.go. The file system of images is Docker's, that of the
// node is the kubelet's.
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
	watched := map[uint64]bool{} // file systems that the kubelet looks at
	for _, d := range n.directories() {
		s, err := n.disk(n.path(d.path))
		if err != nil {
			return warning("Make the directory readable for this command.", "The space below %s is unknown: %v.", d.path, err)
		}
		paths = append(paths, d.path)
		if d.evicted || !watched[s.device] {
			results = append(results, d.judge(s))
		}
		watched[s.device] = watched[s.device] || d.evicted
	}
	if r := worst(results); r.State != OK {
		return r
	}
	return ok("There is enough space below %s.", strings.Join(paths, ", "))
}

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

// otherSockets are endpoints of other CRI servers. The socket of containerd is not
// among them: Docker uses it too.
var otherSockets = map[string]string{
	"/run/cri-dockerd.sock": "cri-dockerd", "/run/dockershim.sock": "dockershim", "/run/crio/crio.sock": "CRI-O",
}

func checkOtherSockets(ctx context.Context, n *node) Result {
	var stale []string
	for path, name := range otherSockets {
		switch {
		case !n.exists(path):
		case n.listens(ctx, path) && name == "CRI-O":
			return warning("Stop CRI-O (systemctl disable --now crio), or give kubeadm --cri-socket.",
				"CRI-O serves %s: it does not touch Docker's pods, but kubeadm refuses to choose between two endpoints.", path)
		case n.listens(ctx, path):
			return failure("Stop it: systemctl disable --now cri-docker.socket cri-docker.service; docs/migrating.md has all steps.",
				"%s serves %s: it acts on the same pods as cridock, and kubeadm may choose it.", name, path)
		default:
			stale = append(stale, path)
		}
	}
	if len(stale) > 0 {
		return warning("Remove the file.", "Nobody listens on %s, but kubeadm takes it for an endpoint.", list(stale))
	}
	return ok("No other CRI adapter has a socket.")
}

// listens reports whether a process accepts connections on a unix socket.
func (n *node) listens(ctx context.Context, path string) bool {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", n.path(path))
	if err == nil {
		_ = conn.Close()
	}
	return err == nil
}

var otherUnits = []string{"cri-docker.service", "cri-docker.socket", "crio.service"}

func checkOtherUnits(_ context.Context, n *node) Result {
	var enabled []string
	for _, unit := range otherUnits {
		if n.enabled(unit) && !n.alias(unit) {
			enabled = append(enabled, unit)
		}
	}
	if len(enabled) > 0 {
		return warning("Run systemctl disable --now "+strings.Join(enabled, " ")+".", "Units of other adapters are enabled and start at the next boot: %s.", strings.Join(enabled, ", "))
	}
	return ok("No unit of another adapter is enabled.")
}

// alias reports whether a unit is another name of one of cridock's, as its packages
// have for tools that know only cri-dockerd. systemd takes the first file of a name.
func (n *node) alias(unit string) bool {
	for _, dir := range []string{"/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"} {
		if path := filepath.Join(dir, unit); n.exists(path) {
			target, _ := os.Readlink(n.path(path)) // empty if it is not a link
			return strings.HasPrefix(filepath.Base(target), "cridock.")
		}
	}
	return false
}

// enabled reports whether systemd starts a unit with a target.
func (n *node) enabled(unit string) bool {
	paths, _ := filepath.Glob(n.path("/etc/systemd/system/*.target.*", unit)) // wants and requires; the pattern is valid
	return len(paths) > 0
}

// expected reports whether cridock should be running: its unit is enabled, or the
// kubelet uses its endpoint.
func (n *node) expected() bool {
	return n.enabled("cridock.service") || n.enabled("cridock.socket") || n.kubelet.present && socketPath(n.kubelet.Endpoint) == socketPath(n.Endpoint)
}

var errNotServed = errors.New("cridock does not run")

// status asks the served socket; errNotServed if nobody listens.
func (n *node) status(ctx context.Context) (*runtimeapi.StatusResponse, error) {
	path := socketPath(n.Endpoint)
	if !n.exists(path) || !n.listens(ctx, path) {
		return nil, errNotServed
	}
	conn, err := grpc.NewClient("unix://"+n.path(path), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	return runtimeapi.NewRuntimeServiceClient(conn).Status(ctx, &runtimeapi.StatusRequest{Verbose: true})
}

func checkServedSocket(ctx context.Context, n *node) Result {
	path := socketPath(n.Endpoint)
	info, err := os.Lstat(n.path(path))
	switch {
	case n.Endpoint == "fd://":
		return skipped("systemd has the socket, and its unit says where.")
	case errors.Is(err, fs.ErrNotExist) && n.expected():
		return failure("Start cridock (systemctl start cridock); its log says why it does not run.", "There is no socket %s, and the kubelet or systemd expects cridock.", path)
	case errors.Is(err, fs.ErrNotExist):
		return ok("cridock does not run on %s, and nothing expects it to.", path)
	case err != nil:
		return failure("Run this command as root.", "The socket is not accessible: %v.", err)
	case info.Mode().Type() != fs.ModeSocket:
		return failure("Remove it, or choose another container-runtime-endpoint.", "%s is not a socket, and cridock cannot serve it.", path)
	case info.Mode().Perm()&0o007 != 0:
		return failure("Run chmod o-rwx "+path+".", "All users may connect to %s, and whoever may is root on the node.", path)
	case !n.listens(ctx, path):
		return failure("Start cridock (systemctl start cridock); its log says why it does not run.", "Nobody listens on %s.", path)
	}
	return ok("A server listens on %s.", path)
}

func checkServedStatus(ctx context.Context, n *node) Result {
	status, err := n.status(ctx)
	switch {
	case errors.Is(err, errNotServed):
		return skipped("cridock does not run.")
	case err != nil:
		return failure("Look into its log: journalctl -u cridock.", "The server on %s does not answer Status: %v.", n.Endpoint, err)
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
		return warning("Give this command the same --config and flags as the service has.",
			"cridock runs with root-directory %s, and this command with %s.", served.RootDir, n.RootDir)
	case served.Version != n.Version:
		return warning("Restart cridock, if the binary was upgraded.", "cridock %s runs; this is %s.", served.Version, n.Version)
	}
	return ok("cridock %s runs with these settings.", served.Version)
}
