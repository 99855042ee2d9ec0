package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestSeccompDefaultProfile: RuntimeDefault is the profile that the engine's
// operator has set; one in cridock's own settings takes precedence.
func TestSeccompDefaultProfile(t *testing.T) {
	t.Parallel()
	needEngine(t)
	dir := t.TempDir()
	file := func(name, profile string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(profile), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	engines := file("engine.json", profiles["docker"])
	own := file("own.json", strings.NewReplacer("fchmodat", "mkdirat", "fchmod", "mkdirat", "chmod", "mkdir").Replace(profiles["docker"]))
	n := newNode(t, "--seccomp-profile="+engines)
	byDefault := func(cfg *runtimeapi.ContainerConfig) {
		cfg.Linux.SecurityContext.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	}
	const script = "touch /x; chmod 600 /x 2>/dev/null || echo no chmod; mkdir /y 2>/dev/null || echo no mkdir"
	t.Run("engine", func(t *testing.T) {
		p := newCridock(t, n, "cni").runPod(t)
		if got := p.output("main", script, byDefault); got != "no chmod\n" {
			t.Errorf("got %q", got)
		}
		if got := p.output("unconfined", script); got != "" {
			t.Errorf("unconfined: %q", got)
		}
	})
	t.Run("settings", func(t *testing.T) {
		c := newCridock(t, n, "cni", "--seccomp-default-profile="+own)
		p := c.runPod(t)
		if got := p.output("main", script, byDefault); got != "no mkdir\n" {
			t.Errorf("got %q", got)
		}
		if err := os.Remove(own); err != nil {
			t.Fatal(err)
		}
		_, err := p.tryCreate(p.ctrConfig("without", "true", byDefault))
		wantCode(t, err, codes.FailedPrecondition, own)
	})
}

// TestCDIAtCreation: exec sessions have the environment of a CDI device, and an
// unavailable device is refused when the container is created, whether or not
// the engine supports CDI.
func TestCDIAtCreation(t *testing.T) {
	t.Parallel()
	c := sharedCridock(t, "cni")
	p := c.runPod(t)
	const spec = `{"cdiVersion":"0.5.0","kind":"e2e.test/creation","containerEdits":{"env":["ALL=all"]},"devices":[
 {"name":"env","containerEdits":{"env":["ONE=one"]}},
 {"name":"mode","containerEdits":{"deviceNodes":[{"path":"/dev/of-mode","hostPath":"/dev/zero","fileMode":384}]}}]}`
	// Atomically, as dockerd may read it at any time.
	c.run(t, "sh", "-c", `mkdir -p /var/run/cdi && echo "$0" >/var/run/cdi/creation.tmp && mv /var/run/cdi/creation.tmp /var/run/cdi/creation.json`, spec)
	with := func(device string) ctrOption {
		return func(cfg *runtimeapi.ContainerConfig) {
			cfg.CDIDevices = []*runtimeapi.CDIDevice{{Name: "e2e.test/creation=" + device}}
		}
	}
	main := p.start("main", "env | sort | grep -E '^(ALL|ONE)='; sleep 1000", with("env"))
	eventuallyLog(t, main, "ONE=one")
	if got := main.logText(); got != "ALL=all\nONE=one\n" {
		t.Errorf("the container has %q", got)
	}
	if got := main.sh("echo $ALL $ONE"); got != "all one" {
		t.Errorf("an exec session has %q", got)
	}
	_, err := p.tryCreate(p.ctrConfig("unknown", "true", with("no-such")))
	wantCode(t, err, codes.FailedPrecondition, "e2e.test/creation=no-such")
	if !rpc(t, c.runtime.Status, &runtimeapi.StatusRequest{}).GetFeatures().GetMountOptions() { // no CDI
		_, err := p.tryCreate(p.ctrConfig("mode", "true", with("mode")))
		wantCode(t, err, codes.FailedPrecondition, "mode of /dev/of-mode")
	} else if got := p.output("mode", "stat -c %a /dev/of-mode", with("mode")); got != "600\n" {
		t.Errorf("the device's mode is %q", got)
	}
}

// TestCDISpecDirs: even with an engine without CDI, only the configured
// directories are read.
func TestCDISpecDirs(t *testing.T) {
	t.Parallel()
	needEngine(t)
	n := newNode(t)
	dir := t.TempDir()
	c := newCridock(t, n, "cni", "--cdi-spec-dirs="+dir)
	if rpc(t, c.runtime.Status, &runtimeapi.StatusRequest{}).GetFeatures().GetMountOptions() {
		t.Skip("this engine has CDI and directories of its own")
	}
	spec := fmt.Sprintf(`{"cdiVersion":"0.5.0","kind":"e2e.test/own","devices":[{"name":"env","containerEdits":{"env":["DIR=%s"]}}]}`, dir)
	if err := os.WriteFile(filepath.Join(dir, "own.json"), []byte(spec), 0o644); err != nil {
		t.Fatal(err)
	}
	got := c.runPod(t).output("main", "echo $DIR", func(cfg *runtimeapi.ContainerConfig) {
		cfg.CDIDevices = []*runtimeapi.CDIDevice{{Name: "e2e.test/own=env"}}
	})
	if got != dir+"\n" {
		t.Errorf("got %q, want %q", got, dir)
	}
}
