package app

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	"k8s.io/klog/v2"
)

// commandLines are those of the tools that start cri-dockerd, word by word as they
// pass them on, with what cridock has to make of them.
var commandLines = map[string]struct {
	args string
	want func(*Options)
}{
	"cri-dockerd's unit": {
		"--container-runtime-endpoint fd://",
		func(o *Options) { o.Endpoint = "fd://" },
	},
	"a unit with Docker's network": {
		"--container-runtime-endpoint fd:// --network-plugin=",
		func(o *Options) { o.Endpoint, o.NetworkPlugin = "fd://", "" },
	},
	"minikube": {
		"--container-runtime-endpoint fd:// --pod-infra-container-image=localhost/pause:3.10.1 --network-plugin=cni --hairpin-mode=hairpin-veth",
		func(o *Options) { o.Endpoint, o.PauseImage = "fd://", "localhost/pause:3.10.1" },
	},
	"minikube with a CNI": {
		"--container-runtime-endpoint fd:// --pod-infra-container-image=localhost/pause:3.10.1 --network-plugin=cni" +
			" --cni-bin-dir=/opt/cni/bin --cni-cache-dir=/var/lib/cni/cache --cni-conf-dir=/etc/cni/net.d --hairpin-mode=hairpin-veth",
		func(o *Options) {
			o.Endpoint, o.PauseImage, o.CNIBinDirs = "fd://", "localhost/pause:3.10.1", []string{"/opt/cni/bin"}
		},
	},
	"kubespray": {
		"--container-runtime-endpoint unix:///var/run/cri-dockerd.sock --cni-conf-dir=/etc/cni/net.d --cni-bin-dir=/opt/cni/bin --network-plugin=cni" +
			" --pod-cidr=10.233.64.0/18,fd85:ee78:d8a6:8607::1:0000/112 --pod-infra-container-image=localhost/pause:3.10 --log-level info --ipv6-dual-stack=True",
		func(o *Options) {
			o.PauseImage, o.CNIBinDirs = "localhost/pause:3.10", []string{"/opt/cni/bin"}
			o.PodCIDR, o.logLevel = "10.233.64.0/18,fd85:ee78:d8a6:8607::1:0000/112", "info"
		},
	},
	"k3s": {
		"--cni-bin-dir=/var/lib/rancher/k3s/data/cni --cni-conf-dir=/var/lib/rancher/k3s/agent/etc/cni/net.d --container-runtime-endpoint=unix:///run/k3s/cri-dockerd/cri-dockerd.sock" +
			" --cri-dockerd-root-directory=/var/lib/rancher/k3s/agent/cri-dockerd --docker-endpoint=unix:///run/docker.sock --ipv6-dual-stack=true --log-level=debug" +
			" --network-plugin=cni --pod-infra-container-image=localhost/pause:3.6 --runtime-cgroups=/k3s",
		func(o *Options) {
			o.CNIBinDirs, o.CNIConfDir = []string{"/var/lib/rancher/k3s/data/cni"}, "/var/lib/rancher/k3s/agent/etc/cni/net.d"
			o.Endpoint, o.RootDir = "unix:///run/k3s/cri-dockerd/cri-dockerd.sock", "/var/lib/rancher/k3s/agent/cri-dockerd"
			o.DockerEndpoint, o.PauseImage = "unix:///run/docker.sock", "localhost/pause:3.6"
			o.logLevel = "debug"
		},
	},
	"all of cri-dockerd's flags, apart from their values": {
		"--runtime-cgroups /x --cri-dockerd-root-directory /r --pod-infra-container-image p:1 --docker-endpoint unix:///d.sock --image-pull-progress-deadline 1m" +
			" --runtime-request-timeout 2m --streaming-bind-addr 127.0.0.1 --pod-cidr 10.0.0.0/8 --ipv6-dual-stack --network-plugin no-op --cni-conf-dir /c" +
			" --cni-bin-dir /a,/b --cni-cache-dir /e --network-plugin-mtu 1450 --hairpin-mode none --container-runtime-endpoint unix:///s.sock --log-level warn",
		func(o *Options) {
			o.RootDir, o.PauseImage, o.DockerEndpoint, o.PullProgressDeadline = "/r", "p:1", "unix:///d.sock", time.Minute
			o.StreamingAddr, o.PodCIDR, o.NetworkPlugin = "127.0.0.1", "10.0.0.0/8", "no-op"
			o.CNIConfDir, o.CNIBinDirs, o.CNICacheDir, o.Endpoint = "/c", []string{"/a", "/b"}, "/e", "unix:///s.sock"
			o.logLevel = "warn"
		},
	},
}

// TestCommandLines takes each command line under the name cri-dockerd.
func TestCommandLines(t *testing.T) {
	for name, c := range commandLines {
		t.Run(name, func(t *testing.T) {
			defer klog.CaptureState().Restore()
			cmd, got := parsed(t, "/usr/bin/cri-dockerd", strings.Fields(c.args)...)
			if err := cmd.validLoaded(); err != nil {
				t.Fatal(err)
			}
			want := NewOptions()
			want.Endpoint = criDockerdEndpoint
			c.want(want)
			if diff := cmp.Diff(settings(want), got); diff != "" {
				t.Errorf("settings (-want +got):\n%s", diff)
			}
		})
	}
}

// parsed returns the options of a process, and their settings as text.
func parsed(t *testing.T, program string, args ...string) (*Options, map[string]string) {
	t.Helper()
	o := NewOptions()
	o.configDir = "" // this machine's
	o.adopt(program)
	cmd := newCommand(o)
	if err := cmd.ParseFlags(args); err != nil {
		t.Fatal(err)
	}
	if rest := cmd.Flags().Args(); len(rest) > 0 {
		t.Fatalf("arguments are left: %q", rest)
	}
	if err := o.Complete(cmd.Flags()); err != nil {
		t.Fatal(err)
	}
	return o, settings(o)
}

// settings are the fields that have flags.
func settings(o *Options) map[string]string {
	text := map[string]string{}
	copied := *o
	f := pflag.NewFlagSet("cridock", pflag.ContinueOnError)
	copied.AddFlags(f)
	for _, name := range []string{
		"container-runtime-endpoint", "docker-endpoint", "root-directory", "pod-infra-container-image", "network-plugin", "cni-conf-dir", "cni-bin-dir",
		"cni-cache-dir", "pod-cidr", "streaming-bind-addr", "image-pull-progress-deadline", "log-level",
	} {
		text[name] = f.Lookup(name).DefValue
	}
	return text
}

// TestNames: only the name cri-dockerd changes the default socket.
func TestNames(t *testing.T) {
	for program, want := range map[string]string{
		"/usr/bin/cri-dockerd": "unix:///var/run/cri-dockerd.sock", "cri-dockerd": "unix:///var/run/cri-dockerd.sock",
		"/usr/local/bin/cridock": "unix:///run/cridock/cridock.sock", "/cri-dockerd/cridock": "unix:///run/cridock/cridock.sock", "": "unix:///run/cridock/cridock.sock",
	} {
		o, _ := parsed(t, program)
		if o.Endpoint != want {
			t.Errorf("as %q the endpoint is %s; want %s", program, o.Endpoint, want)
		}
	}
	if o, _ := parsed(t, "cri-dockerd", "--container-runtime-endpoint=unix:///x.sock"); o.Endpoint != "unix:///x.sock" {
		t.Errorf("the flag's endpoint is %s", o.Endpoint)
	}
}

// TestNetworkPlugins: the names mean what they mean in cri-dockerd, whose default is
// cni.
func TestNetworkPlugins(t *testing.T) {
	for args, want := range map[string]string{
		"": "cni", "--network-plugin=cni": "cni", "--network-plugin=": "docker", "--network-plugin=no-op": "docker", "--network-plugin=docker": "docker",
	} {
		dir := t.TempDir()
		own := []string{"--cni-conf-dir=" + dir, "--cni-bin-dir=" + dir, "--cni-cache-dir=" + dir, "--runtime-directory=" + dir}
		o, err := parse(t, "", append(strings.Fields(args), own...)...)
		if err != nil {
			t.Fatal(err)
		}
		cfg := o.serviceConfig()
		cni, err := o.cni()
		if err != nil || (cni != nil) != (want == "cni") || (cfg.DockerNetwork == "bridge") != (want == "docker") {
			t.Errorf("%q: CNI %v, Docker's network %q, %v; want %s", args, cni != nil, cfg.DockerNetwork, err, want)
		}
	}
}

func TestStreamingAddresses(t *testing.T) {
	for in, want := range map[string]string{
		"127.0.0.1": "127.0.0.1:0", "127.0.0.1:99": "127.0.0.1:99", "::1": "[::1]:0", "[::1]": "[::1]:0", "[::1]:7": "[::1]:7", "localhost:1": "localhost:1", "": "127.0.0.1:0", "0.0.0.0": "0.0.0.0:0",
	} {
		o, err := parse(t, "", "--streaming-bind-addr="+in)
		if err != nil {
			t.Fatal(err)
		}
		if got := o.serviceConfig().Streaming.Addr; got != want {
			t.Errorf("%q listens on %q; want %q", in, got, want)
		}
	}
}

// TestObsoleteSpellings takes each of cri-dockerd's flags without effect in each
// spelling that cri-dockerd takes, leaves no argument behind, and warns.
func TestObsoleteSpellings(t *testing.T) {
	for _, args := range []string{
		"--hairpin-mode none", "--hairpin-mode=none", "--runtime-cgroups /x", "--runtime-cgroups=/x", "--runtime-cgroups=", "--network-plugin-mtu 1450",
		"--network-plugin-mtu=1450", "--runtime-request-timeout 2m", "--runtime-request-timeout=2m", "--ipv6-dual-stack", "--ipv6-dual-stack=True", "--ipv6-dual-stack=false",
	} {
		var log bytes.Buffer
		state := klog.CaptureState()
		klog.LogToStderr(false)
		klog.SetOutput(&log)
		parsed(t, "cri-dockerd", strings.Fields(args)...)
		klog.Flush()
		state.Restore()
		name, _, _ := strings.Cut(strings.Fields(strings.ReplaceAll(args, "=", " "))[0][2:], " ")
		if !strings.Contains(log.String(), `setting="`+name+`"`) {
			t.Errorf("%s: no warning in %q", args, &log)
		}
	}
}

// TestFlagsBeforeFiles: a setting on the command line, under any name, overrides
// files.
func TestFlagsBeforeFiles(t *testing.T) {
	defer klog.CaptureState().Restore()
	o, err := parse(t, "root-directory: /file\nv: 1", "--cri-dockerd-root-directory=/flag", "--log-level=trace")
	if err != nil {
		t.Fatal(err)
	}
	if o.RootDir != "/flag" || !klog.V(6).Enabled() {
		t.Errorf("the root directory is %s, and the log level trace is enabled: %v", o.RootDir, klog.V(6).Enabled())
	}
	if o, err = parse(t, "cri-dockerd-root-directory: /file\nlog-level: debug"); err != nil {
		t.Fatal(err)
	}
	if o.RootDir != "/file" || !klog.V(4).Enabled() || klog.V(5).Enabled() {
		t.Errorf("from the file the root directory is %s", o.RootDir)
	}
}
