package app

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	"k8s.io/klog/v2"
	"sigs.k8s.io/yaml"
)

// output runs a subcommand of a process without configuration files of this
// machine's.
func output(t *testing.T, args ...string) (string, error) {
	t.Helper()
	defer klog.CaptureState().Restore()
	o := NewOptions()
	o.configDir = ""
	cmd := newCommand(o)
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

// TestDropInFiles reads them in the order of their names, after the file and before
// flags.
func TestDropInFiles(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"10-a.yaml": "docker-log-max-file: 3\ndocker-network: a\ncni-bin-dir: [/a]\ncontainer-log-mode: symlink", "20-b.yaml": "docker-network: b\nnetwork-plugin: docker\ncni-bin-dir: [/b]",
		"30-c.yml": "no: yaml", ".40-d.yaml": "no: drop-in", "README": "no: settings",
	} {
		write(t, filepath.Join(dir, name), content)
	}
	o, err := parse(t, "docker-log-max-file: 9\npod-logs-dir: /file\nnetwork-plugin: cni", "--config-dir="+dir, "--container-log-mode=cri")
	if err != nil {
		t.Fatal(err)
	}
	if o.LogMaxFile != 3 || o.DockerNetwork != "b" || o.NetworkPlugin != "docker" || strings.Join(o.CNIBinDirs, ",") != "/b" || o.PodLogsDir != "/file" || o.LogMode != "cri" {
		t.Errorf("the settings are %+v", o)
	}
	if _, err := parse(t, "", "--config-dir="+dir+"/none"); err == nil || !strings.Contains(err.Error(), "config-dir") {
		t.Errorf("a directory on the command line that is missing: %v", err)
	}
}

// TestDropInsOfOthers: what others can write is refused.
func TestDropInsOfOthers(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, dir, file string) error{
		"directory": func(_ *testing.T, dir, _ string) error { return os.Chmod(dir, 0o777) },
		"file":      func(_ *testing.T, _, file string) error { return os.Chmod(file, 0o666) },
		"owner":     func(t *testing.T, _, file string) error { chown(t, file, nobody); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file := filepath.Join(dir, "a.yaml")
			write(t, file, "docker-network: x")
			if _, err := parse(t, "", "--config-dir="+dir); err != nil {
				t.Fatal(err)
			}
			if err := spoil(t, dir, file); err != nil {
				t.Fatal(err)
			}
			if _, err := parse(t, "", "--config-dir="+dir); err == nil || !strings.Contains(err.Error(), "config-dir") {
				t.Errorf("error is %v; want a refusal", err)
			}
		})
	}
}

// TestConfigOfOthers: the file of --config is refused if others can change it.
func TestConfigOfOthers(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, dir, file string) error{
		"writable file":      func(_ *testing.T, _, file string) error { return os.Chmod(file, 0o646) },
		"writable for group": func(_ *testing.T, _, file string) error { return os.Chmod(file, 0o664) },
		"owner":              func(t *testing.T, _, file string) error { chown(t, file, nobody); return nil },
		"directory":          func(_ *testing.T, dir, _ string) error { return os.Chmod(dir, 0o777) },
		"directory above":    func(_ *testing.T, dir, _ string) error { return os.Chmod(filepath.Dir(dir), 0o777) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "etc", "cridock")
			made(t, dir, 0o755)
			file := filepath.Join(dir, "cridock.yaml")
			write(t, file, "docker-network: x")
			t.Chdir(dir)
			for _, path := range []string{file, "cridock.yaml"} {
				if _, err := parse(t, "", "--config="+path); err != nil {
					t.Fatal(err)
				}
			}
			if err := spoil(t, dir, file); err != nil {
				t.Fatal(err)
			}
			for _, path := range []string{file, "cridock.yaml"} {
				if _, err := parse(t, "", "--config="+path); err == nil || !strings.HasPrefix(err.Error(), "config: "+filepath.Dir(filepath.Dir(dir))) {
					t.Errorf("error is %v; want a refusal", err)
				}
			}
		})
	}
	if _, err := parse(t, "", "--config="+filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
}

// TestConfigDefault: the output is a configuration with every setting at its default.
func TestConfigDefault(t *testing.T) {
	defer klog.CaptureState().Restore()
	out, err := output(t, "config", "default")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out) {
		if len(line) > 79 && strings.HasPrefix(line, "#") {
			t.Errorf("a comment is too long: %s", line)
		}
	}
	var keys map[string]any
	if err := yaml.UnmarshalStrict([]byte(out), &keys); err != nil {
		t.Fatal(err)
	}
	o, err := parse(t, out)
	if err != nil {
		t.Fatal(err)
	}
	f := pflag.NewFlagSet("cridock", pflag.ContinueOnError)
	NewOptions().AddFlags(f)
	f.VisitAll(func(flag *pflag.Flag) {
		if _, ok := keys[flag.Name]; ok == (flag.Hidden || onlyOnCommandLine(flag.Name)) {
			t.Errorf("%s is in the output: %v", flag.Name, ok)
		}
		if got := o.settings.Lookup(flag.Name).Value.String(); got != flag.DefValue && !onlyOnCommandLine(flag.Name) {
			t.Errorf("%s is %q; the default is %q", flag.Name, got, flag.DefValue)
		}
	})
}

// TestConfigDump says where each setting is from, and its output is a configuration.
func TestConfigDump(t *testing.T) {
	dir := t.TempDir()
	file, dropIn := filepath.Join(t.TempDir(), "cridock.yaml"), filepath.Join(dir, "10-a.yaml")
	write(t, file, "docker-log-max-file: 7\nnetwork-plugin: docker\nlog-level: debug")
	write(t, dropIn, "network-plugin: \"\"\npod-annotations: [dev.*, kata=x]\nsocket-mode: 0600")
	out, err := output(t, "config", "dump", "--config="+file, "--config-dir="+dir, "--cri-dockerd-root-directory=/r", "--cni-bin-dir=/a,/b")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"docker-log-max-file: 7  # " + file, `network-plugin: ""  # ` + dropIn, `pod-annotations: ["dev.*","kata=x"]  # ` + dropIn, `socket-mode: "600"  # ` + dropIn,
		"v: 4  # " + file, "root-directory: /r  # flag --cri-dockerd-root-directory", `cni-bin-dir: ["/a","/b"]  # flag --cni-bin-dir`, "container-log-mode: cri  # default",
	} {
		if !strings.Contains("\n"+out, "\n"+want+"\n") {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	defer klog.CaptureState().Restore()
	if o, err := parse(t, out); err != nil || o.RootDir != "/r" || o.LogMaxFile != 7 {
		t.Errorf("as a file: %v", err)
	}
}

func TestConfigCheck(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "10-a.yaml")
	write(t, path, "docker-log-max-file: 7")
	write(t, filepath.Join(dir, "20-b.yml"), "")
	out, err := output(t, "config", "check", "--config-dir="+dir)
	if err != nil || !strings.Contains(out, "read "+path) || !strings.Contains(out, "ignored "+dir+"/20-b.yml") || !strings.Contains(out, "the settings are valid") {
		t.Errorf("a valid configuration: %v\n%s", err, out)
	}
	write(t, path, "docker-log-max-file: 1\nnetwork-plugin: kubenet")
	if out, err = output(t, "config", "check", "--config-dir="+dir); err == nil || !strings.Contains(err.Error(), "docker-log-max-file") || !strings.Contains(err.Error(), "kubenet") {
		t.Errorf("two invalid settings: %v\n%s", err, out)
	}
	write(t, path, "no-such-key: 1")
	if _, err = output(t, "config", "check", "--config-dir="+dir); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("an unknown key: %v", err)
	}
	// doctor's own flags are no settings.
	write(t, path, "daemon-config: /x")
	if _, err = output(t, "doctor", "--config-dir="+dir); err == nil || !strings.Contains(err.Error(), "unknown key") {
		t.Errorf("a flag of doctor as a key: %v", err)
	}
}
