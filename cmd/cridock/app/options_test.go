package app

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/docker/go-units"
	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"k8s.io/klog/v2"
)

// parse is what a command line with a configuration file comes to.
func parse(t *testing.T, file string, args ...string) (*Options, error) {
	t.Helper()
	if file != "" {
		path := filepath.Join(t.TempDir(), "cridock.yaml")
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config="+path)
	}
	o, f := NewOptions(), pflag.NewFlagSet("cridock", pflag.ContinueOnError)
	o.configDir = "" // this machine's
	o.AddFlags(f)
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if err := o.Complete(f); err != nil {
		return nil, err
	}
	return o, o.Validate()
}

func TestConfigFile(t *testing.T) {
	o, err := parse(t, `
network-plugin: docker
docker-log-max-file: 7
profiling: true
metrics-bind-address: "9090"
cni-bin-dir: [/a, /b]
image-pull-progress-deadline: 90s
shim-grouping: false
pod-annotations: [dev.test.*, kata=io.test.*]
cdi-spec-dirs: /cdi
`, "--docker-log-max-file=3", "--cni-cache-dir=/c")
	if err != nil {
		t.Fatal(err)
	}
	if o.LogMaxFile != 3 || o.CNICacheDir != "/c" {
		t.Errorf("the command line's are %d and %s", o.LogMaxFile, o.CNICacheDir)
	}
	if o.NetworkPlugin != "docker" || !o.Profiling || o.MetricsAddr != "9090" || strings.Join(o.CNIBinDirs, ",") != "/a,/b" ||
		o.PullProgressDeadline != 90*time.Second || o.groupsShims() {
		t.Errorf("the file's are %+v", o)
	}
	if got := (&annotationPatterns{list: &o.PodAnnotations}).String(); got != "dev.test.*,kata=io.test.*" || strings.Join(o.CDISpecDirs, ",") != "/cdi" {
		t.Errorf("the file's patterns are %q and directories %q", got, o.CDISpecDirs)
	}
	if o.DockerNetwork != "bridge" || o.LogMode != "cri" {
		t.Errorf("the defaults are %+v", o)
	}
}

func TestUlimits(t *testing.T) {
	o, err := parse(t, "default-ulimits: [nofile=1024:524288, core=0, memlock=-1]")
	if err != nil {
		t.Fatal(err)
	}
	want := []*units.Ulimit{{Name: "nofile", Soft: 1024, Hard: 524288}, {Name: "core"}, {Name: "memlock", Soft: -1, Hard: -1}}
	if diff := cmp.Diff(want, o.serviceConfig().Ulimits); diff != "" {
		t.Error(diff)
	}
}

func TestRefusedSettings(t *testing.T) {
	for name, c := range map[string]struct {
		file string
		args []string
		want string
	}{
		"unknown key":            {file: "no-such-key: 1", want: `unknown key "no-such-key"`},
		"a path as RDT class":    {args: []string{"--rdt-classes=gold,../x"}, want: `rdt-classes: RDT class "../x"`},
		"no name as RDT class":   {file: "rdt-classes: ['', gold]", want: "rdt-classes"},
		"another CPU for execs":  {args: []string{"--exec-cpu-affinity=last"}, want: "exec-cpu-affinity"},
		"relative pod logs":      {args: []string{"--pod-logs-dir=pods"}, want: "pod-logs-dir"},
		"all files are pod logs": {args: []string{"--pod-logs-dir=/var/.."}, want: "pod-logs-dir"},
		"key given twice":        {file: "profiling: true\nprofiling: true", want: "profiling"},
		"no YAML":                {file: "\tx", want: "cridock.yaml"},
		"a file in a file":       {file: "config: other.yaml", want: `unknown key "config"`},
		"a key's wrong type":     {file: "docker-log-max-file: many", want: "docker-log-max-file"},
		"a map for a value":      {file: "pod-cidr: {a: b}", want: "pod-cidr"},
		"no such file":           {args: []string{"--config=/no/such/file"}, want: "/no/such/file"},
		"network plugin":         {args: []string{"--network-plugin=weave"}, want: "network-plugin"},
		"kubenet":                {args: []string{"--network-plugin=kubenet"}, want: "cni-conf-template"},
		"a path for a port":      {args: []string{"--streaming-bind-addr=/x"}, want: "streaming-bind-addr"},
		"a name without a port":  {args: []string{"--streaming-bind-addr=localhost"}, want: "streaming-bind-addr"},
		"no octal mode":          {args: []string{"--socket-mode=rw"}, want: "socket-mode"},
		"a decimal mode":         {file: "socket-mode: 660", want: "socket-mode"},
		"a socket for everybody": {args: []string{"--socket-mode=0666"}, want: "socket-mode"},
		"a relative link":        {args: []string{"--socket-link=x.sock"}, want: "socket-link"},
		"log level":              {args: []string{"--log-level=loud"}, want: "log-level"},
		"log level in a file":    {file: "log-level: loud", want: "log-level"},
		"one setting twice":      {file: "root-directory: /a\ncri-dockerd-root-directory: /b", want: "the same setting"},
		"a directory in a file":  {file: "config-dir: /x", want: `unknown key "config-dir"`},
		"network of the host":    {args: []string{"--network-plugin=docker", "--docker-network=host"}, want: "docker-network"},
		"log mode":               {args: []string{"--container-log-mode=journald"}, want: "container-log-mode"},
		"log size":               {args: []string{"--docker-log-max-size=big"}, want: "docker-log-max-size"},
		"one log file":           {args: []string{"--docker-log-max-file=1"}, want: "docker-log-max-file"},
		"metrics key alone":      {args: []string{"--metrics-bind-address=1", "--metrics-tls-key=/k"}, want: "metrics-tls-cert"},
		"metrics CA alone":       {args: []string{"--metrics-bind-address=1", "--metrics-tls-client-ca=/c"}, want: "metrics-tls-client-ca"},
		"TLS without metrics":    {args: []string{"--metrics-tls-cert=/c", "--metrics-tls-key=/k"}, want: "metrics-bind-address"},
		"TLS on a unix socket":   {args: []string{"--metrics-bind-address=unix:///s", "--metrics-tls-cert=/c", "--metrics-tls-key=/k"}, want: "metrics-tls-cert"},
		"relative socket":        {args: []string{"--metrics-bind-address=unix://s"}, want: "metrics-bind-address"},
		"tracing URL":            {args: []string{"--tracing-endpoint=https://collector:4317/v1/traces"}, want: "tracing-endpoint"},
		"tracing URL, no host":   {args: []string{"--tracing-endpoint=https://"}, want: "tracing-endpoint"},
		"key without a cert":     {args: []string{"--streaming-tls-key=/k"}, want: "streaming-tls-cert"},
		"profiling on no server": {args: []string{"--profiling"}, want: "metrics-bind-address"},
		"oom score":              {args: []string{"--restrict-oom-score-adj=maybe"}, want: "restrict-oom-score-adj"},
		"annotation pattern":     {args: []string{"--pod-annotations=a,kata=["}, want: "pod-annotations"},
		"a limit without value":  {args: []string{"--default-ulimits=nofile"}, want: "default-ulimits"},
		"an unknown limit":       {file: "default-ulimits: [files=5]", want: "default-ulimits"},
		"a soft limit too high":  {args: []string{"--default-ulimits=core=0,nofile=6:5"}, want: "default-ulimits"},
		"a negative limit":       {args: []string{"--default-ulimits=nofile=-2:-1"}, want: "default-ulimits"},
		"relative mirrors":       {args: []string{"--registry-config-dir=certs.d"}, want: "registry-config-dir"},
		"a wrong artifact size":  {args: []string{"--artifact-store-size=big"}, want: "artifact-store-size"},
		"relative verifiers":     {args: []string{"--image-verifier-dir=bin"}, want: "image-verifier-dir"},
		"a limit twice":          {args: []string{"--default-ulimits=nofile=5", "--default-ulimits=nofile=6"}, want: "default-ulimits"},
		"shim grouping":          {args: []string{"--shim-grouping=maybe"}, want: "shim-grouping"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := parse(t, c.file, c.args...); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v; want one about %s", err, c.want)
			}
		})
	}
}

// TestObsoleteSettings takes cri-dockerd's flags in both forms, and says that
// they do nothing.
func TestObsoleteSettings(t *testing.T) {
	var log bytes.Buffer
	defer klog.CaptureState().Restore()
	klog.LogToStderr(false)
	klog.SetOutput(&log)
	_, err := parse(t, "", "--hairpin-mode=none", "--ipv6-dual-stack", "--cri-dockerd-root-directory=/var/lib/cri-dockerd")
	klog.Flush()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"hairpin-mode", "ipv6-dual-stack"} {
		if !strings.Contains(log.String(), `setting="`+name+`"`) {
			t.Errorf("no warning of %s in %q", name, &log)
		}
	}
	if strings.Contains(log.String(), "runtime-cgroups") {
		t.Errorf("a warning of what was not set: %q", &log)
	}
}

func TestAliases(t *testing.T) {
	defer klog.CaptureState().Restore()
	o, err := parse(t, "", "--cri-dockerd-root-directory=/x", "--log-level=debug")
	if err != nil {
		t.Fatal(err)
	}
	if o.RootDir != "/x" {
		t.Errorf("the root directory is %s", o.RootDir)
	}
	if !klog.V(4).Enabled() || klog.V(5).Enabled() {
		t.Error("log level debug is not verbosity 4")
	}
	if o, err = parse(t, ""); err != nil || o.RootDir != "/var/lib/cridock" || !o.groupsShims() {
		t.Errorf("the defaults are %+v, %v", o, err)
	}
}

func TestObserveAddr(t *testing.T) {
	for in, want := range map[string]string{"9090": "127.0.0.1:9090", ":9090": "127.0.0.1:9090", "0.0.0.0:1": "0.0.0.0:1", "[::]:1": "[::]:1", "unix:///s": "unix:///s"} {
		if got := observeAddr(in); got != want {
			t.Errorf("%q listens on %q, want %q", in, got, want)
		}
	}
}
