package enginetest

import (
	"archive/tar"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/network"
)

const neverTime = "0001-01-01T00:00:00Z"

// ctr is one container. Server.mu guards it.
type ctr struct {
	inspect container.InspectResponse
	image   *Image
	proc    *proc // nil while it is not running
	output  *output
	stdin   *stdin
	exited  chan struct{} // closed when the current run has ended
	oom     bool          // the next exit is the OOM killer's
}

func (c *ctr) running() bool { return c.proc != nil }

func randomID() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

func noSuchContainer(id string) error {
	return errorf(http.StatusNotFound, "No such container: %s", id)
}

// findLocked finds a container. Docker takes a full ID, then a name, then a prefix.
func (s *Server) findLocked(ref string) (*ctr, error) {
	if c := s.containers[ref]; c != nil {
		return c, nil
	}
	var found []*ctr
	for id, c := range s.containers {
		if c.inspect.Name == "/"+ref {
			return c, nil
		}
		if strings.HasPrefix(id, ref) {
			found = append(found, c)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, noSuchContainer(ref)
	default:
		return nil, errorf(http.StatusBadRequest, "Multiple IDs found with provided prefix: %s", ref)
	}
}

func (s *Server) createContainer(w http.ResponseWriter, r *http.Request, _ string) error {
	var req container.CreateRequest
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		return errorf(http.StatusBadRequest, "%v", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	img := s.imageByRefLocked(req.Image)
	if img == nil {
		return errorf(http.StatusNotFound, "No such image: %s", req.Image)
	}
	id, name := randomID(), r.FormValue("name")
	if name == "" {
		name = "unnamed_" + id[:12]
	}
	for other, c := range s.containers {
		if c.inspect.Name == "/"+name {
			return errorf(http.StatusConflict, "Conflict. The container name %q is already in use by container %q. You have to remove (or rename) that container to be able to reuse that name.", "/"+name, other)
		}
	}
	if rt := req.HostConfig.Runtime; rt != "" {
		if _, ok := s.info.Runtimes[rt]; !ok {
			return errorf(http.StatusBadRequest, "Unknown runtime specified %s", rt)
		}
	}
	warnings := []string{}
	if !s.info.CPUSet && req.HostConfig.CpusetCpus != "" {
		req.HostConfig.CpusetCpus = ""
		warnings = append(warnings, "Your kernel does not support cpuset or the cgroup is not mounted. Cpuset discarded.")
	}
	img.fill(req.Config)
	if len(req.Entrypoint)+len(req.Cmd) == 0 {
		return errorf(http.StatusBadRequest, "No command specified")
	}
	c, err := s.newContainer(id, name, img, req)
	if err != nil {
		return err
	}
	s.containers[id] = c
	s.containerEventLocked(c, "create")
	return reply(w, http.StatusCreated, container.CreateResponse{ID: id, Warnings: warnings})
}

func (s *Server) newContainer(id, name string, img *Image, req container.CreateRequest) (*ctr, error) {
	dir := filepath.Join(s.dir, "containers", id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	host := req.HostConfig
	if host.Runtime == "" {
		host.Runtime = s.info.DefaultRuntime
	}
	if host.LogConfig.Type == "" {
		host.LogConfig.Type = s.info.LoggingDriver
	}
	if host.NetworkMode == "" {
		host.NetworkMode = "default"
	}
	if req.Hostname == "" {
		req.Hostname = id[:12]
	}
	argv := slices.Concat([]string(req.Entrypoint), []string(req.Cmd))
	c := &ctr{image: img, output: &output{log: filepath.Join(dir, id+"-json.log")}, exited: make(chan struct{})}
	close(c.exited)
	c.inspect = container.InspectResponse{
		ContainerJSONBase: &container.ContainerJSONBase{
			ID: id, Name: "/" + name, Image: img.ID, Created: time.Now().UTC().Format(time.RFC3339Nano),
			Path: argv[0], Args: argv[1:], Driver: s.info.Driver, Platform: "linux", HostConfig: host,
			ResolvConfPath: filepath.Join(dir, "resolv.conf"), HostnamePath: filepath.Join(dir, "hostname"), HostsPath: filepath.Join(dir, "hosts"),
			State: &container.State{Status: container.StateCreated, StartedAt: neverTime, FinishedAt: neverTime},
		},
		Config: req.Config, Mounts: mounts(host),
		NetworkSettings: &container.NetworkSettings{Networks: map[string]*network.EndpointSettings{}},
	}
	if host.LogConfig.Type == "json-file" {
		c.inspect.LogPath = c.output.log
	}
	if len(img.Layers) > 0 {
		upper, work := filepath.Join(s.dir, "overlay2", id, "diff"), filepath.Join(s.dir, "overlay2", id, "work")
		if err := errors.Join(os.MkdirAll(upper, 0o755), os.MkdirAll(work, 0o700)); err != nil {
			return nil, err
		}
		c.inspect.GraphDriver.Name = "overlay2"
		c.inspect.GraphDriver.Data = map[string]string{"UpperDir": upper, "WorkDir": work, "LowerDir": strings.Join(img.Layers, ":")}
	}
	return c, nil
}

func mounts(host *container.HostConfig) []container.MountPoint {
	all := []container.MountPoint{}
	for _, b := range host.Binds {
		if p := strings.SplitN(b, ":", 3); len(p) > 1 {
			mode := append(p, "")[2]
			all = append(all, container.MountPoint{Type: mount.TypeBind, Source: p[0], Destination: p[1], Mode: mode, RW: !slices.Contains(strings.Split(mode, ","), "ro")})
		}
	}
	for _, m := range host.Mounts {
		p := container.MountPoint{Type: m.Type, Source: m.Source, Destination: m.Target, RW: !m.ReadOnly, Propagation: mount.PropagationRPrivate}
		if m.BindOptions != nil && m.BindOptions.Propagation != "" {
			p.Propagation = m.BindOptions.Propagation
		}
		all = append(all, p)
	}
	return all
}

func (s *Server) inspectContainer(w http.ResponseWriter, _ *http.Request, ref string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := s.findLocked(ref)
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, c.inspect)
}

// containerStats always returns the same reading, as nothing really runs.
func (s *Server) containerStats(w http.ResponseWriter, _ *http.Request, ref string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := s.findLocked(ref)
	if err != nil {
		return err
	}
	r := container.StatsResponse{ID: c.inspect.ID, Name: c.inspect.Name}
	if c.running() {
		r.Read = time.Now()
		r.CPUStats.CPUUsage.TotalUsage = 5e6
		r.MemoryStats = container.MemoryStats{Usage: 1 << 20, Limit: 1 << 34, Stats: map[string]uint64{"inactive_file": 1 << 12, "anon": 1 << 16}}
	}
	return reply(w, http.StatusOK, r)
}

func (s *Server) listContainers(w http.ResponseWriter, r *http.Request, _ string) error {
	f, err := filters.FromJSON(r.FormValue("filters"))
	if err != nil {
		return errorf(http.StatusBadRequest, "%v", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	list := []container.Summary{}
	for id, c := range s.containers {
		if !c.running() && r.FormValue("all") != "1" || !f.Match("id", id) || !f.ExactMatch("status", c.inspect.State.Status) ||
			!f.Match("name", c.inspect.Name) || !f.MatchKVList("label", c.inspect.Config.Labels) {
			continue
		}
		created, err := time.Parse(time.RFC3339Nano, c.inspect.Created)
		if err != nil {
			return err
		}
		// A list shows the image name given at creation.
		item := container.Summary{
			ID: id, Names: []string{c.inspect.Name}, Image: c.inspect.Config.Image, ImageID: c.inspect.Image, Created: created.Unix(),
			Labels: maps.Clone(c.inspect.Config.Labels), State: c.inspect.State.Status, Status: c.inspect.State.Status, Mounts: c.inspect.Mounts,
		}
		item.HostConfig.NetworkMode = string(c.inspect.HostConfig.NetworkMode)
		list = append(list, item)
	}
	slices.SortFunc(list, func(a, b container.Summary) int { return int(b.Created - a.Created) })
	return reply(w, http.StatusOK, list)
}

func (s *Server) updateContainer(w http.ResponseWriter, r *http.Request, ref string) error {
	var u container.UpdateConfig
	if err := json.NewDecoder(r.Body).Decode(&u); err != nil {
		return errorf(http.StatusBadRequest, "%v", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := s.findLocked(ref)
	if err != nil {
		return err
	}
	have := &c.inspect.HostConfig.Resources
	// The API takes zero for "unchanged".
	set(&have.CPUShares, u.CPUShares)
	set(&have.CPUPeriod, u.CPUPeriod)
	set(&have.CPUQuota, u.CPUQuota)
	set(&have.CpusetCpus, u.CpusetCpus)
	set(&have.CpusetMems, u.CpusetMems)
	set(&have.Memory, u.Memory)
	set(&have.MemorySwap, u.MemorySwap)
	set(&have.MemoryReservation, u.MemoryReservation)
	set(&have.PidsLimit, u.PidsLimit)
	if have.Memory > 0 && have.MemorySwap > 0 && have.Memory > have.MemorySwap {
		return errorf(http.StatusConflict, "Cannot update container %s: Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time", ref)
	}
	s.containerEventLocked(c, "update")
	return reply(w, http.StatusOK, container.UpdateResponse{Warnings: []string{}})
}

func set[T comparable](field *T, value T) {
	var zero T
	if value != zero {
		*field = value
	}
}

func (s *Server) archive(w http.ResponseWriter, r *http.Request, ref string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := s.findLocked(ref)
	if err != nil {
		return err
	}
	name := path.Clean("/" + r.FormValue("path"))
	header := tar.Header{Typeflag: tar.TypeReg, Name: path.Base(name), Mode: 0o644}
	content, ok := c.image.Files[name]
	if !ok {
		if !c.image.hasDir(name) {
			return errorf(http.StatusNotFound, "Could not find the file %s in container %s", name, ref)
		}
		header.Typeflag, header.Mode = tar.TypeDir, 0o755
	}
	header.Size = int64(len(content))
	stat, err := json.Marshal(container.PathStat{Name: header.Name, Size: header.Size, Mode: header.FileInfo().Mode()})
	if err != nil {
		return err
	}
	w.Header().Set("X-Docker-Container-Path-Stat", base64.StdEncoding.EncodeToString(stat))
	w.Header().Set("Content-Type", "application/x-tar")
	t := tar.NewWriter(w)
	if err := t.WriteHeader(&header); err != nil {
		return err
	}
	if _, err := t.Write([]byte(content)); err != nil {
		return err
	}
	return t.Close()
}
