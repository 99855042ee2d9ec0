package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
	"github.com/google/go-cmp/cmp"
)

var errPlugin = errors.New("no address left")

func TestSetupAttachesAndTeardownForgets(t *testing.T) {
	n := newNode(t)
	n.writeConf("10-one.conflist", oneConf)
	c := n.start()
	rt := n.pod("a")
	got, err := c.Setup(t.Context(), rt)
	if err != nil {
		t.Fatalf("Setup: %v", err)
	}
	if diff := cmp.Diff([]string{"10.1.0.2", "fd00::2"}, got.IPs); diff != "" {
		t.Errorf("IPs (-want +got):\n%s", diff)
	}
	add := n.exec.of("ADD")
	if len(add) != 1 || add[0].ifName != "eth0" || add[0].netns != rt.NetNS || add[0].args != "IgnoreUnknown=1;K8S_POD_NAME=pod-a" {
		t.Errorf("ADD calls: %+v", add)
	}
	if diff := cmp.Diff([]string{"results/one-a-eth0"}, n.files()); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if again, ok := n.start().Attachment("a"); !ok || !cmp.Equal(again.IPs, got.IPs) || again.Network != "one" {
		t.Errorf("after a restart: Attachment = %+v, %v", again, ok)
	}
	for range 2 {
		if err := c.Teardown(t.Context(), rt); err != nil {
			t.Fatalf("Teardown: %v", err)
		}
	}
	if _, ok := c.Attachment("a"); ok || len(n.files()) != 0 {
		t.Errorf("after Teardown: attached %v, files %v", ok, n.files())
	}
}

// limited is a context whose deadline passes when expire is called.
type limited struct {
	context.Context
	done   chan struct{}
	expire func()
}

func newLimited() *limited {
	done := make(chan struct{})
	return &limited{context.Background(), done, sync.OnceFunc(func() { close(done) })}
}

func (l *limited) Done() <-chan struct{} { return l.done }

func (l *limited) Err() error {
	select {
	case <-l.done:
		return context.DeadlineExceeded
	default:
		return nil
	}
}

// A failed ADD must not leak what it has reserved: DEL runs, whatever the
// failure was.
func TestFailedADDIsRolledBack(t *testing.T) {
	tests := []struct {
		name string
		add  func(context.Context, call) (string, error) // nil: it hangs
		want string
		is   error
	}{
		{"the plugin fails", func(context.Context, call) (string, error) { return "", errPlugin }, "no address left", errPlugin},
		{"the plugin hangs past the deadline", nil, `network "one": CNI ADD: plugin type="fake"`, context.DeadlineExceeded},
		{"the result is garbage", func(context.Context, call) (string, error) { return "{{{", nil }, "network \"one\"", nil},
		{"the result is null", func(context.Context, call) (string, error) { return "null", nil }, "no address", nil},
		{"the result is of an unknown version", func(context.Context, call) (string, error) { return `{"cniVersion":"7.0.0"}`, nil }, "7.0.0", nil},
		{"the result has no address", func(context.Context, call) (string, error) { return `{"cniVersion":"1.0.0"}`, nil }, "no address", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t)
			n.writeConf("10-one.conflist", oneConf)
			c := n.start()
			rt := n.pod("a")
			var delContext error
			caller := newLimited()
			n.exec.answer(func(ctx context.Context, c call) (string, error) {
				switch {
				case c.command != "ADD":
					delContext = ctx.Err()
					return "", nil
				case tt.add != nil:
					return tt.add(ctx, c)
				}
				caller.expire()
				<-ctx.Done()
				return "", fmt.Errorf("plugin %s killed: %w", c.plugin, ctx.Err())
			})
			_, err := c.Setup(caller, rt)
			if err == nil || !strings.Contains(err.Error(), tt.want) || (tt.is != nil && !errors.Is(err, tt.is)) {
				t.Errorf("Setup error = %v, want one with %q and %v", err, tt.want, tt.is)
			}
			dels := n.exec.of("DEL")
			if len(dels) != 1 || dels[0].netns != rt.NetNS || delContext != nil {
				t.Errorf("DEL calls %+v with context error %v, want one with a live context", dels, delContext)
			}
			if _, ok := c.Attachment("a"); ok || len(n.files()) != 0 {
				t.Errorf("left behind: attached %v, files %v", ok, n.files())
			}
		})
	}
}

func TestRollbackThatFailsIsDoneByTeardown(t *testing.T) {
	n := newNode(t)
	n.writeConf("10-one.conflist", oneConf)
	c := n.start()
	rt := n.pod("a")
	errDel := errors.New("busy")
	n.exec.answer(func(_ context.Context, c call) (string, error) {
		if c.command == "ADD" {
			return "", errPlugin
		}
		return "", errDel
	})
	if _, err := c.Setup(t.Context(), rt); !errors.Is(err, errPlugin) || !errors.Is(err, errDel) {
		t.Fatalf("Setup error = %v, want both", err)
	}
	n.removeConf("10-one.conflist")
	c = n.start()
	if recorded, err := c.Recorded(rt.ContainerID); !recorded || err != nil {
		t.Errorf("an ADD that was not taken back is recorded: %t, %v", recorded, err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Teardown(ended, rt); err == nil {
		t.Error("a Teardown that was cancelled succeeds")
	}
	n.exec.answer(nil)
	if err := c.Teardown(t.Context(), rt); err != nil {
		t.Fatalf("second Teardown: %v", err)
	}
	if dels := n.exec.of("DEL"); len(dels) != 1 || dels[0].conf["mark"] != "first" {
		t.Errorf("DEL calls: %+v", dels)
	}
	if recorded, err := c.Recorded(rt.ContainerID); recorded || err != nil {
		t.Errorf("after DEL it is recorded: %t, %v", recorded, err)
	}
	if len(n.files()) != 0 {
		t.Errorf("left behind: %v", n.files())
	}
}

// A failed DEL is retried if ADD has a result, and given up if it has none: a
// plugin that has never worked must not keep the pod from being removed.
func TestTeardownGivesUpWithoutResult(t *testing.T) {
	errDel := errors.New("busy")
	for _, tc := range []struct {
		name   string
		attach func(n *node, c *CNI, rt *libcni.RuntimeConf)
		hangs  bool // DEL, until the deadline of Teardown
		want   error
	}{
		{"nothing is recorded", func(*node, *CNI, *libcni.RuntimeConf) {}, false, nil},
		{"ADD failed", func(n *node, c *CNI, rt *libcni.RuntimeConf) {
			if _, err := c.Setup(n.t.Context(), rt); !errors.Is(err, errDel) {
				n.t.Fatalf("Setup error = %v, want %v", err, errDel)
			}
		}, false, nil},
		{"ADD failed and DEL hangs", func(n *node, c *CNI, rt *libcni.RuntimeConf) {
			if _, err := c.Setup(n.t.Context(), rt); !errors.Is(err, errDel) {
				n.t.Fatalf("Setup error = %v, want %v", err, errDel)
			}
		}, true, nil},
		{"ADD has a result", func(n *node, c *CNI, rt *libcni.RuntimeConf) {
			n.exec.answer(nil)
			if _, err := c.Setup(n.t.Context(), rt); err != nil {
				n.t.Fatal(err)
			}
		}, false, errDel},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := newNode(t)
			n.writeConf("10-one.conflist", oneConf)
			c := n.start()
			rt := n.pod("a")
			n.exec.answer(func(context.Context, call) (string, error) { return "", errDel })
			tc.attach(n, c, rt)
			caller := newLimited()
			n.exec.answer(func(ctx context.Context, _ call) (string, error) {
				if tc.hangs {
					caller.expire()
					<-ctx.Done()
				}
				return "", errDel
			})
			if err := c.Teardown(caller, rt); !errors.Is(err, tc.want) {
				t.Errorf("Teardown error = %v, want %v", err, tc.want)
			}
			if kept := len(n.files()) > 0; kept != (tc.want != nil) {
				t.Errorf("left behind: %v", n.files())
			}
		})
	}
}

// If one plugin of a network fails, what the others hold is still released.
func TestTeardownRunsEveryPlugin(t *testing.T) {
	n := newNode(t)
	n.writeConf("10-two.conflist", `{"cniVersion":"1.0.0","name":"two","plugins":[{"type":"first"},{"type":"broken"},{"type":"last"}]}`)
	c := n.start()
	rt := n.pod("a")
	errBroken := errors.New("out of order")
	n.exec.answer(func(_ context.Context, c call) (string, error) {
		if c.plugin == "broken" {
			return "", errBroken
		}
		return goodResult, nil
	})
	if _, err := c.Setup(t.Context(), rt); !errors.Is(err, errBroken) {
		t.Fatalf("Setup error = %v, want %v", err, errBroken)
	}
	before := len(n.exec.of("DEL"))
	if err := c.Teardown(t.Context(), rt); err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, c := range n.exec.of("DEL")[before:] {
		order = append(order, c.plugin+" "+fmt.Sprint(c.conf["name"]))
	}
	if want := []string{"last two", "broken two", "first two"}; !slices.Equal(order, want) {
		t.Errorf("DEL of %v, want %v", order, want)
	}
}

// DEL gets what ADD had, whatever happened to the configuration and the process
// in the meantime.
func TestTeardownUsesTheConfigurationOfADD(t *testing.T) {
	tests := []struct {
		name   string
		change func(n *node)
	}{
		{"the directory was emptied", func(n *node) { n.removeConf("10-one.conflist") }},
		{"the network was changed", func(n *node) {
			n.writeConf("10-one.conflist", strings.Replace(oneConf, "first", "second", 1))
		}},
		{"another network took its place", func(n *node) {
			n.writeConf("00-two.conf", `{"cniVersion":"1.0.0","name":"two","type":"other"}`)
		}},
		{"the configuration was broken", func(n *node) { n.writeConf("10-one.conflist", "{") }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t)
			n.writeConf("10-one.conflist", oneConf)
			if _, err := n.start().Setup(t.Context(), n.pod("a")); err != nil {
				t.Fatal(err)
			}
			tt.change(n)
			n.exec.answer(nil)
			rt := &libcni.RuntimeConf{ContainerID: "a", IfName: "eth0"}
			if err := n.start().Teardown(t.Context(), rt); err != nil {
				t.Fatalf("Teardown: %v", err)
			}
			checkDEL(t, n, true)
		})
	}
}

// checkDEL checks that one DEL ran with the configuration and arguments of
// oneConf and (*node).pod.
func checkDEL(t *testing.T, n *node, wantPrevResult bool) {
	t.Helper()
	dels := n.exec.of("DEL")
	if len(dels) != 1 {
		t.Fatalf("DEL calls: %+v, want one", dels)
	}
	del := dels[0]
	if del.plugin != "fake" || del.conf["mark"] != "first" || del.args != "IgnoreUnknown=1;K8S_POD_NAME=pod-a" {
		t.Errorf("DEL with %+v, want the configuration and arguments of ADD", del)
	}
	if del.netns != filepath.Join(n.cfg.NetNSDir, "a") {
		t.Errorf("DEL in namespace %q, want the pinned one", del.netns)
	}
	want := map[string]any{"portMappings": []any{map[string]any{"hostPort": 8080.0, "containerPort": 80.0, "protocol": "tcp"}}}
	if diff := cmp.Diff(want, del.conf["runtimeConfig"]); diff != "" {
		t.Errorf("DEL capability arguments (-want +got):\n%s", diff)
	}
	if _, ok := del.conf["prevResult"]; ok != wantPrevResult {
		t.Errorf("DEL with previous result: %v, want %v", ok, wantPrevResult)
	}
	if len(n.files()) != 0 {
		t.Errorf("left behind: %v", n.files())
	}
}

// A process that is killed during ADD leaves its note; the next process runs
// DEL with it.
func TestTeardownAfterUnfinishedADD(t *testing.T) {
	n := newNode(t)
	n.writeConf("10-one.conflist", oneConf)
	c := n.start()
	rt := n.pod("a")
	died := make(chan struct{})
	release := make(chan struct{})
	n.exec.answer(func(_ context.Context, c call) (string, error) {
		if c.command == "ADD" {
			close(died)
			<-release
			return goodResult, nil
		}
		return "", nil
	})
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = c.Setup(context.Background(), rt) })
	<-died
	saved := copyDir(t, n.cfg.CacheDir)
	close(release)
	wg.Wait()

	n.cfg.CacheDir = saved // what was on disk in the middle of ADD
	n.removeConf("10-one.conflist")
	n.exec.answer(nil)
	next := n.start()
	if _, ok := next.Attachment("a"); ok {
		t.Error("an unfinished ADD counts as an attachment")
	}
	if err := next.Teardown(t.Context(), &libcni.RuntimeConf{ContainerID: "a", IfName: "eth0"}); err != nil {
		t.Fatalf("Teardown: %v", err)
	}
	checkDEL(t, n, false)
}

func copyDir(t *testing.T, dir string) string {
	t.Helper()
	copied := filepath.Join(t.TempDir(), "cache")
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return copied
}

// A process that is killed while libcni writes the result leaves half a file;
// the note still exists.
func TestTeardownWithTornResult(t *testing.T) {
	n := newNode(t)
	n.writeConf("10-one.conflist", oneConf)
	c := n.start()
	rt := n.pod("a")
	conf, err := c.active()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.writeNote(conf.list, rt); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(n.cfg.CacheDir, "results"), 0o700); err != nil {
		t.Fatal(err)
	}
	torn := filepath.Join(n.cfg.CacheDir, "results", "one-a-eth0")
	if err := os.WriteFile(torn, []byte(`{"kind":"cniCacheV1","contai`), 0o600); err != nil {
		t.Fatal(err)
	}
	n.removeConf("10-one.conflist")
	if err := n.start().Teardown(t.Context(), rt); err != nil {
		t.Fatalf("Teardown: %v", err)
	}
	checkDEL(t, n, false)
}

// A process that is killed between libcni's result and the end of Setup: the
// steps after ADD may be missing, so the pod is not attached, only recorded.
func TestUnfinishedSetupWithResult(t *testing.T) {
	n := newNode(t)
	n.writeConf("10-one.conflist", oneConf)
	c := n.start()
	rt := n.pod("a")
	if _, err := c.Setup(t.Context(), rt); err != nil {
		t.Fatal(err)
	}
	conf, err := c.active()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.writeNote(conf.list, rt); err != nil {
		t.Fatal(err)
	}
	next := n.start()
	if a, ok := next.Attachment("a"); ok {
		t.Errorf("Attachment = %+v, want none", a)
	}
	if err := next.Teardown(t.Context(), rt); err != nil {
		t.Fatal(err)
	}
	checkDEL(t, n, true)
}

func TestTeardownWithoutRecord(t *testing.T) {
	n := newNode(t)
	rt := &libcni.RuntimeConf{ContainerID: "a", IfName: "eth0", NetNS: "/proc/1/no/such"}
	if err := n.start().Teardown(t.Context(), rt); err != nil {
		t.Errorf("with nothing configured: %v", err)
	}
	n.writeConf("10-one.conflist", oneConf)
	if err := n.start().Teardown(t.Context(), rt); err != nil {
		t.Errorf("with the current configuration: %v", err)
	}
	if dels := n.exec.of("DEL"); len(dels) != 1 || dels[0].netns != "" {
		t.Errorf("DEL calls %+v, want one without a namespace", dels)
	}
	if err := n.start().Teardown(t.Context(), &libcni.RuntimeConf{IfName: "eth0"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("without container ID: %v, want invalid argument", err)
	}
}

// Attachments made by cri-dockerd: its loopback, recorded for eth0, does not
// count as one, and is removed too; the PID in the cached namespace path is not
// trusted.
func TestTeardownOfAdoptedAttachments(t *testing.T) {
	n := newNode(t)
	netns := fmt.Sprintf("/proc/%d/ns/net", os.Getpid())
	other := libcni.NewCNIConfigWithCacheDir(n.cfg.BinDirs, n.cfg.CacheDir, n.exec)
	for _, conf := range []string{
		`{"cniVersion":"0.2.0","name":"cni-loopback","plugins":[{"type":"loopback"}]}`,
		strings.Replace(oneConf, `"one"`, `"before-cni-loopback"`, 1),
	} {
		list, err := libcni.NetworkConfFromBytes([]byte(conf))
		if err != nil {
			t.Fatal(err)
		}
		n.exec.answer(func(_ context.Context, c call) (string, error) {
			if c.plugin == "loopback" {
				return `{"cniVersion":"0.2.0","ip4":{"ip":"127.0.0.1/8"}}`, nil
			}
			return goodResult, nil
		})
		rt := &libcni.RuntimeConf{ContainerID: "a", IfName: "eth0", NetNS: netns}
		if _, err := other.AddNetworkList(t.Context(), list, rt); err != nil {
			t.Fatal(err)
		}
	}
	c := n.start()
	if a, ok := c.Attachment("a"); !ok || a.Network != "before-cni-loopback" || a.IPs[0] != "10.1.0.2" {
		t.Errorf("Attachment = %+v, %v", a, ok)
	}
	n.exec.answer(func(_ context.Context, c call) (string, error) {
		if c.plugin == "loopback" {
			return "", errors.New("uninstalled")
		}
		return "", nil
	})
	if err := c.Teardown(t.Context(), &libcni.RuntimeConf{ContainerID: "a", IfName: "eth0"}); err != nil {
		t.Fatalf("Teardown: %v", err)
	}
	dels := n.exec.of("DEL")
	if len(dels) != 2 || dels[0].netns != "" || dels[1].netns != "" || len(n.files()) != 0 {
		t.Errorf("DEL calls %+v, files %v", dels, n.files())
	}
}

func TestSetupAgainDeletesFirst(t *testing.T) {
	n := newNode(t)
	n.writeConf("10-one.conflist", oneConf)
	c := n.start()
	rt := n.pod("a")
	for range 2 {
		if _, err := c.Setup(t.Context(), rt); err != nil {
			t.Fatal(err)
		}
	}
	var order []string
	for _, c := range n.exec.calls {
		order = append(order, c.command)
	}
	if diff := cmp.Diff([]string{"ADD", "DEL", "ADD"}, order); diff != "" {
		t.Errorf("commands (-want +got):\n%s", diff)
	}
}

func TestSetupRefusals(t *testing.T) {
	n := newNode(t)
	rt := n.pod("a")
	c := n.start()
	if _, err := c.Setup(t.Context(), rt); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), n.cfg.ConfDir) {
		t.Errorf("without configuration: %v", err)
	}
	for name, bad := range map[string]*libcni.RuntimeConf{
		"no runtime configuration": nil,
		"path as container ID":     {ContainerID: "../a", IfName: "eth0", NetNS: rt.NetNS},
		"no interface":             {ContainerID: "a", NetNS: rt.NetNS},
		"no namespace":             {ContainerID: "a", IfName: "eth0"},
		"a file as namespace":      {ContainerID: "a", IfName: "eth0", NetNS: "/etc/passwd"},
	} {
		if _, err := c.Setup(t.Context(), bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v, want invalid argument", name, err)
		}
	}
}

func TestIPsOfResults(t *testing.T) {
	tests := []struct {
		name, result string
		want         []string
	}{
		{"IPv6 first", `{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"/ns"}],"ips":[{"interface":0,"address":"fd00::2/64"},{"interface":0,"address":"10.1.0.2/24"}]}`, []string{"fd00::2", "10.1.0.2"}},
		{"host's address left out", `{"cniVersion":"1.0.0","interfaces":[{"name":"br0"},{"name":"eth0","sandbox":"/ns"}],"ips":[{"interface":0,"address":"10.1.0.1/24"},{"interface":1,"address":"10.1.0.2/24"}]}`, []string{"10.1.0.2"}},
		{"second interface left out", `{"cniVersion":"1.0.0","interfaces":[{"name":"net1","sandbox":"/ns"},{"name":"eth0","sandbox":"/ns"}],"ips":[{"interface":0,"address":"10.9.0.2/24"},{"interface":1,"address":"10.1.0.2/24"}]}`, []string{"10.1.0.2"}},
		{"no interfaces", `{"cniVersion":"0.4.0","ips":[{"version":"4","address":"10.1.0.2/24"}]}`, []string{"10.1.0.2"}},
		{"version 0.2", `{"cniVersion":"0.2.0","ip4":{"ip":"10.1.0.2/24"},"ip6":{"ip":"fd00::2/64"}}`, []string{"10.1.0.2", "fd00::2"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t)
			n.writeConf("10-one.conflist", oneConf)
			n.exec.answer(func(context.Context, call) (string, error) { return tt.result, nil })
			got, err := n.start().Setup(t.Context(), n.pod("a"))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got.IPs); diff != "" {
				t.Errorf("IPs (-want +got):\n%s", diff)
			}
			if again, ok := n.start().Attachment("a"); !ok || !cmp.Equal(again.IPs, tt.want) {
				t.Errorf("after a restart: %+v, %v", again, ok)
			}
		})
	}
}

func TestStatus(t *testing.T) {
	const newConf = `{"cniVersion":"1.1.0","name":"one","plugins":[{"type":"fake"}]}`
	n := newNode(t)
	check := func(name, want string) {
		t.Helper()
		err := n.start().Status(t.Context())
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: Status = %v, want %q", name, err, want)
		}
	}
	check("empty directory", "no CNI network configuration in "+n.cfg.ConfDir)
	n.writeConf("10-bad.conflist", "{")
	n.writeConf("20-bad.conf", `{"cniVersion":"9.0.0","name":"x","type":"y"}`)
	check("broken files", "10-bad.conflist: ")
	check("broken files", "20-bad.conf: cniVersion 9.0.0")
	n.writeConf("30-one.conflist", oneConf)
	check("good one later", "")
	if d := n.start().Describe(); d.File != "30-one.conflist" || d.BrokenFiles["10-bad.conflist"] == "" || d.LastLoadError != "" {
		t.Errorf("Describe = %+v", d)
	}
	if calls := n.exec.of("STATUS"); len(calls) != 0 {
		t.Errorf("STATUS before CNI 1.1: %+v", calls)
	}
	n.writeConf("05-new.conflist", newConf)
	check("STATUS succeeds", "")
	if calls := n.exec.of("STATUS"); len(calls) != 1 {
		t.Errorf("STATUS calls %+v, want one", calls)
	}
	n.exec.answer(func(context.Context, call) (string, error) { return "", errors.New("daemon is starting") })
	check("STATUS fails", `network "one" (05-new.conflist): CNI STATUS: daemon is starting`)
	n.exec.missing = map[string]bool{"fake": true}
	check("plugin missing", "failed to find plugin fake")
	if err := os.RemoveAll(n.cfg.ConfDir); err != nil {
		t.Fatal(err)
	}
	check("missing directory", "no CNI network configuration")
}

func TestCheck(t *testing.T) {
	n := newNode(t)
	n.writeConf("10-one.conflist", oneConf)
	c := n.start()
	rt := n.pod("a")
	if err := c.Check(t.Context(), rt); !errdefs.IsNotFound(err) {
		t.Errorf("Check before Setup: %v, want not found", err)
	}
	if _, err := c.Setup(t.Context(), rt); err != nil {
		t.Fatal(err)
	}
	n.removeConf("10-one.conflist")
	if err := n.start().Check(t.Context(), rt); err != nil {
		t.Errorf("Check: %v", err)
	}
	checks := n.exec.of("CHECK")
	if len(checks) != 1 || checks[0].conf["mark"] != "first" || checks[0].conf["prevResult"] == nil {
		t.Errorf("CHECK calls: %+v", checks)
	}
	n.exec.answer(func(context.Context, call) (string, error) { return "", errPlugin })
	if err := c.Check(t.Context(), rt); !errors.Is(err, errPlugin) {
		t.Errorf("failing Check: %v", err)
	}
}

func TestCheckNotSupported(t *testing.T) {
	n := newNode(t)
	n.writeConf("10-one.conflist", strings.Replace(oneConf, "1.0.0", "0.3.1", 1))
	n.exec.answer(func(context.Context, call) (string, error) {
		return `{"cniVersion":"0.3.1","ips":[{"version":"4","address":"10.1.0.2/24"}]}`, nil
	})
	c := n.start()
	rt := n.pod("a")
	if _, err := c.Setup(t.Context(), rt); err != nil {
		t.Fatal(err)
	}
	if err := c.Check(t.Context(), rt); !errdefs.IsNotImplemented(err) {
		t.Errorf("Check = %v, want not implemented", err)
	}
}

func TestGC(t *testing.T) {
	n := newNode(t)
	n.writeConf("10-one.conflist", strings.Replace(oneConf, "1.0.0", "1.1.0", 1))
	before := n.start()
	for _, id := range []string{"live", "stale"} {
		if _, err := before.Setup(t.Context(), n.pod(id)); err != nil {
			t.Fatal(err)
		}
	}
	// An entry of another runtime in the same cache.
	foreign := n.pod("foreign")
	foreign.NetNS = "/run/netns/cni-1"
	conf, _ := before.active()
	if _, err := before.libcni.AddNetworkList(t.Context(), conf.list, foreign); err != nil {
		t.Fatal(err)
	}
	c := n.start()
	if _, err := c.Setup(t.Context(), n.pod("new")); err != nil {
		t.Fatal(err)
	}
	n.exec.answer(nil)
	if err := c.GC(t.Context(), []string{"live"}); err != nil {
		t.Fatalf("GC: %v", err)
	}
	if dels := n.exec.of("DEL"); len(dels) != 1 || dels[0].containerID != "stale" {
		t.Errorf("DEL calls %+v, want one for the stale container", dels)
	}
	if _, err := os.Stat(filepath.Join(n.cfg.NetNSDir, "stale")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("pin of the stale container: %v, want it gone", err)
	}
	gcs := n.exec.of("GC")
	if len(gcs) != 1 {
		t.Fatalf("GC calls: %+v", gcs)
	}
	got, _ := json.Marshal(gcs[0].conf["cni.dev/valid-attachments"])
	const want = `[{"containerID":"foreign","ifname":"eth0"},{"containerID":"live","ifname":"eth0"},{"containerID":"new","ifname":"eth0"}]`
	if string(got) != want {
		t.Errorf("valid attachments\n got %s\nwant %s", got, want)
	}
}

// Setups of different pods run in parallel; those of one pod run one at a time.
func TestParallelSetups(t *testing.T) {
	n := newNode(t)
	n.writeConf("10-one.conflist", oneConf)
	c := n.start()
	const pods = 8
	var inside sync.WaitGroup
	inside.Add(pods)
	n.exec.answer(func(_ context.Context, c call) (string, error) {
		if c.command == "ADD" {
			inside.Done()
			inside.Wait() // returns only if all are in ADD at the same time
			return goodResult, nil
		}
		return "", nil
	})
	var wg sync.WaitGroup
	var ids []string
	for i := range pods {
		rt := n.pod(fmt.Sprintf("p%d", i))
		ids = append(ids, rt.ContainerID)
		wg.Go(func() {
			if _, err := c.Setup(t.Context(), rt); err != nil {
				t.Errorf("Setup: %v", err)
			}
			_ = c.Describe()
			if err := c.Teardown(t.Context(), rt); err != nil {
				t.Errorf("Teardown: %v", err)
			}
		})
	}
	wg.Wait()
	if len(n.files()) != 0 || len(c.own) != 0 {
		t.Errorf("left behind: files %v, own %d", n.files(), len(c.own))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for _, id := range ids {
		if unlock, err := c.locks.Lock(ctx, id); err != nil {
			t.Errorf("container %s is still locked: %v", id, err)
		} else {
			unlock()
		}
	}
}

func TestNewRefusesRelativePaths(t *testing.T) {
	good := Config{ConfDir: "/c", BinDirs: []string{"/b"}, CacheDir: t.TempDir(), NetNSDir: "/n"}
	if _, err := New(good); err != nil {
		t.Errorf("New: %v", err)
	}
	bad := good
	bad.CacheDir = ""
	if _, err := New(bad); !errdefs.IsInvalidArgument(err) {
		t.Errorf("New without cache directory: %v", err)
	}
}
