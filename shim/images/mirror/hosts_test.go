package mirror

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/cridock/cridock/internal/testca"
)

// write writes files below a directory that only the user can change.
func write(t *testing.T, files map[string]string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// summary is what matters of hosts.
func summary(r Registry) []string {
	var out []string
	for _, h := range r.Hosts {
		text := h.URL.String()
		if h.Resolve {
			text += " resolve"
		}
		if h.Pull {
			text += " pull"
		}
		if h.Origin {
			text += " origin"
		}
		out = append(out, text)
	}
	if r.Direct {
		out = append(out, "direct")
	}
	return out
}

func TestRead(t *testing.T) {
	for name, tc := range map[string]struct {
		files    map[string]string
		registry string
		want     []string
	}{
		"no directory": {nil, "quay.io", []string{"direct"}},
		"in the order of the file": {map[string]string{"quay.io/hosts.toml": `
server = "https://quay.io"
[host."https://z.test"]
capabilities = ["pull", "resolve", "push"]
[host."https://a.test:5000/prefix"]
capabilities = ["pull"]
[host."http://m.test/v2/quay"]
capabilities = ["resolve"]
override_path = true
[host."b.test"]
`}, "quay.io", []string{"https://z.test/v2 resolve pull", "https://a.test:5000/prefix/v2 pull", "http://m.test/v2/quay resolve", "https://b.test/v2 resolve pull", "direct"}},
		"the default for others": {map[string]string{
			"_default/hosts.toml": `[host."https://mirror.test"]`, "quay.io/hosts.toml": `[host."https://quay-mirror.test"]`,
		}, "ghcr.io", []string{"https://mirror.test/v2 resolve pull", "direct"}},
		"a directory without a file": {map[string]string{"_default/hosts.toml": `[host."https://mirror.test"]`, "quay.io/ca.crt": "x"}, "quay.io", []string{"direct"}},
		"a port":                     {map[string]string{"r.test:5000/hosts.toml": `[host."https://m.test"]`}, "r.test:5000", []string{"https://m.test/v2 resolve pull", "direct"}},
		"a port in containerd's way": {map[string]string{"r.test_5000_/hosts.toml": `[host."https://m.test"]`}, "r.test:5000", []string{"https://m.test/v2 resolve pull", "direct"}},
		"another server":             {map[string]string{"quay.io/hosts.toml": `server = "https://other.test"`}, "quay.io", []string{"https://other.test/v2 resolve pull"}},
		"settings for the registry":  {map[string]string{"quay.io/hosts.toml": `skip_verify = true`}, "quay.io", []string{"https://quay.io/v2 resolve pull origin"}},
		"a server without TLS":       {map[string]string{"quay.io/hosts.toml": `server = "http://quay.io"`}, "quay.io", []string{"http://quay.io/v2 resolve pull origin"}},
		"Docker Hub":                 {map[string]string{"docker.io/hosts.toml": "server = \"https://docker.io\"\n[host.\"https://hub.test\"]"}, "docker.io", []string{"https://hub.test/v2 resolve pull", "direct"}},
		"Docker Hub's own host":      {map[string]string{"docker.io/hosts.toml": `server = "https://registry-1.docker.io"`}, "docker.io", []string{"direct"}},
		"capitals":                   {map[string]string{"quay.io/hosts.toml": "server = \"https://quay.io\"\n[host.\"https://m.test\"]"}, "Quay.IO", []string{"https://m.test/v2 resolve pull", "direct"}},
		"capitals and a port":        {map[string]string{"r.test_5000_/hosts.toml": `server = "https://m.test"`}, "R.test:5000", []string{"https://m.test/v2 resolve pull"}},
		"a directory with capitals":  {map[string]string{"Quay.io/hosts.toml": `server = "https://m.test"`}, "Quay.io", []string{"https://m.test/v2 resolve pull"}},
		"Docker Hub in capitals":     {map[string]string{"docker.io/hosts.toml": `server = "https://docker.io"`}, "Docker.io", []string{"direct"}},
		"a name that climbs":         {map[string]string{"hosts.toml": `[host."https://bad.test"]`}, "..", []string{"direct"}},
		"a name of the default":      {map[string]string{"_default_/hosts.toml": `[host."https://bad.test"]`}, "_default_", []string{"direct"}},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := Read(write(t, tc.files), tc.registry)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, summary(r)); diff != "" {
				t.Errorf("hosts (-want +got):\n%s", diff)
			}
		})
	}
	if r, err := Read("", "quay.io"); err != nil || !r.Direct {
		t.Errorf("without a directory: %v, %v", r, err)
	}
}

func TestReadSettings(t *testing.T) {
	ca := testca.New(t, "ca")
	cert, key := ca.Issue(t, "node")
	dir := write(t, map[string]string{
		"ca.crt": string(ca.PEM), "quay.io/node.crt": string(cert), "quay.io/node.key": string(key), "quay.io/both.pem": string(cert) + string(key),
		"quay.io/hosts.toml": `
[host."https://m.test"]
ca = ["../ca.crt"]
client = [["node.crt", "node.key"], ["both.pem", ""]]
dial_timeout = "3s"
[host."https://m.test".header]
X-One = "1"
X-Two = ["2", "3"]
[host."https://n.test"]
client = "both.pem"
skip_verify = true
`,
	})
	if _, err := Read(dir, "quay.io"); err == nil || !strings.Contains(err.Error(), "client") {
		t.Errorf("an empty key: %v", err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "quay.io/hosts.toml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "quay.io/hosts.toml"), []byte(strings.Replace(string(text), `, ""]`, `]`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := Read(dir, "quay.io") // it has changed
	if err != nil {
		t.Fatal(err)
	}
	m, n := r.Hosts[0], r.Hosts[1]
	if m.tls.RootCAs == nil || len(m.tls.Certificates) != 2 || m.tls.InsecureSkipVerify || m.dial != 3*time.Second ||
		m.header.Get("X-One") != "1" || len(m.header.Values("X-Two")) != 2 {
		t.Errorf("the first host is %+v", m)
	}
	if n.tls.RootCAs != nil || len(n.tls.Certificates) != 1 || !n.tls.InsecureSkipVerify || n.dial != dialTimeout {
		t.Errorf("the second host is %+v", n)
	}
}

func TestReadRefuses(t *testing.T) {
	for text, want := range map[string]string{
		`serverr = "x"`: "unknown key", `server = `: "hosts.toml", `[host."ftp://m.test"]`: "https://HOST", `[host."https://u:p@m.test"]`: "https://HOST",
		"[host.\"https://m.test\"]\nca = \"missing.crt\"":           "missing.crt",
		"[host.\"https://m.test\"]\nca = \"hosts.toml\"":            "no certificate",
		"[host.\"https://m.test\"]\nca = 5":                         "ca:",
		"[host.\"https://m.test\"]\nclient = [[\"a\",\"b\",\"c\"]]": "client:",
		"[host.\"https://m.test\"]\ncapabilities = [\"pul\"]":       "capabilities",
		"[host.\"https://m.test\"]\ndial_timeout = \"soon\"":        "dial_timeout",
		"[host.\"https://m.test\"]\nheader = {a = 5}":               "header",
		"[host.\"https://m.test\"]\nskip = true":                    "unknown key",
		"#" + strings.Repeat("x", maxFile):                          "larger than",
	} {
		if _, err := Read(write(t, map[string]string{"quay.io/hosts.toml": text}), "quay.io"); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: %v, want %q", text, err, want)
		}
	}
	dir := write(t, map[string]string{"quay.io/hosts.toml": `[host."https://m.test"]`})
	if err := os.Chmod(filepath.Join(dir, "quay.io"), 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(dir, "quay.io"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a directory that others can change: %v", err)
	}
}

func FuzzHosts(f *testing.F) {
	f.Add("server = \"https://quay.io\"\n[host.\"https://m.test\"]\ncapabilities = [\"pull\"]\nclient = [[\"a\", \"b\"]]\nheader = {a = [\"b\"]}\n")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := Read(write(t, map[string]string{"quay.io/hosts.toml": text}), "quay.io")
		if err == nil && len(r.Hosts) == 0 && !r.Direct {
			t.Error("no place to pull from")
		}
	})
}
