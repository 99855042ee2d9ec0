package migrate

import (
	"strings"
	"testing"

	"github.com/cridock/cridock/internal/nodeconf"
)

const endpoint = "unix:///run/cridock/cridock.sock"

func TestRewrite(t *testing.T) {
	const old = "unix:///var/run/cri-dockerd.sock"
	for name, tt := range map[string]struct {
		dockershim bool
		text, want string
	}{
		"none":               {false, "# --container-runtime-endpoint=x\nA=\"--v=2\"\n", "# --container-runtime-endpoint=x\nA=\"--v=2\"\n"},
		"joined":             {false, "A=\"--x --container-runtime-endpoint=OLD --y\"\n", "A=\"--x --container-runtime-endpoint=NEW --y\"\n"},
		"apart":              {false, "A=\"--container-runtime-endpoint OLD\"\n", "A=\"--container-runtime-endpoint NEW\"\n"},
		"one dash":           {false, "A=-container-runtime-endpoint=OLD\n", "A=--container-runtime-endpoint=NEW\n"},
		"quoted in quotes":   {false, "A=\"--x='a b' --container-runtime-endpoint='OLD' --y\"\n", "A=\"--x='a b' --container-runtime-endpoint=NEW --y\"\n"},
		"escaped quotes":     {false, "A=\"--container-runtime-endpoint=\\\"OLD\\\" --y\"\n", "A=\"--container-runtime-endpoint=NEW --y\"\n"},
		"several lines":      {false, "A=\"--x \\\n  --container-runtime-endpoint \\\n  OLD \\\n  --y\"\nB=1\n", "A=\"--x \\\n  --container-runtime-endpoint \\\n  NEW \\\n  --y\"\nB=1\n"},
		"no newline":         {false, "A=--container-runtime-endpoint=OLD", "A=--container-runtime-endpoint=NEW"},
		"twice":              {false, "A=--container-runtime-endpoint=OLD\nB='--container-runtime-endpoint=OLD'\n", "A=--container-runtime-endpoint=NEW\nB='--container-runtime-endpoint=NEW'\n"},
		"a variable":         {false, "A=--container-runtime-endpoint=$SOCKET\n", "A=--container-runtime-endpoint=NEW\n"},
		"a longer name":      {false, "A=--container-runtime-endpoint-x=1\n", "A=--container-runtime-endpoint-x=1\n"},
		"runtime stays":      {false, "A=\"--container-runtime=remote --network-plugin=cni\"\n", "A=\"--container-runtime=remote --network-plugin=cni\"\n"},
		"dockershim":         {true, "A=\"--container-runtime=docker --network-plugin=cni --v=2\"\n", "A=\"--container-runtime=remote --v=2\"\n"},
		"dockershim, apart":  {true, "A=\"--container-runtime docker --cni-bin-dir /a --cni-conf-dir /b --v=2\"\n", "A=\"--container-runtime remote --v=2\"\n"},
		"dockershim, last":   {true, "A=\"--v=2 \\\n  --network-plugin=cni \\\n  --cni-bin-dir /a\"\nB=1\n", "A=\"--v=2\"\nB=1\n"},
		"dockershim, first":  {true, "A=\"--network-plugin=cni \\\n --v=2\"\n", "A=\"--v=2\"\n"},
		"dockershim, only":   {true, "A=\"--network-plugin=cni\"\nB=--docker-endpoint=x\n", "A=\"\"\nB=\n"},
		"dockershim, middle": {true, "A=\"--a --network-plugin=cni  --b --image-pull-progress-deadline=1m --c\"\n", "A=\"--a --b --c\"\n"},
	} {
		t.Run(name, func(t *testing.T) {
			change := change{endpoint: endpoint, dockershim: tt.dockershim}
			text := strings.ReplaceAll(tt.text, "OLD", old)
			want := strings.ReplaceAll(tt.want, "NEW", endpoint)
			if got := change.rewrite(text, nodeconf.EnvFile(text)); got != want {
				t.Errorf("environment file %q became\n%q, want\n%q", text, got, want)
			}
		})
	}
}

func TestRewriteUnit(t *testing.T) {
	const text = "[Unit]\nA=--container-runtime-endpoint=x\n[Service]\nEnvironment=\"A=--v=2 --container-runtime-endpoint=x\" 'B=--container-runtime-endpoint x'\nExecStart=/usr/bin/kubelet \\\n  --container-runtime-endpoint=x \\\n# --container-runtime-endpoint=x\n  $A\n"
	want := strings.ReplaceAll(text, "=x", "="+endpoint)
	want = strings.ReplaceAll(want, " x'", " "+endpoint+"'")
	want = strings.Replace(want, "A=--container-runtime-endpoint="+endpoint, "A=--container-runtime-endpoint=x", 1)
	want = strings.Replace(want, "# --container-runtime-endpoint="+endpoint, "# --container-runtime-endpoint=x", 1)
	if got := (change{endpoint: endpoint}).rewrite(text, nodeconf.UnitSettings(text)); got != want {
		t.Errorf("became\n%s\nwant\n%s", got, want)
	}
}

func TestRewriteConfig(t *testing.T) {
	for text, want := range map[string]string{
		"kind: KubeletConfiguration\n":                                          "kind: KubeletConfiguration\n",
		"containerRuntimeEndpoint: \"\"\na: 1\n":                                "containerRuntimeEndpoint: \"\"\na: 1\n",
		"a: 1\ncontainerRuntimeEndpoint: unix:///x.sock # old\nb: 2":            "a: 1\ncontainerRuntimeEndpoint: \"NEW\" # old\nb: 2",
		"containerRuntimeEndpoint:   'unix:///x.sock'\n":                        "containerRuntimeEndpoint:   \"NEW\"\n",
		"{\n \"a\": [1],\n \"containerRuntimeEndpoint\": \"/x\",\n \"b\": 2\n}": "{\n \"a\": [1],\n \"containerRuntimeEndpoint\": \"NEW\",\n \"b\": 2\n}",
		"{\"a\": 1, \"containerRuntimeEndpoint\": \"/x\"}":                      "error",
		"x: 1\ncontainerRuntimeEndpoint: |\n  unix:///x\n":                      "error",
		"x: [\n": "error",
		"x:\n  containerRuntimeEndpoint: b\ncontainerRuntimeEndpoint: /x\n": "error",
	} {
		want = strings.ReplaceAll(want, "NEW", endpoint)
		got, err := rewriteConfig("config.yaml", text, endpoint)
		if want == "error" {
			if err == nil {
				t.Errorf("%q became %q", text, got)
			}
			continue
		}
		if err != nil || got != want {
			t.Errorf("%q became\n%q (%v), want\n%q", text, got, err, want)
		}
	}
}

// TestAddedFlags: flags that no file has go where the kubelet reads them.
func TestAddedFlags(t *testing.T) {
	const both = "--container-runtime=remote --container-runtime-endpoint=" + endpoint
	for name, tt := range map[string]struct {
		files      map[string]string
		path, want string
	}{
		"no file of flags": {map[string]string{
			"/var/lib/kubelet/kubeadm-flags.env": "", "/etc/default/kubelet": "",
		}, dropInPath, "Environment=\"KUBELET_EXTRA_ARGS=" + both + "\""},
		"kept flags": {map[string]string{
			"/var/lib/kubelet/kubeadm-flags.env": "", "/etc/default/kubelet": "",
			"/etc/systemd/system/kubelet.service.d/a.conf": "[Service]\nEnvironment='KUBELET_EXTRA_ARGS=--a=\"b c\" --network-plugin=cni'\n",
		}, dropInPath, "Environment=\"KUBELET_EXTRA_ARGS=--a=\\\"b c\\\" " + both + "\""},
		"an empty variable": {map[string]string{
			"/var/lib/kubelet/kubeadm-flags.env": "",
		}, "/etc/default/kubelet", "KUBELET_EXTRA_ARGS=" + both + "\n"},
		"quotes": {map[string]string{
			"/var/lib/kubelet/kubeadm-flags.env": "", "/etc/default/kubelet": "KUBELET_EXTRA_ARGS=\"\"\n",
		}, "/etc/default/kubelet", "KUBELET_EXTRA_ARGS=\"" + both + "\"\n"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			for path, text := range tt.files {
				n.write(path, text)
			}
			m := &migration{Host: n.Host}
			k, err := m.kubelet()
			if err != nil {
				t.Fatal(err)
			}
			edits, err := m.kubeletEdits(k, change{endpoint: endpoint, dockershim: true})
			if err != nil {
				t.Fatal(err)
			}
			found := false
			for _, e := range edits {
				found = found || e.Path == tt.path && strings.Contains(string(e.New), tt.want)
				if err := m.apply(e); err != nil {
					t.Fatal(err)
				}
			}
			if !found {
				t.Errorf("%s does not become %q", tt.path, tt.want)
			}
			if err := m.checkFlags(step{Endpoint: endpoint, Dockershim: true}); err != nil {
				t.Error(err)
			}
		})
	}
}
