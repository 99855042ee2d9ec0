package app

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/cridock/cridock/internal/seam"
	"github.com/cridock/cridock/translate"
)

// baseSpec reads the file of base-runtime-spec; nil for none. Its hooks run as root of
// the node: only root may change the file or a hook.
func (o *Options) baseSpec() (*translate.BaseSpec, error) {
	if o.BaseRuntimeSpec == "" {
		return nil, nil
	}
	if !filepath.IsAbs(o.BaseRuntimeSpec) {
		return nil, fmt.Errorf("base-runtime-spec %q: want an absolute path", o.BaseRuntimeSpec)
	}
	if err := checkTrusted(o.BaseRuntimeSpec); err != nil {
		return nil, fmt.Errorf("base-runtime-spec: %w", err)
	}
	text, err := os.ReadFile(o.BaseRuntimeSpec)
	if err != nil {
		return nil, fmt.Errorf("base-runtime-spec: %w", err)
	}
	base, err := translate.ParseBaseSpec(text)
	if err != nil {
		return nil, fmt.Errorf("base-runtime-spec %s: %w", o.BaseRuntimeSpec, err)
	}
	for _, h := range base.Hooks {
		if h.Name == seam.HookInContainer {
			continue
		}
		if err := checkTrusted(h.Path); err != nil {
			return nil, fmt.Errorf("base-runtime-spec %s: %s hook: %w", o.BaseRuntimeSpec, h.Name, err)
		}
	}
	return base, nil
}

func (o *Options) validateBaseSpec() error {
	_, err := o.baseSpec()
	return err
}
