package shim

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/translate"
)

// earlyNetworkAPI is Docker 26.1's. Earlier engines have not been tried; Docker 20.10
// disables IPv6 in the network namespace of a container that it starts, which removes
// addresses that CNI has added before.
const earlyNetworkAPI = "1.45"

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
	if b.create.EarlyNetwork() && b.s.engine.Capabilities().AtLeast(earlyNetworkAPI) {
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
	namespace, err := b.s.networks.Make(b.sandbox)
	if err != nil {
		return err
	}
	if err := b.s.userns.recordSandbox(b.create, b.id, namespace); err != nil {
		return err
	}
	// If the start fails, nobody needs the network. If CNI fails, the start is not
	// interrupted: that would leave a sandbox in an unknown state.
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return b.start(ctx) })
	g.Go(func() error { return b.s.networks.Connect(gctx, b.sandbox, b.cfg) })
	if err := g.Wait(); err != nil {
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
