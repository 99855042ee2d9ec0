package app

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/internal/needs"
)

const deployDir = "../../../deploy"

// TestDeployedConfig: the example configuration has only settings that are known,
// at their defaults where it does not say otherwise.
func TestDeployedConfig(t *testing.T) {
	defer klog.CaptureState().Restore() // the file sets v
	f := pflag.NewFlagSet("cridock", pflag.ContinueOnError)
	o := NewOptions()
	o.configDir = "" // this machine's
	o.AddFlags(f)
	file := filepath.Join(t.TempDir(), "cridock.yaml") // users other than root may own the source tree
	write(t, file, read(t, "deploy/cridock.yaml"))
	if err := f.Parse([]string{"--config=" + file}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(o.Complete(f), o.Validate()); err != nil {
		t.Fatal(err)
	}
	f.Visit(func(set *pflag.Flag) {
		if got := set.Value.String(); got != set.DefValue && set.Name != "config" && set.Name != "v" {
			t.Errorf("%s is %q; the default is %q", set.Name, got, set.DefValue)
		}
	})
	if v := f.Lookup("v").Value.String(); v != "2" {
		t.Errorf("v is %s; the file says 2", v)
	}
}

// unit reads the settings of a unit file; repeated ones are collected.
func unit(t *testing.T, name string) map[string][]string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(deployDir, "systemd", name))
	if err != nil {
		t.Fatal(err)
	}
	settings := map[string][]string{}
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(key, "#") {
			settings[key] = append(settings[key], value)
		}
	}
	return settings
}

func TestDeployedUnits(t *testing.T) {
	service, socket, kubelet := unit(t, "cridock.service"), unit(t, "cridock.socket"), unit(t, "kubelet-10-cridock.conf")
	defaults := pflag.NewFlagSet("cridock", pflag.ContinueOnError)
	NewOptions().AddFlags(defaults)
	endpoint := defaults.Lookup("container-runtime-endpoint").DefValue
	if got := socket["ListenStream"]; !slices.Equal(got, []string{strings.TrimPrefix(endpoint, "unix://")}) {
		t.Errorf("cridock.socket listens on %q; want the default of container-runtime-endpoint, %s", got, endpoint)
	}
	if got := strings.Join(kubelet["Environment"], " "); !strings.HasSuffix(got, "--container-runtime-endpoint="+endpoint) {
		t.Errorf("the kubelet is given %q; want %s", got, endpoint)
	}
	if reload := strings.Join(service["ExecReload"], " "); !strings.Contains(reload, "kill -HUP $MAINPID") {
		t.Errorf("cridock.service reloads with %q; want SIGHUP", reload)
	}
	if len(service["WatchdogSec"]) != 1 {
		t.Errorf("cridock.service has WatchdogSec %q; want one", service["WatchdogSec"])
	}
	// A mount namespace of cridock's own would hide the pods' network namespaces
	// that it pins.
	for key := range service {
		for _, refused := range []string{"Private", "Protect", "ReadOnly", "ReadWrite", "Inaccessible", "Bind", "TemporaryFileSystem", "Root", "MountFlags", "DynamicUser"} {
			if strings.HasPrefix(key, refused) {
				t.Errorf("cridock.service has %s, which gives it namespaces of its own", key)
			}
		}
	}
	dropped := strings.Fields(strings.TrimPrefix(strings.Join(service["CapabilityBoundingSet"], " "), "~"))
	for _, needed := range []string{"CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_SYS_RESOURCE", "CAP_SYSLOG", "CAP_KILL", "CAP_DAC_OVERRIDE", "CAP_SYS_MODULE"} {
		if slices.Contains(dropped, needed) {
			t.Errorf("cridock.service drops %s", needed)
		}
	}
}

// TestUnitsVerify has systemd look for settings that it does not know.
func TestUnitsVerify(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	needs.That(t, err == nil, "systemd-analyze is not installed: %v", err)
	dir := t.TempDir()
	args := []string{"verify", "--man=no", "--recursive-errors=no"}
	for _, name := range []string{"cridock.service", "cridock.socket"} {
		b, err := os.ReadFile(filepath.Join(deployDir, "systemd", name))
		if err != nil {
			t.Fatal(err)
		}
		// cridock itself is not installed here.
		content := strings.ReplaceAll(string(b), "ExecStart=/usr/local/bin/cridock", "ExecStart=/bin/true")
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, path)
	}
	if out, err := exec.Command(analyze, args...).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}
