// Package ocifeatures asks an OCI runtime what it supports. It starts the runtime for
// that, and knows no container.
package ocifeatures

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// waitDelay bounds the wait for a runtime that is killed, as what it has started may
// hold its output open.
const waitDelay = time.Second

// MountOptions returns the mount options that the runtime at path knows. args precede
// the command. A runtime that cannot say so, such as runc before 1.1, is an error.
func MountOptions(ctx context.Context, path string, args []string) ([]string, error) {
	f, err := ask(ctx, path, args)
	return f.MountOptions, err
}

// SpecVersion returns the latest version of the OCI specification that the runtime at
// path says it knows, as [MountOptions] does.
func SpecVersion(ctx context.Context, path string, args []string) (string, error) {
	f, err := ask(ctx, path, args)
	return f.SpecVersion, err
}

// features are what a runtime says of itself.
type features struct {
	MountOptions []string `json:"mountOptions"`
	SpecVersion  string   `json:"ociVersionMax"`
}

func ask(ctx context.Context, path string, args []string) (features, error) {
	var f features
	cmd := exec.CommandContext(ctx, path, append(slices.Clone(args), "features")...) //nolint:gosec // root's configuration of Docker names it
	cmd.WaitDelay = waitDelay
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return f, fmt.Errorf("%s features: %w: %s", path, err, strings.TrimSpace(stderr.String()))
	}
	if err := json.Unmarshal(out, &f); err != nil {
		return features{}, fmt.Errorf("%s features: %w", path, err)
	}
	return f, nil
}
