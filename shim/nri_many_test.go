package shim_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
	"golang.org/x/sync/errgroup"
)

// slowPlugin takes its time for each container that is created, and notes nothing.
type slowPlugin struct{ takes time.Duration }

func (p slowPlugin) CreateContainer(context.Context, *api.PodSandbox, *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	time.Sleep(p.takes)
	return nil, nil, nil
}

// TestNRIManyContainers: a slow plugin is asked about a thousand containers, one after
// the other, and each is created. A later plugin gets the list of all of them, which no
// single message can hold. CRIDOCK_NRI_SLOW is the time that the plugin takes.
func TestNRIManyContainers(t *testing.T) {
	takes := time.Millisecond
	if text := os.Getenv("CRIDOCK_NRI_SLOW"); text != "" {
		var err error
		if takes, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	// A busy machine needs minutes for a thousand containers.
	n := newNode(t, patiently, func(n *node) {
		ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
		t.Cleanup(cancel)
		n.ctx = ctx
	})
	s, err := stub.New(slowPlugin{takes}, stub.WithPluginIdx("10"), stub.WithPluginName("slow"), stub.WithSocketPath(n.cfg.NRI.SocketPath), stub.WithOnClose(func() {}))
	n.must(err)
	n.eventually("a plugin can connect", func() bool { return s.Start(n.ctx) == nil })
	t.Cleanup(s.Stop)
	n.eventually("the plugin is connected", func() bool { return strings.Contains(n.logs.String(), `10-slow\" connected and synchronized`) })

	const pods, each = 50, 20
	ids := make([][]string, pods)
	var work errgroup.Group
	for i := range ids {
		pod := n.runPod(n.podConfig(fmt.Sprint("web-", i)))
		work.Go(func() error {
			for j := range each {
				cfg := containerConfig(fmt.Sprint("main-", j), "pause", strings.Repeat("x", 5000))
				r, err := n.tryCreate(pod, cfg)
				if err != nil {
					return err
				}
				ids[i] = append(ids[i], r.ContainerId)
			}
			return nil
		})
	}
	n.must(work.Wait())
	late := n.connect(&plugin{}, "20", "late")
	if !strings.Contains(n.logs.String(), "more: true") {
		t.Error("one message has them all")
	}
	late.mu.Lock()
	defer late.mu.Unlock()
	count := map[string]int{}
	for _, event := range late.events {
		count[event]++
	}
	for _, list := range ids {
		for _, id := range list {
			if count["Synchronize "+id] != 1 {
				t.Fatalf("the plugin gets container %s %d times", id, count["Synchronize "+id])
			}
		}
	}
	if len(count) != pods+pods*each {
		t.Errorf("the plugin gets %d pods and containers, want %d", len(count), pods+pods*each)
	}
}
