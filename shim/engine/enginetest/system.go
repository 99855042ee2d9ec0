package enginetest

import (
	"net/http"

	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/system"
)

const engineVersion = "20.10.24"

func defaultInfo(root string) system.Info {
	return system.Info{
		ID: "ENGINETEST", ServerVersion: engineVersion, Driver: "overlay2", DriverStatus: [][2]string{{"Backing Filesystem", "extfs"}},
		DockerRootDir: root, LoggingDriver: "json-file", CgroupDriver: "cgroupfs", CgroupVersion: "2", CPUSet: true,
		KernelVersion: "6.1.0", OSType: "linux", Architecture: "x86_64", NCPU: 2, MemTotal: 8 << 30, Name: "enginetest",
		SecurityOptions: []string{"name=seccomp,profile=default"}, DefaultRuntime: "runc",
		Runtimes: map[string]system.RuntimeWithStatus{"runc": {Runtime: system.Runtime{Path: "runc"}}},
	}
}

// SetAPIVersion sets the engine's API version, from 1.41 (the initial one) to
// 1.51. Clients notice at their next negotiation.
func (s *Server) SetAPIVersion(v string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.apiVersion = v
}

// SetInfo changes what the engine reports about itself.
func (s *Server) SetInfo(change func(*system.Info)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.info)
}

func (s *Server) version() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.apiVersion
}

func (s *Server) ping(w http.ResponseWriter, _ *http.Request, _ string) error {
	_, err := w.Write([]byte("OK"))
	return err
}

func (s *Server) getInfo(w http.ResponseWriter, _ *http.Request, _ string) error {
	s.mu.Lock()
	info := s.info
	s.mu.Unlock()
	return reply(w, http.StatusOK, info)
}

func (s *Server) getVersion(w http.ResponseWriter, _ *http.Request, _ string) error {
	s.mu.Lock()
	version := s.info.ServerVersion
	s.mu.Unlock()
	return reply(w, http.StatusOK, types.Version{
		Version: version, APIVersion: s.version(), MinAPIVersion: "1.12",
		Os: "linux", Arch: "amd64", KernelVersion: "6.1.0",
	})
}
