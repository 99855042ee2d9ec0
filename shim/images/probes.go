package images

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"time"

	"github.com/cridock/cridock/translate"
)

const (
	// probePrefix begins the names of probes. The ID of the process that created them
	// and a random text follow.
	probePrefix = "cridock_probe_"
	// probeRemoval bounds the removal of a probe.
	probeRemoval = time.Minute
)

// Probes creates probes: containers that exist only while files of an image are
// read, and are never started.
type Probes struct {
	containers *Unstarted
	processID  string
}

// NewProbes returns the probes of a process. processID is unique to it and contains
// no underscore.
func NewProbes(u *Unstarted, processID string) *Probes {
	return &Probes{containers: u, processID: processID}
}

// Look creates a probe of an image, calls look with its ID and removes it. The error
// is that of look, and of the removal if that failed.
func (p *Probes) Look(ctx context.Context, image translate.Image, look func(containerID string) error) (err error) {
	id, err := p.containers.Create(ctx, probePrefix+p.processID+"_"+rand.Text(), image)
	if err != nil {
		return err
	}
	defer func() {
		// With a context of its own, as the caller's may have ended.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), probeRemoval)
		defer cancel()
		err = errors.Join(err, p.containers.Remove(ctx, id))
	}()
	return look(id)
}

// Collect removes the probes that killed processes have left behind.
func (p *Probes) Collect(ctx context.Context) error {
	probes, err := p.containers.Named(ctx, probePrefix)
	for id, rest := range probes {
		if strings.HasPrefix(rest, p.processID+"_") {
			continue // in use by a request to this process
		}
		err = errors.Join(err, p.containers.Remove(ctx, id))
	}
	return err
}
