package shim

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/containerd/errdefs"

	"github.com/cridock/cridock/shim/images"
	"github.com/cridock/cridock/shim/images/artifact"
	"github.com/cridock/cridock/shim/images/mirror"
	"github.com/cridock/cridock/shim/stats"
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
	artifacts *artifact.Store
	index     images.UsageIndex
}

// all returns the artifacts and the images of the engine. An artifact comes first: the
// engine keeps a tag that has moved from an image to an artifact, while the pull of an
// image takes it from an artifact.
func (p *imageParts) all(ctx context.Context) ([]translate.Image, error) {
	list, err := p.index.Images(ctx)
	if err != nil {
		return nil, err
	}
	artifacts, err := p.artifacts.Images(ctx)
	return append(artifacts, list...), err
}

// find returns the image or artifact of a reference; ok is false if it is missing.
func (p *imageParts) find(ctx context.Context, ref string) (image translate.Image, ok bool, err error) {
	list, err := p.all(ctx)
	if err != nil {
		return image, false, err
	}
	image, err = translate.FindImage(ref, list)
	if errdefs.IsNotFound(err) {
		return image, false, nil
	}
	return image, err == nil, err
}

// volume finds what a container mounts as an image volume.
func (p *imageParts) volume(ctx context.Context, ref string) (translate.Image, error) {
	image, ok, err := p.find(ctx, ref)
	if err == nil && !ok {
		err = fmt.Errorf("image %q: %w; pull it first", ref, errdefs.ErrNotFound)
	}
	return image, err
}

// remove removes an image or artifact that nothing uses.
func (p *imageParts) remove(ctx context.Context, id string) error {
	_, ok, err := p.artifacts.Files(ctx, id)
	if err != nil {
		return err
	}
	if !ok {
		return p.remover.Remove(ctx, id)
	}
	if err := p.remover.Unmounted(ctx, id); err != nil {
		return err
	}
	return p.artifacts.Remove(ctx, id)
}

// fsUsage returns the disk usage of the images and artifacts.
func (p *imageParts) fsUsage(ctx context.Context) (stats.DiskUsage, error) {
	usage, err := p.usage.Images(ctx)
	if err != nil {
		return usage, err
	}
	bytes, files, err := p.artifacts.Size(ctx)
	usage.Bytes, usage.Inodes = usage.Bytes+bytes, usage.Inodes+files
	return usage, err
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
	p.index = s.index
	p.artifacts = artifact.New(artifact.Options{
		Dir: filepath.Join(s.cfg.RootDir, "artifacts"), Limit: s.cfg.MaxArtifacts, StallTimeout: s.cfg.PullProgressTimeout, Source: p.mirrors,
	})
	p.usage = images.NewUsage(s.engine, s.index, s.disk)
	p.unstarted = images.NewUnstarted(s.engine)
	p.probes = images.NewProbes(p.unstarted, s.processID)
	p.accounts = images.NewAccounts(p.probes, s.engine)
	changed := func(ctx context.Context) error {
		p.usage.Changed()
		return s.index.SyncImages(ctx)
	}
	pulled := images.PullerOptions{
		Engine: s.engine, Ready: s.index.Ready, Keychain: node, Namespaces: images.NamespaceKeychains(s.cfg.NamespacedAuthDir),
		Mirrors: p.mirrors, Untag: p.artifacts.Untag, Policy: images.Verifiers(s.cfg.ImageVerifierDir), StallTimeout: s.cfg.PullProgressTimeout,
		Start: s.work.run, Changed: changed, Observe: s.metrics.observePull, Received: s.metrics.observeLayers,
		Waiting: func() func() { return s.metrics.waiting("pull") },
	}
	if s.cfg.MaxArtifacts > 0 { // else no registry is asked for any
		pulled.Artifacts = p.artifacts
	}
	p.puller = images.NewPuller(pulled)
	p.remover = images.NewRemover(s.engine, s.index, func(ctx context.Context, imageID string) error {
		p.accounts.Forget(imageID)
		return changed(ctx)
	})
	p.pause = images.NewPause(s.cfg.PauseImage, s.engine, s.index, p.puller.Pull)
	return p
}
