package e2e

import (
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// imageAttacks are settings of images that cridock leaves to Docker, or takes
// from Docker.
var imageAttacks = []attack{
	{"VOLUME leads out of the container", volumePaths},
	{"files that Docker writes are links", linkedFiles},
	{"WORKDIR is a descriptor of the runtime", workingDirs},
	{"HEALTHCHECK runs unasked", healthcheck},
	{"STOPSIGNAL is odd", stopSignals},
}

func volumePaths(t *testing.T, p *pod) {
	dir, before := outside(t)
	for i, volume := range []string{"/../.." + dir, "../../../../../../../.." + dir, dir + ":/data", "/proc/self/root" + dir} {
		image := p.load(t, fmt.Sprint("volume-", i), imageConfig{"Volumes": map[string]any{volume: struct{}{}}})
		cfg := p.ctrConfig(fmt.Sprint("volume-", i), "mkdir -p "+dir+" && touch "+dir+"/written; cat "+dir+"/secret; echo ran", ofImage(image))
		id, err := p.tryCreate(cfg)
		if err == nil {
			_, err = try(p.runtime.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: id})
		}
		if err != nil {
			t.Logf("VOLUME %s is refused: %v", volume, err)
			continue
		}
		c := &ctr{pod: p, id: id, cfg: cfg}
		c.exited()
		if out := c.logText(); strings.Contains(out, "secret\n") && !strings.Contains(out, "No such file") || !strings.Contains(out, "ran\n") {
			t.Errorf("VOLUME %s: %q", volume, out)
		}
	}
	if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
		t.Errorf("on the node (-before +after):\n%s", diff)
	}
}

func linkedFiles(t *testing.T, p *pod) {
	const up = "../../../../../../../../../../../../../../../.."
	dir, before := outside(t)
	for i, target := range []string{dir + "/secret", up + dir + "/secret", up + dir + "/new", "/proc/self/root" + dir + "/new", "resolv.conf"} {
		image := p.load(t, fmt.Sprint("linked-", i), nil, symlink("etc/mtab", target), symlink("etc/resolv.conf", target), symlink("etc/hosts", target), symlink("etc/hostname", target))
		cfg := p.ctrConfig(fmt.Sprint("linked-", i), "echo more >>/etc/mtab; cat /etc/hosts; echo ran", ofImage(image))
		id, err := p.tryCreate(cfg)
		if err == nil {
			_, err = try(p.runtime.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: id})
		}
		if err != nil {
			t.Logf("links to %s: %v", target, err)
			continue
		}
		c := &ctr{pod: p, id: id, cfg: cfg}
		c.exited()
		if out := c.logText(); strings.Contains(out, "secret\n") || !strings.Contains(out, "ran\n") {
			t.Errorf("links to %s: %q", target, out)
		}
	}
	if diff := cmp.Diff(before, tree(t, dir)); diff != "" {
		t.Errorf("on the node (-before +after):\n%s", diff)
	}
}

// workingDirs checks that no container can start in a directory of the node by
// way of a descriptor that the runtime has left open (CVE-2024-21626).
func workingDirs(t *testing.T, p *pod) {
	dir, _ := outside(t)
	for fd := 7; fd <= 8; fd++ {
		path := fmt.Sprintf("/proc/self/fd/%d", fd)
		image := p.load(t, fmt.Sprint("workdir-", fd), imageConfig{"WorkingDir": path})
		for name, option := range map[string]ctrOption{
			"image":   ofImage(image),
			"request": func(cfg *runtimeapi.ContainerConfig) { cfg.WorkingDir = path },
		} {
			cfg := p.ctrConfig(fmt.Sprintf("workdir-%s-%d", name, fd), "cat ../../../../../../../../../.."+dir+"/secret; echo ran", option)
			id, err := p.tryCreate(cfg)
			if err == nil {
				_, err = try(p.runtime.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: id})
			}
			if err != nil {
				continue
			}
			c := &ctr{pod: p, id: id, cfg: cfg}
			c.exited()
			if out := c.logText(); strings.HasPrefix(out, "secret\n") {
				t.Errorf("from %s by the %s a container reads a file of the node", path, name)
			}
		}
	}
	image := p.load(t, "workdir", imageConfig{"WorkingDir": "/srv"})
	if got := p.output("workdir", "pwd", ofImage(image)); got != "/srv\n" {
		t.Errorf("an ordinary directory is %q", got)
	}
}

// healthcheck compares with a plain Docker container, whose health check runs.
func healthcheck(t *testing.T, p *pod) {
	image := p.load(t, "healthcheck", imageConfig{"Healthcheck": map[string]any{
		"Test": []string{"CMD-SHELL", "touch /tmp/checked"}, "Interval": 20 * time.Millisecond, "Timeout": time.Minute, "Retries": 1,
	}})
	type state struct {
		State struct {
			Health *struct{ Log []any }
		}
	}
	c := p.start("healthcheck", "exec sleep 100000", ofImage(image))
	id := p.dockerRun(t, image, "exec sleep 100000") // started later than the other one
	eventually(t, "Docker runs the image's health check", time.Minute, func() bool {
		var s state
		p.docker.must(t, http.MethodGet, "/containers/"+id+"/json", nil, &s)
		return s.State.Health != nil && len(s.State.Health.Log) > 2
	})
	var s state
	p.docker.must(t, http.MethodGet, "/containers/"+c.id+"/json", nil, &s)
	if s.State.Health != nil || c.sh("ls /tmp") != "" {
		t.Errorf("the image's health check runs: %v, %q", s.State.Health, c.sh("ls /tmp"))
	}
}

func stopSignals(t *testing.T, p *pod) {
	for i, signal := range []string{"SIGHOSTILE", "999", "-1", "0", "SIGWINCH", "9; reboot"} {
		image := p.load(t, fmt.Sprint("stop-signal-", i), imageConfig{"StopSignal": signal})
		cfg := p.ctrConfig(fmt.Sprint("stop-signal-", i), "trap '' TERM; echo up; exec sleep 100000", ofImage(image))
		id, err := p.tryCreate(cfg)
		if err == nil {
			_, err = try(p.runtime.StartContainer, &runtimeapi.StartContainerRequest{ContainerId: id})
		}
		if err != nil {
			t.Logf("STOPSIGNAL %q is refused: %v", signal, err)
			continue
		}
		c := &ctr{pod: p, id: id, cfg: cfg}
		eventuallyLog(t, c, "up")
		if _, err := inTime(t, p.runtime.StopContainer, &runtimeapi.StopContainerRequest{ContainerId: id, Timeout: 1}); err != nil {
			t.Errorf("STOPSIGNAL %q: stop: %v", signal, err)
		}
		if s := c.status(); s.State != runtimeapi.ContainerState_CONTAINER_EXITED {
			t.Errorf("STOPSIGNAL %q: stopped, it is %v", signal, s.State)
		}
	}
	if files, err := filepath.Glob(p.path("logs", "*", "stop-signal-*")); err != nil || len(files) == 0 {
		t.Errorf("nothing has run: %v", err)
	}
}
