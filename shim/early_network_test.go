package shim_test

import (
	"context"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/docker/docker/api/types/system"
	"google.golang.org/grpc/codes"
)

// newEarlyNode is a node on which CNI connects sandboxes while Docker starts them.
func newEarlyNode(t *testing.T) *node {
	t.Helper()
	return newCNINode(t, func(n *node) {
		n.cfg.EarlyNetwork, n.cfg.SeamDir = true, filepath.Join(n.dir, "run")
		n.docker.SetInfo(func(i *system.Info) {
			i.ServerVersion = "26.1.5+dfsg1"
			i.Runtimes["cridock"] = system.RuntimeWithStatus{Runtime: system.Runtime{Path: "/usr/local/bin/cridock-runtime"}}
		})
	})
}

// beforeStart delays the start of containers until ready is closed.
func (n *node) beforeStart(ready <-chan struct{}) {
	n.engine.on(func(call string) {
		if call == "container start" {
			<-ready
		}
	})
}

// TestEarlyNetworkErrors: if the start and CNI fail, both errors are reported, whichever
// is the first.
func TestEarlyNetworkErrors(t *testing.T) {
	const busy = "cgroup is busy"
	t.Run("start", func(t *testing.T) {
		n := newEarlyNode(t)
		adding := make(chan struct{})
		n.plugins.respond(func(ctx context.Context, command, _ string) error {
			if command == "ADD" {
				close(adding)
				<-ctx.Done() // the failed start ends it
				return ctx.Err()
			}
			return errBroken
		})
		n.beforeStart(adding)
		n.docker.FailNext("container start", 1, http.StatusInternalServerError, busy)
		_, err := n.tryRunPod(n.podConfig("web"))
		wantCode(t, err, codes.Unknown, busy, "roll back", errBroken.Error())
		n.plugins.respond(nil)
		n.must(n.removePod(n.onlyNotReady(t)))
		n.noRecords()
	})
	t.Run("CNI", func(t *testing.T) {
		n := newEarlyNode(t)
		cfg := n.podConfig("web")
		before, adding := n.remains(), make(chan struct{})
		n.plugins.respond(func(_ context.Context, command, _ string) error {
			if command == "ADD" {
				close(adding)
				return errBroken
			}
			return nil
		})
		n.beforeStart(adding)
		n.docker.FailNext("container start", 1, http.StatusInternalServerError, busy)
		_, err := n.tryRunPod(cfg)
		wantCode(t, err, codes.Unknown, busy, errBroken.Error())
		n.unchanged(t, before)
	})
}

// TestEarlyNetworkUntried: on an engine that was not tried, a sandbox is connected
// after its start, whatever its API.
func TestEarlyNetworkUntried(t *testing.T) {
	n := newEarlyNode(t)
	n.stop()
	n.docker.SetAPIVersion("1.45")
	n.docker.SetInfo(func(i *system.Info) { i.ServerVersion = "26.0.2" })
	n.start()
	record, err := n.record(n.runPod(n.podConfig("web")))
	n.must(err)
	if record.Network == nil || record.Network.Namespace != "" {
		t.Errorf("the record is %+v", record)
	}
}
