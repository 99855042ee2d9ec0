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
	"strconv"
	"strings"
	"time"
)

// waitDelay bounds the wait for a runtime that is killed, as what it has started may
// hold its output open.
const waitDelay = time.Second

// Features are what a runtime says of itself.
type Features struct {
	MountOptions []string          `json:"mountOptions"`
	SpecVersion  string            `json:"ociVersionMax"`
	Annotations  map[string]string `json:"annotations"`
	Linux        struct {
		IntelRdt struct {
			Enabled bool `json:"enabled"`
		} `json:"intelRdt"`
	} `json:"linux"`
}

// RDT reports whether the runtime puts containers into classes of Intel RDT, if the
// kernel has them. Only newer runtimes say so: runc from 1.2.
func (f Features) RDT() bool { return f.Linux.IntelRdt.Enabled }

// Versions as of which runtimes apply process.execCPUAffinity. crun does not raise the
// version of the specification that it names.
const (
	affinitySpec = "1.2.1" // of runc 1.3
	affinityCrun = "1.19"
)

// ExecCPUAffinity reports whether the runtime applies process.execCPUAffinity.
func (f Features) ExecCPUAffinity() bool {
	return AtLeast(f.SpecVersion, affinitySpec) || AtLeast(f.Annotations["run.oci.crun.version"], affinityCrun)
}

// AtLeast compares versions such as 1.2.0, without what follows - or +.
func AtLeast(have, want string) bool {
	h, w := numbers(have), numbers(want)
	return len(h) > 0 && slices.Compare(h, w) >= 0
}

func numbers(version string) []int {
	version, _, _ = strings.Cut(version, "-")
	version, _, _ = strings.Cut(version, "+")
	var out []int
	for part := range strings.SplitSeq(version, ".") {
		n, err := strconv.Atoi(part)
		if err != nil {
			return nil
		}
		out = append(out, n)
	}
	return out
}

// Ask returns the features of the runtime at path. args precede the command. A runtime
// that cannot say what it supports, such as runc before 1.1, is an error.
func Ask(ctx context.Context, path string, args []string) (Features, error) {
	var f Features
	cmd := exec.CommandContext(ctx, path, append(slices.Clone(args), "features")...) //nolint:gosec // root's configuration of Docker names it
	cmd.WaitDelay = waitDelay
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return f, fmt.Errorf("%s features: %w: %s", path, err, strings.TrimSpace(stderr.String()))
	}
	if err := json.Unmarshal(out, &f); err != nil {
		return Features{}, fmt.Errorf("%s features: %w", path, err)
	}
	return f, nil
}
