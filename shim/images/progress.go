package images

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"k8s.io/klog/v2"

	"github.com/cridock/cridock/shim/engine"
)

// pullLogInterval is how often a running pull logs its progress.
const pullLogInterval = 30 * time.Second

var errStalled = errors.New("the pull makes no progress")

// pullProgress reads the messages of a pull and cancels a stalled one.
type pullProgress struct {
	limit  time.Duration // zero: none
	cancel context.CancelCauseFunc
	log    klog.Logger
	// received is told what has arrived since the last call; nil for nobody.
	received func(bytes int64, layers int)

	layers map[string]*layerProgress
	bytes  int64 // of all layers
	done   int   // layers that have arrived
}

// layerProgress is what has arrived of a layer, in bytes.
type layerProgress struct {
	current, total int64
	done           bool
}

// count adds what a message says about a layer. A repeated download does not count
// twice.
func (p *pullProgress) count(m pullMessage) {
	if p.layers == nil {
		p.layers = map[string]*layerProgress{}
	}
	l := p.layers[m.ID]
	if l == nil {
		l = &layerProgress{}
		p.layers[m.ID] = l
	}
	now, done := l.current, l.done
	switch m.Status {
	case "Downloading":
		now, l.total = max(now, m.Progress.Current), max(l.total, m.Progress.Total)
	case "Verifying Checksum", "Download complete":
		now, done = max(now, l.total), true
	default:
		return
	}
	bytes, layers := now-l.current, 0
	if done && !l.done {
		layers = 1
	}
	l.current, l.done = now, done
	p.bytes, p.done = p.bytes+bytes, p.done+layers
	if p.received != nil && (bytes > 0 || layers > 0) {
		p.received(bytes, layers)
	}
}

// pullMessage is the part of Docker's progress messages that matters.
type pullMessage struct {
	ID     string `json:"id"`
	Status string `json:"status"`
	Error  string `json:"error"` // deprecated in favour of errorDetail
	Detail struct {
		Message string `json:"message"`
	} `json:"errorDetail"`
	Progress struct {
		Current int64 `json:"current"`
		Total   int64 `json:"total"`
	} `json:"progressDetail"`
}

// follow reads messages until the pull ends, and returns the digest that Docker
// reports; "" if it reports none.
func (p *pullProgress) follow(r io.Reader) (digest string, err error) {
	var timer *time.Timer // nil without a limit
	if p.limit > 0 {
		timer = time.AfterFunc(p.limit, func() { p.cancel(fmt.Errorf("%w: no layer has changed for %v", errStalled, p.limit)) })
		defer timer.Stop()
	}
	last := map[string]pullMessage{}
	logged, start := time.Now(), time.Now()
	for d := json.NewDecoder(r); ; {
		var m pullMessage
		if err := d.Decode(&m); errors.Is(err, io.EOF) {
			return digest, nil
		} else if err != nil {
			return "", err
		}
		if message := cmp.Or(m.Detail.Message, m.Error); message != "" {
			return "", engine.ClassifyText(errors.New(message))
		}
		if d, ok := strings.CutPrefix(m.Status, "Digest: "); ok {
			digest = d
		}
		if last[m.ID] == m {
			continue // a repeated message is no progress
		}
		last[m.ID] = m
		p.count(m)
		if timer != nil {
			timer.Reset(p.limit)
		}
		if time.Since(logged) >= pullLogInterval {
			logged = time.Now()
			p.log.Info("Pulling", "layer", m.ID, "phase", m.Status, "current", m.Progress.Current, "total", m.Progress.Total, "layersDone", p.done, "layers", len(p.layers), "bytes", p.bytes, "since", time.Since(start).Round(time.Second))
		}
	}
}
