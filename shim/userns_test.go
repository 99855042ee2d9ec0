package shim_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/docker/docker/api/types/system"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/internal/seam"
)

// newUsernsNode is a node whose engine has cridock-runtime.
func newUsernsNode(t *testing.T) *node {
	t.Helper()
	return newNode(t, func(n *node) {
		n.cfg.SeamDir = filepath.Join(n.dir, "run")
		n.docker.SetInfo(func(i *system.Info) {
			i.Runtimes["cridock"] = system.RuntimeWithStatus{Runtime: system.Runtime{Path: "/usr/local/bin/cridock-runtime"}}
			i.Runtimes["crun"] = system.RuntimeWithStatus{Runtime: system.Runtime{Path: "/usr/bin/crun", Args: []string{"--debug"}}}
		})
	})
}

func usernsOptions(hostID uint32) *runtimeapi.UserNamespace {
	m := []*runtimeapi.IDMapping{{HostId: hostID, Length: 65536}}
	return &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD, Uids: m, Gids: m}
}

// usernsPod is a pod with a user namespace.
func (n *node) usernsPod(name string, hostID uint32) *runtimeapi.PodSandboxConfig {
	cfg := n.podConfig(name)
	cfg.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{UsernsOptions: usernsOptions(hostID)}
	return cfg
}

// processInUserns starts a process that stands for a container's, and returns its PID.
func processInUserns(t *testing.T, hostID int) int64 {
	t.Helper()
	cmd := exec.Command("sleep", "1000")
	m := []syscall.SysProcIDMap{{HostID: hostID, Size: 65536}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: m, GidMappings: m, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return int64(cmd.Process.Pid)
}

// record reads a container's record as cridock-runtime does.
func (n *node) record(id string) (*seam.Record, error) { return seam.Dir(n.cfg.SeamDir).Read(id) }

func (n *node) noRecords() {
	n.t.Helper()
	left, err := os.ReadDir(filepath.Join(n.cfg.SeamDir, seam.Records))
	if err != nil && !errors.Is(err, fs.ErrNotExist) || len(left) > 0 {
		n.t.Errorf("records left behind: %v, %v", left, err)
	}
}

// TestUserNamespaceRecords: cridock-runtime finds what it needs when Docker starts a
// container, and nothing after its removal.
func TestUserNamespaceRecords(t *testing.T) {
	n := newUsernsNode(t)
	pid := processInUserns(t, 100000)
	n.engine.pid.Store(pid)
	n.engine.app.Store(pid)
	r, err := n.runtime.RunPodSandbox(n.ctx, &runtimeapi.RunPodSandboxRequest{Config: n.usernsPod("web", 100000), RuntimeHandler: "crun"})
	n.must(err)
	pod := r.PodSandboxId
	cfg := containerConfig("main", "pause")
	o := usernsOptions(100000)
	cfg.Mounts = []*runtimeapi.Mount{{HostPath: n.dir, ContainerPath: "/data", UidMappings: o.Uids, GidMappings: o.Gids}}
	id := n.create(pod, cfg)
	for id, joins := range map[string]bool{pod: false, id: true} {
		record, err := n.record(id)
		n.must(err)
		u := record.UserNamespace
		if record.Runtime.Path != "/usr/bin/crun" || len(record.Runtime.Args) != 1 || u.UIDs[0] != (seam.Mapping{HostID: 100000, Size: 65536}) {
			t.Errorf("the record is %+v", record)
		}
		if (record.UTS != nil) != joins || joins && int64(record.UTS.PID) != pid {
			t.Errorf("the record is %+v, with the UTS namespace of %+v", record, record.UTS)
		}
		if (u.Join != nil) != joins || joins && (int64(u.Join.PID) != pid || len(record.MappedMounts) != 1) {
			t.Errorf("the record is %+v, joins %+v", record, u.Join)
		}
		c, err := n.call().ContainerInspect(n.ctx, id)
		n.must(err)
		if c.HostConfig.Runtime != "cridock" {
			t.Errorf("the runtime is %q", c.HostConfig.Runtime)
		}
	}
	// A repeated request writes a record that an interrupted one has not.
	n.must(os.Remove(seam.Dir(n.cfg.SeamDir).RecordPath(id)))
	if again := n.create(pod, cfg); again != id {
		t.Errorf("a repeated request created %s", again)
	}
	_, err = n.record(id)
	n.must(err)
	n.startContainer(id)
	n.stop()
	n.start() // the start keeps records of containers that there are
	n.engine.pid.Store(pid)
	n.engine.app.Store(pid)
	_, err = n.record(id)
	n.must(err)
	n.must(n.removeContainer(id))
	if _, err := n.record(id); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after the removal: %v", err)
	}
	n.must(n.removePod(pod))
	n.noRecords()
}

// TestUserNamespaceRolledBack: no record outlives a failed call.
func TestUserNamespaceRolledBack(t *testing.T) {
	n := newUsernsNode(t)
	n.engine.pid.Store(processInUserns(t, 100000))
	n.docker.FailNext("container start", 1, 500, "no")
	if _, err := n.tryRunPod(n.usernsPod("web", 100000)); err == nil {
		t.Error("a failed start is no error")
	}
	n.noRecords()
}

// TestOtherUserNamespace: what is not in the user namespace asked for does not run.
func TestOtherUserNamespace(t *testing.T) {
	n := newUsernsNode(t)
	before := n.remains()
	n.engine.pid.Store(int64(os.Getpid()))
	cfg := n.usernsPod("web", 100000)
	before.Files = n.remains().Files
	if _, err := n.tryRunPod(cfg); err == nil || !strings.Contains(err.Error(), "uid_map") {
		t.Errorf("a sandbox in the host's user namespace: %v", err)
	}
	n.unchanged(t, before)
	n.noRecords()

	n.engine.pid.Store(processInUserns(t, 100000))
	n.engine.app.Store(int64(os.Getpid()))
	pod := n.runPod(n.usernsPod("web", 100000))
	id := n.create(pod, containerConfig("main", "pause"))
	if err := n.tryStart(id); err == nil || !strings.Contains(err.Error(), "uid_map") {
		t.Errorf("a container in the host's user namespace: %v", err)
	}
	if got := n.status(id).State; got != runtimeapi.ContainerState_CONTAINER_EXITED {
		t.Errorf("it is %v", got)
	}
	n.must(n.removePod(pod))
	n.noRecords()
}

// TestUserNamespaceAway: records of containers that somebody removes go, whether
// cridock runs or not.
func TestUserNamespaceAway(t *testing.T) {
	n := newUsernsNode(t)
	n.engine.pid.Store(processInUserns(t, 100000))
	pod := n.runPod(n.usernsPod("web", 100000))
	first, second := n.create(pod, containerConfig("first", "pause")), n.create(pod, containerConfig("second", "pause"))
	gone := func(id string) bool {
		_, err := n.record(id)
		return errors.Is(err, fs.ErrNotExist)
	}
	n.must(n.call().ContainerRemove(n.ctx, first))
	n.eventually("the record of a removed container is gone", func() bool { return gone(first) })
	n.stop()
	n.must(removeBehind(n, second))
	n.start()
	if !gone(second) || gone(pod) {
		t.Errorf("after the start, removed: %t; the pod's: %t", gone(second), gone(pod))
	}
	n.engine.pid.Store(processInUserns(t, 100000))
	n.must(n.removePod(pod))
	n.noRecords()
}

// removeBehind removes a container while cridock does not run.
func removeBehind(n *node, id string) error {
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	return n.call().ContainerRemove(ctx, id)
}

// TestUserNamespacesUnmet: Status and errors say what is missing.
func TestUserNamespacesUnmet(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*node)
		want   string
	}{
		"no runtime":   {func(*node) {}, "cridock runtime install"},
		"no directory": {func(n *node) { n.cfg.SeamDir = "" }, "runtime directory"},
		"userns-remap": {func(n *node) {
			n.docker.SetInfo(func(i *system.Info) { i.SecurityOptions = append(i.SecurityOptions, "name=userns") })
		}, "userns-remap"},
		"no data on disk": {func(n *node) { n.docker.SetInfo(func(i *system.Info) { i.DockerRootDir = "/proc" }) }, "id-mapped"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, func(n *node) {
				n.cfg.SeamDir = filepath.Join(n.dir, "run")
				if name != "no runtime" {
					n.docker.SetInfo(func(i *system.Info) {
						i.Runtimes["cridock"] = system.RuntimeWithStatus{Runtime: system.Runtime{Path: "/cridock-runtime"}}
					})
				}
				tc.change(n)
			})
			_, err := n.tryRunPod(n.usernsPod("web", 100000))
			if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v; want %q", err, tc.want)
			}
			s, err := n.runtime.Status(n.ctx, &runtimeapi.StatusRequest{})
			n.must(err)
			for _, h := range s.RuntimeHandlers {
				if h.Features.UserNamespaces {
					t.Errorf("handler %q advertises them", h.Name)
				}
			}
		})
	}
}
