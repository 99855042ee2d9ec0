package shim

import (
	"context"

	"github.com/cridock/cridock/shim/images"
	"github.com/cridock/cridock/shim/images/mirror"
	"github.com/cridock/cridock/translate"
)

// imageParts are the parts of the service that work with images.
type imageParts struct {
	puller    *images.Puller
	remover   *images.Remover
	pause     *images.Pause
	accounts  *images.Accounts
	unstarted *images.Unstarted
	probes    *images.Probes
	usage     *images.Usage
	mirrors   *mirror.Server
	pins      images.Pins
}

// pinned returns a function that reports whether the kubelet must keep an image.
func (p *imageParts) pinned(ctx context.Context) func(translate.Image) bool {
	sandboxImage := p.pause.ID(ctx)
	return func(image translate.Image) bool { return image.ID == sandboxImage || p.pins.Match(image) }
}

// newImageParts connects the parts with the service's engine, index and disk.
func newImageParts(s *Service) imageParts {
	var p imageParts
	p.pins = s.cfg.PinnedImages
	node := images.Keychain(s.cfg.DockerConfig)
	p.mirrors = mirror.New(mirror.Options{Dir: s.cfg.RegistryConfigDir, Credential: node.Credential})
	p.usage = images.NewUsage(s.engine, s.index, s.disk)
	p.unstarted = images.NewUnstarted(s.engine)
	p.probes = images.NewProbes(p.unstarted, s.processID)
	p.accounts = images.NewAccounts(p.probes, s.engine)
	changed := func(ctx context.Context) error {
		p.usage.Changed()
		return s.index.SyncImages(ctx)
	}
	p.puller = images.NewPuller(images.PullerOptions{
		Engine: s.engine, Ready: s.index.Ready, Keychain: node, Namespaces: images.NamespaceKeychains(s.cfg.NamespacedAuthDir),
		Mirrors: p.mirrors, Policy: images.Verifiers(s.cfg.ImageVerifierDir), StallTimeout: s.cfg.PullProgressTimeout,
		Start: s.work.run, Changed: changed, Observe: s.metrics.observePull, Received: s.metrics.observeLayers,
		Waiting: func() func() { return s.metrics.waiting("pull") },
	})
	p.remover = images.NewRemover(s.engine, s.index, func(ctx context.Context, imageID string) error {
		p.accounts.Forget(imageID)
		return changed(ctx)
	})
	p.pause = images.NewPause(s.cfg.PauseImage, s.engine, s.index, p.puller.Pull)
	return p
}
