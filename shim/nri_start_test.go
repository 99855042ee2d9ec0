package shim_test

import (
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cridock/cridock/shim/engine/enginetest"
)

// TestNRIOperationDuringStart: an operation on a pod that waits for plugins does not
// keep the start from that pod, nor does it wait for what follows plugins.
func TestNRIOperationDuringStart(t *testing.T) {
	n := newNode(t, withNRI)
	pod := n.runPod(n.podConfig("web"))
	id := n.runContainer(pod, containerConfig("main", "pause"))
	n.must(os.MkdirAll(filepath.Join(n.cfg.RootDir, "containers", id, "checkpoint"), 0o700))
	n.must(n.call().ContainerPause(n.ctx, id))
	n.stop()
	held, release := n.docker.HoldNext("container unpause", 1) // comes before the pods' locks
	n.cfg.PauseImage = "registry.test/pause:2"
	n.docker.Publish(n.cfg.PauseImage, enginetest.Image{})
	n.launch()
	var pulling atomic.Bool
	pull := make(chan struct{})
	pulled := sync.OnceFunc(func() { close(pull) })
	t.Cleanup(pulled)
	n.engine.on(func(call string) {
		if call == "image pull" {
			pulling.Store(true)
			<-pull
		}
	})
	<-held
	done := make(chan error, 1)
	go func() { done <- n.removePod(pod) }()
	n.waiting("plugins", 1)
	release()
	n.eventually("the sandbox image is being pulled", pulling.Load)
	n.must(<-done)
	select {
	case <-n.svc.Ready():
		t.Error("ready without a sandbox image")
	default:
	}
	pulled()
	n.waitReady()
}
