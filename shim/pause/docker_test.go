package pause

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"
)

// TestOnDocker loads the image into a real engine and uses it to hold a PID
// namespace open, as a sandbox does. It runs if CRIDOCK_E2E_DOCKER names an
// engine for tests. It uses the plain HTTP API: only shim/engine imports the
// Docker client.
func TestOnDocker(t *testing.T) {
	endpoint := os.Getenv("CRIDOCK_E2E_DOCKER")
	if endpoint == "" {
		t.Skip("CRIDOCK_E2E_DOCKER is not set; hack/test.sh sets it")
	}
	d := newDocker(t, endpoint)

	var version struct{ Version, Arch, KernelVersion string }
	d.call(http.MethodGet, "/version", nil, &version)
	t.Logf("Docker %s on %s", version.Version, version.Arch)
	archive, err := Archive(version.Arch)
	if err != nil {
		t.Fatal(err)
	}
	first := d.load(archive)
	if again := d.load(archive); again.ID != first.ID {
		t.Errorf("loaded twice, the image is %s and then %s", first.ID, again.ID)
	}
	if id, err := ID(version.Arch); err != nil {
		t.Error(err)
	} else if d.graphDriver() && first.ID != id {
		t.Errorf("image ID is %s, want %s", first.ID, id)
	}
	if first.OS != "linux" || first.Architecture != version.Arch {
		t.Errorf("platform is %s/%s, want linux/%s", first.OS, first.Architecture, version.Arch)
	}

	pause := d.start(map[string]any{"Image": Name(), "HostConfig": map[string]any{
		"NetworkMode": "none", "ReadonlyRootfs": true, "IpcMode": "shareable",
		"SecurityOpt": []string{"no-new-privileges"}, "CapDrop": []string{"ALL"},
	}})
	d.checkReaps(pause)
	d.checkStops(pause)
}

// checkReaps lets a member of the PID namespace leave orphans to pause, and
// checks that none of them is in the process list after it has exited.
func (d *docker) checkReaps(pause string) {
	d.t.Helper()
	busybox := d.importBusybox()
	member := d.start(map[string]any{
		"Image": busybox, "HostConfig": map[string]any{"PidMode": "container:" + pause, "NetworkMode": "none"},
		"Tty": true, // its log is plain text, without Docker's frames
		// Each subshell exits before its child does: the child becomes an orphan.
		"Cmd": []string{"sh", "-c", "for i in 1 2 3 4 5; do (sleep 0.2 &); done; sleep 1; for i in $(seq 20); do ps -o stat | grep -q ^Z || break; sleep 0.5; done; ps -o pid,ppid,stat,args"},
	})
	d.call(http.MethodPost, "/containers/"+member+"/wait", nil, nil)
	out := string(d.do(http.MethodGet, "/containers/"+member+"/logs?stdout=1&stderr=1", "", nil))
	if !strings.Contains(out, "/pause") {
		d.t.Errorf("the member does not see pause:\n%s", out)
	}
	for line := range strings.Lines(out) {
		if fields := strings.Fields(line); len(fields) > 2 && strings.HasPrefix(fields[2], "Z") {
			d.t.Errorf("an orphan was not reaped: %s", line)
		}
	}
	d.t.Logf("processes after the orphans ended:\n%s", out)
	d.remove(member)
}

// checkStops checks that pause exits by itself, long before it would be killed.
func (d *docker) checkStops(pause string) {
	d.t.Helper()
	begin := time.Now()
	d.call(http.MethodPost, "/containers/"+pause+"/stop?t=300", nil, nil)
	if took := time.Since(begin); took > time.Minute {
		d.t.Errorf("the stop took %v", took)
	}
	var inspect struct {
		State struct {
			Status   string
			ExitCode int
		}
	}
	d.call(http.MethodGet, "/containers/"+pause+"/json", nil, &inspect)
	if inspect.State.Status != "exited" || inspect.State.ExitCode != 0 {
		d.t.Errorf("state after the stop is %+v, want exited with 0", inspect.State)
	}
}

// docker calls an engine and fails the test at the first error.
type docker struct {
	t      *testing.T
	client *http.Client
}

func newDocker(t *testing.T, endpoint string) *docker {
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "unix" {
		t.Fatalf("CRIDOCK_E2E_DOCKER=%q: want unix:///path", endpoint)
	}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", u.Path)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return &docker{t: t, client: &http.Client{Transport: transport, Timeout: time.Minute}}
}

func (d *docker) do(method, path, contentType string, body io.Reader) []byte {
	d.t.Helper()
	// Cleanups make calls too, when the test's own context has been cancelled.
	request, err := http.NewRequestWithContext(context.Background(), method, "http://docker/v1.41"+path, body)
	if err != nil {
		d.t.Fatal(err)
	}
	request.Header.Set("Content-Type", contentType)
	response, err := d.client.Do(request)
	if err != nil {
		d.t.Fatal(err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode >= http.StatusBadRequest {
		d.t.Fatalf("%s %s: %s %v: %s", method, path, response.Status, err, data)
	}
	return data
}

func (d *docker) call(method, path string, in, out any) {
	d.t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		d.t.Fatal(err)
	}
	data := d.do(method, path, "application/json", bytes.NewReader(body))
	if out == nil {
		return
	}
	if err := json.Unmarshal(data, out); err != nil {
		d.t.Fatalf("%s %s: %v in %q", method, path, err, data)
	}
}

type loadedImage struct {
	ID           string `json:"Id"`
	OS           string `json:"Os"`
	Architecture string
}

func (d *docker) load(archive []byte) loadedImage {
	d.t.Helper()
	out := d.do(http.MethodPost, "/images/load?quiet=1", "application/x-tar", bytes.NewReader(archive))
	if !strings.Contains(string(out), Name()) {
		d.t.Fatalf("load answered %q, want the name %s", out, Name())
	}
	var image loadedImage
	d.call(http.MethodGet, "/images/"+Name()+"/json", nil, &image)
	return image
}

// graphDriver reports whether images are in a graph driver's store, not
// containerd's.
func (d *docker) graphDriver() bool {
	var info struct{ DriverStatus [][2]string }
	d.call(http.MethodGet, "/info", nil, &info)
	for _, status := range info.DriverStatus {
		if status[0] == "driver-type" && strings.HasPrefix(status[1], "io.containerd.snapshotter") {
			return false
		}
	}
	return true
}

// importBusybox imports the machine's static busybox as an image.
func (d *docker) importBusybox() string {
	d.t.Helper()
	binary, err := os.ReadFile("/bin/busybox")
	if err != nil {
		d.t.Fatalf("%v (Debian: apt-get install busybox-static)", err)
	}
	const name = "cridock.internal/pause-test:busybox"
	d.do(http.MethodPost, "/images/create?fromSrc=-&repo=cridock.internal/pause-test&tag=busybox", "application/x-tar",
		bytes.NewReader(tarball(entry{name: "bin/", mode: 0o755}, entry{name: "bin/sh", mode: 0o755, data: binary})))
	d.t.Cleanup(func() { d.do(http.MethodDelete, "/images/"+name+"?force=1", "", nil) })
	return name
}

func (d *docker) start(config map[string]any) (id string) {
	d.t.Helper()
	var created struct{ ID string }
	d.call(http.MethodPost, "/containers/create", config, &created)
	d.t.Cleanup(func() { d.remove(created.ID) })
	d.call(http.MethodPost, "/containers/"+created.ID+"/start", nil, nil)
	return created.ID
}

// remove removes a container if it exists.
func (d *docker) remove(id string) {
	d.t.Helper()
	var found []any
	d.call(http.MethodGet, "/containers/json?all=1&filters="+url.QueryEscape(`{"id":["`+id+`"]}`), nil, &found)
	if len(found) > 0 {
		d.do(http.MethodDelete, "/containers/"+id+"?force=1&v=1", "", nil)
	}
}
