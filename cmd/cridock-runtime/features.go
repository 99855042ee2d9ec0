package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/cridock/cridock/internal/ocifeatures"
	"github.com/cridock/cridock/internal/seam"
)

// featuresTimeout bounds the wait for what the real runtime supports.
const featuresTimeout = 10 * time.Second

// checkFeatures returns an error if the real runtime at path would ignore a part of the
// record, as some do with what they do not know. It starts the runtime only for a part
// that not all of them know.
func checkFeatures(r *seam.Record, path string) error {
	recursive := false
	for _, options := range r.MountOptions {
		recursive = recursive || slices.Contains(options, seam.RecursiveReadOnly)
	}
	if !recursive && r.ExecCPU == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), featuresTimeout)
	defer cancel()
	known, err := ocifeatures.Ask(ctx, path, r.Runtime.Args)
	switch {
	case err != nil:
		return fmt.Errorf("what the real runtime supports: %w", err)
	case recursive && !slices.Contains(known.MountOptions, seam.RecursiveReadOnly):
		return fmt.Errorf("mount option %s: %s does not know it", seam.RecursiveReadOnly, path)
	case r.ExecCPU != nil && !known.ExecCPUAffinity():
		return fmt.Errorf("CPU affinity of exec sessions: %s does not know it", path)
	}
	return nil
}
