package network

import (
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types/create"
)

// FuzzResult: an attachment built from a plugin's output has well-formed
// addresses, all of them the sandbox's own.
func FuzzResult(f *testing.F) {
	f.Add([]byte(`{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/n"},{"name":"veth1"}],"ips":[{"interface":0,"address":"10.0.0.2/24"},{"interface":1,"address":"10.0.0.1/24"}]}`))
	f.Add([]byte(`{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.2/24"},"ip6":{"ip":"fd00::2/64"}}`))
	f.Add([]byte(`{"cniVersion":"1.1.0","ips":[null,{"interface":-1,"address":"::ffff:1.2.3.4/96"},{"interface":9,"address":"0.0.0.0/0"}],"interfaces":[null]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var head struct {
			CNIVersion string `json:"cniVersion"`
		}
		if json.Unmarshal(raw, &head) != nil {
			return
		}
		result, err := create.Create(head.CNIVersion, raw)
		if err != nil {
			return
		}
		a, err := newAttachment("net", &libcni.RuntimeConf{ContainerID: "c", IfName: "eth0"}, result)
		if err != nil {
			return
		}
		if len(a.IPs) == 0 || len(a.IPs) > len(a.Result.IPs) {
			t.Fatalf("%d addresses of %d", len(a.IPs), len(a.Result.IPs))
		}
		for _, ip := range a.IPs {
			if _, err := netip.ParseAddr(ip); err != nil {
				t.Fatalf("address %q: %v", ip, err)
			}
		}
		if _, err := json.Marshal(a); err != nil {
			t.Fatalf("cannot be shown: %v", err)
		}
	})
}

// FuzzRecords: whatever the result cache contains, no record names a file
// outside it, and removing one removes nothing else.
func FuzzRecords(f *testing.F) {
	f.Add([]byte(`{"kind":"cniCacheV1","containerId":"c","config":"e30=","ifName":"eth0","networkName":"net","netns":"/proc/1/ns/net"}`))
	f.Add([]byte(`{"kind":"cniCacheV1","containerId":"c","config":"e30=","ifName":"../../kept","networkName":"net"}`))
	f.Add([]byte(`{"kind":"cniCacheV1","containerId":"/../../x","config":"e30=","ifName":"eth0","networkName":".."}`))
	dir := f.TempDir()
	c, err := New(Config{ConfDir: dir + "/net.d", BinDirs: []string{"/bin1"}, CacheDir: dir + "/cache", NetNSDir: dir + "/netns", Exec: &plugins{}})
	if err != nil {
		f.Fatal(err)
	}
	for _, sub := range []string{"cache/results", "cache/cridock/results", "net.d"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			f.Fatal(err)
		}
	}
	kept := filepath.Join(dir, "kept")
	f.Fuzz(func(t *testing.T, entry []byte) {
		for _, name := range []string{filepath.Join(dir, "cache/results/net-c-eth0"), filepath.Join(dir, "cache/cridock/results/net-c-eth0"), kept} {
			if err := os.WriteFile(name, entry, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		records, err := c.records("")
		if err != nil {
			return
		}
		for _, r := range records {
			for _, path := range []string{
				c.notePath(r.Network, r.ContainerID, r.IfName),
				filepath.Join(c.cfg.CacheDir, "results", entryName(r.Network, r.ContainerID, r.IfName)),
			} {
				if filepath.Base(filepath.Dir(path)) != "results" || !strings.HasPrefix(path, c.cfg.CacheDir+"/") {
					t.Fatalf("%+v is at %s", r, path)
				}
			}
			if list, err := listFromCache(r.Config); err == nil && len(list.Plugins) == 0 {
				t.Fatalf("%q has no plugin", r.Config)
			}
			if err := errors.Join(c.removeResult(r), c.removeNote(r.Network, r.ContainerID, r.IfName)); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Logf("remove: %v", err) // a name that is too long
			}
		}
		if _, err := os.Stat(kept); err != nil {
			t.Fatalf("%q removes a file of others", entry)
		}
	})
}

// FuzzConfFile: a configuration that is used has a network name that can be a
// file name, and a plugin, and is read back from the cache unchanged.
func FuzzConfFile(f *testing.F) {
	f.Add([]byte(`{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"bridge","capabilities":{"portMappings":true}}]}`), "10-net.conflist")
	f.Add([]byte(`{"cniVersion":"0.3.1","name":"net","type":"bridge"}`), "10-net.conf")
	f.Add([]byte(`{"cniVersion":"99.0.0","name":"../x","type":"bridge"}`), "10-net.json")
	f.Add([]byte(`{"cniVersion":"1.1.0","name":"net","loadOnlyInlinedPlugins":true,"plugins":[null]}`), "10-net.conflist")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte, name string) {
		path := filepath.Join(dir, "10-net"+filepath.Ext(name))
		if !slices.Contains(confExtensions, filepath.Ext(name)) {
			path = filepath.Join(dir, "10-net.conflist")
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		conf := loadConfiguration(dir, nil)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if (conf.active == nil) != (len(conf.broken) == 1) || conf.err != nil {
			t.Fatalf("%q: %+v", data, conf)
		}
		if conf.active == nil {
			return
		}
		list := conf.active.list
		if strings.ContainsAny(list.Name, "/\x00") || list.Name == "" || list.Name == ".." {
			t.Fatalf("network %q", list.Name)
		}
		again, err := listFromCache(list.Bytes)
		if len(list.Plugins) > 0 && (err != nil || again.Name != list.Name || len(again.Plugins) != len(list.Plugins)) {
			t.Fatalf("%q comes back as %+v: %v", list.Bytes, again, err)
		}
		supports(list, "portMappings")
	})
}

// FuzzPluginError: whatever a plugin prints, the error is valid text and short
// enough for an event.
func FuzzPluginError(f *testing.F) {
	f.Add([]byte(`{"code":11,"msg":"try again","details":"x"}`), "")
	f.Add([]byte(`{"code":7}`), "")
	f.Add([]byte("\xff"), "panic: \xfe")
	f.Add([]byte(`{"msg":"`+strings.Repeat("a", 4096)+`"}`), "")
	f.Fuzz(func(t *testing.T, stdout []byte, stderr string) {
		text := pluginError(&exec.ExitError{ProcessState: &os.ProcessState{}}, stdout, stderr).Error()
		if text == "" || len(text) > 3*maxSaid || !utf8.ValidString(text) {
			t.Fatalf("%d bytes: %q", len(text), text[:min(len(text), 100)])
		}
	})
}

// FuzzSysctlName: a name is refused or names a file below /proc/sys/net.
func FuzzSysctlName(f *testing.F) {
	for _, seed := range []string{"net.ipv4.ip_forward", "net/ipv4/conf/eth0.1/forwarding", "net.ipv4.conf.eth0/1.forwarding", "net.../.../kernel", "net/../kernel/core_pattern", "net."} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		file, err := sysctlFile(name)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Fatalf("no class: %v", err)
			}
			return
		}
		if rest, ok := strings.CutPrefix(filepath.Clean(file), "/proc/sys/net/"); !ok || rest == "" || filepath.Clean(file) != file {
			t.Fatalf("%q is %q", name, file)
		}
	})
}

// FuzzPodCIDRs: accepted ranges are whole networks, one per address family.
func FuzzPodCIDRs(f *testing.F) {
	for _, seed := range []string{"10.1.0.0/16", "10.1.2.3/16, fd00::1/64", "10.0.0.0/8,10.0.0.0/8", ",", "::ffff:1.2.3.4/96"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		ranges, err := parsePodCIDRs(text)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Fatalf("no class: %v", err)
			}
			return
		}
		if len(ranges) == 0 || len(ranges) > 2 || len(ranges) == 2 && ranges[0].Addr().Is4() == ranges[1].Addr().Is4() {
			t.Fatalf("%q is %v", text, ranges)
		}
		for _, r := range ranges {
			if !r.IsValid() || r != r.Masked() {
				t.Fatalf("%q has %v", text, r)
			}
		}
	})
}
