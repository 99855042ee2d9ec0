package nri

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
)

// nothing is a runtime without pods.
type nothing struct{}

func (nothing) List(context.Context) ([]*api.PodSandbox, []*api.Container, error) {
	return nil, nil, nil
}
func (nothing) UpdateContainer(context.Context, string, *api.LinuxResources) error { return nil }
func (nothing) EvictContainer(context.Context, string) error                       { return nil }

// BenchmarkNoPlugin measures what a call costs with NRI on and no plugin.
func BenchmarkNoPlugin(b *testing.B) {
	dir := b.TempDir()
	p := New(Config{
		SocketPath: filepath.Join(dir, "nri.sock"), PluginPath: dir, PluginConfigPath: dir,
		RegistrationTimeout: 30 * time.Second, RequestTimeout: 30 * time.Second,
	}, nothing{})
	ctx, end := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	<-p.started
	for b.Loop() {
		unblock, err := p.Block(ctx)
		if err != nil {
			b.Fatal(err)
		}
		c, settle := Collect(ctx)
		if p.Active() || c == nil {
			b.Fatal("there is a plugin")
		}
		unblock()
		settle()
	}
	end()
	if err := <-ended; err != nil {
		b.Error(err)
	}
}
