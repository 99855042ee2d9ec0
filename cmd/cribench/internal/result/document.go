package result

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"
)

// Schema is the version of the JSON document that this package writes and reads.
const Schema = 1

// Units of series. For all of them, less is better.
const (
	Seconds = "s"
	MiB     = "MiB"
	// CPUPerSecond is milliseconds of CPU time per second.
	CPUPerSecond = "ms/s"
	// CPUPerCall is milliseconds of CPU time per call.
	CPUPerCall = "ms/call"
	// CPUPerPod is milliseconds of CPU time per pod.
	CPUPerPod = "ms/pod"
	// Percent is a share of 100.
	Percent = "%"
)

// Document is one run.
type Document struct {
	Schema   int       `json:"schema"`
	Run      string    `json:"run"`
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished"`
	Machine  Machine   `json:"machine"`
	// Settings are the flags of the run by name.
	Settings map[string]string `json:"settings"`
	Targets  []Target          `json:"targets"`
	Series   []*Series         `json:"series"`
	// Timelines are of targets whose pod starts were traced.
	Timelines []Timeline `json:"timelines,omitempty"`
	// Notes tell readers what they must know about the numbers.
	Notes []string `json:"notes,omitempty"`

	mu sync.Mutex
}

// Target describes one measured target.
type Target struct {
	Name     string `json:"name"`
	Endpoint string `json:"endpoint"`
	Runtime  string `json:"runtime"`
	Version  string `json:"version"`
	// Processes are the processes whose CPU time and memory are measured, as
	// "name" or "name ×n", found before the first pod.
	Processes []string `json:"processes,omitempty"`
}

// Key identifies what a series measures.
type Key struct {
	// Workload is a group of steps, such as "pod start".
	Workload string `json:"workload"`
	Step     string `json:"step"`
	// Level is a number that depends on the workload, such as pods in parallel or
	// existing containers; 0 if the workload has none.
	Level int    `json:"level,omitempty"`
	Unit  string `json:"unit"`
}

// Series holds the samples of one key at one target.
type Series struct {
	Key
	Target  string    `json:"target"`
	Samples []float64 `json:"samples"`
	// Failures counts measurements that failed and have no sample.
	Failures  int    `json:"failures,omitempty"`
	LastError string `json:"lastError,omitempty"`
}

// Add appends a sample. Safe for concurrent use.
func (d *Document) Add(target string, key Key, value float64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.series(target, key)
	s.Samples = append(s.Samples, value)
}

// Fail counts a failed measurement. Safe for concurrent use.
func (d *Document) Fail(target string, key Key, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.series(target, key)
	s.Failures++
	s.LastError = err.Error()
}

// Note appends a note, once. Safe for concurrent use.
func (d *Document) Note(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if note := fmt.Sprintf(format, args...); !slices.Contains(d.Notes, note) {
		d.Notes = append(d.Notes, note)
	}
}

func (d *Document) series(target string, key Key) *Series {
	if s := d.Find(target, key); s != nil {
		return s
	}
	s := &Series{Key: key, Target: target}
	d.Series = append(d.Series, s)
	return s
}

// Find returns a target's series; nil if there is none.
func (d *Document) Find(target string, key Key) *Series {
	for _, s := range d.Series {
		if s.Target == target && s.Key == key {
			return s
		}
	}
	return nil
}

// Keys returns the keys of all series in the order in which they were first measured,
// with the levels of a step together.
func (d *Document) Keys() []Key {
	var keys []Key
	for _, s := range d.Series {
		if slices.Contains(keys, s.Key) {
			continue
		}
		at := len(keys)
		for i, k := range keys {
			if k.Workload == s.Workload && k.Step == s.Step && k.Unit == s.Unit {
				at = i + 1
			}
		}
		keys = slices.Insert(keys, at, s.Key)
	}
	return groupWorkloads(keys)
}

// groupWorkloads puts the keys of each workload together, in the order of each
// workload's first key.
func groupWorkloads(keys []Key) []Key {
	var order []string
	for _, k := range keys {
		if !slices.Contains(order, k.Workload) {
			order = append(order, k.Workload)
		}
	}
	slices.SortStableFunc(keys, func(a, b Key) int {
		return slices.Index(order, a.Workload) - slices.Index(order, b.Workload)
	})
	return keys
}

// Names returns the names of the targets, in order.
func (d *Document) Names() []string {
	names := make([]string, len(d.Targets))
	for i, t := range d.Targets {
		names[i] = t.Name
	}
	return names
}

// Write writes the document to a file as JSON, replacing it.
func (d *Document) Write(path string) error {
	b, err := json.MarshalIndent(d, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

// Read reads a document. Another schema is an error.
func Read(path string) (*Document, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	d := &Document{}
	if err := json.Unmarshal(b, d); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if d.Schema != Schema {
		return nil, fmt.Errorf("%s: schema %d, but this cribench reads schema %d", path, d.Schema, Schema)
	}
	return d, nil
}
