package shim

import (
	"context"
	"errors"
	"fmt"
	"sync"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/translate"
)

// earlyNetworkEngine is the first version of Docker for which CNI connects a sandbox
// that has not been started. Earlier ones have not been tried, not even 26.0, which has
// the same API; Docker 20.10 disables IPv6 in the network namespace of a container that
// it starts, which removes addresses that CNI has added before.
const earlyNetworkEngine = "26.1"

// sandboxStart starts a sandbox that has been created, and connects it.
type sandboxStart struct {
	s      *Service
	create *translate.Create
	cfg    *runtimeapi.PodSandboxConfig
	id     string
	// sandbox is set once it may have a network.
	sandbox *translate.Sandbox
}

// run returns when the sandbox runs and is connected. After an error the caller
// releases what it has left.
func (b *sandboxStart) run(ctx context.Context) error {
	if b.create.EarlyNetwork() && b.s.engine.Capabilities().EngineAtLeast(earlyNetworkEngine) {
		return b.whileConnecting(ctx)
	}
	return b.thenConnect(ctx)
}

// thenConnect starts the sandbox and connects the network namespace that Docker has
// made for it.
func (b *sandboxStart) thenConnect(ctx context.Context) error {
	if err := b.s.userns.recordSandbox(b.create, b.id, ""); err != nil {
		return err
	}
	if err := b.start(ctx); err != nil {
		return err
	}
	if err := b.look(ctx); err != nil {
		return err
	}
	if err := b.s.userns.checkSandbox(b.sandbox); err != nil {
		return err
	}
	return b.s.networks.Setup(ctx, b.sandbox, b.cfg)
}

// whileConnecting starts the sandbox in a network namespace that cridock makes, while
// CNI connects that.
func (b *sandboxStart) whileConnecting(ctx context.Context) error {
	if err := b.look(ctx); err != nil { // a sandbox is in the index before it has a pin
		return err
	}
	namespace, err := b.s.networks.Make(b.sandbox, b.cfg)
	if err != nil {
		return err
	}
	if err := b.s.userns.recordSandbox(b.create, b.id, namespace); err != nil {
		return err
	}
	if err := b.startAndConnect(ctx); err != nil {
		return err
	}
	if err := b.look(ctx); err != nil {
		return err
	}
	if err := b.s.networks.Check(b.sandbox); err != nil {
		return err
	}
	return b.s.networks.Finish(ctx, b.sandbox, b.cfg)
}

// startAndConnect starts the sandbox while CNI connects it. If the start fails, nobody
// needs the network. If CNI fails, the start is not interrupted: that would leave a
// sandbox in an unknown state.
func (b *sandboxStart) startAndConnect(ctx context.Context) error {
	needed, cancel := context.WithCancel(ctx)
	defer cancel()
	var started, connected error
	var g sync.WaitGroup
	g.Go(func() {
		if started = b.start(ctx); started != nil {
			cancel()
		}
	})
	g.Go(func() { connected = b.s.networks.Connect(needed, b.sandbox, b.cfg) })
	g.Wait()
	if started != nil && connected != nil && needed.Err() != nil {
		connected = errors.New(connected.Error()) // the start decides the code, not its cancellation of CNI
	}
	return errors.Join(started, connected)
}

func (b *sandboxStart) start(ctx context.Context) error {
	if err := b.s.engine.ContainerStart(ctx, b.id); err != nil {
		return fmt.Errorf("start sandbox %s: %w", b.id, opaque(err))
	}
	return nil
}

// look reads the sandbox's current state.
func (b *sandboxStart) look(ctx context.Context) error {
	if err := b.s.index.Sync(ctx, b.id); err != nil {
		return err
	}
	sb, err := b.s.index.Sandbox(ctx, b.id)
	if err == nil {
		b.sandbox = sb
	}
	return err
}
