package result

import "slices"

// Timeline shows where the time of a pod start goes at one target, as medians over
// pods. Times are in seconds.
type Timeline struct {
	Target string `json:"target"`
	// Pods is how many pods were started.
	Pods int `json:"pods"`
	// Spans are in the order of their starts.
	Spans  []Span  `json:"spans"`
	Shares []Share `json:"shares"`
}

// Kinds of spans.
const (
	KindCall   = "CRI call"
	KindDocker = "Docker call"
	KindCNI    = "CNI"
	KindStep   = "step"
	// KindEvent is a moment: its duration is 0.
	KindEvent = "event"
)

// Kinds lists the kinds in the order of a legend.
var Kinds = []string{KindCall, KindDocker, KindCNI, KindStep, KindEvent}

// Span is one part of a pod start.
type Span struct {
	// Call is the CRI call that the span belongs to.
	Call string `json:"call"`
	Kind string `json:"kind"`
	Name string `json:"name"`
	// Pods is how many pods have the span.
	Pods int `json:"pods"`
	// Start is since the start of the pod.
	Start       float64 `json:"start"`
	Duration    float64 `json:"duration"`
	DurationP99 float64 `json:"durationP99"`
}

// Share is how the time of one CRI call, or of all of them, is divided. Docker and CNI
// may overlap; Rest is what neither covers.
type Share struct {
	Call   string  `json:"call"`
	Total  float64 `json:"total"`
	Docker float64 `json:"docker"`
	CNI    float64 `json:"cni"`
	Rest   float64 `json:"rest"`
}

// SetTimeline adds a timeline, or replaces that of the same target.
func (d *Document) SetTimeline(t Timeline) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.Timelines = slices.DeleteFunc(d.Timelines, func(old Timeline) bool { return old.Target == t.Target })
	d.Timelines = append(d.Timelines, t)
}
