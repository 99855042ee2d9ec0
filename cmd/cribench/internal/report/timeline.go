package report

import (
	"fmt"
	"html"
	"io"
	"math"
	"strings"
	"text/tabwriter"

	"github.com/cridock/cridock/cmd/cribench/internal/result"
)

// Geometry of a timeline in points: names on the left, times on the right of the bars.
const (
	lineWidth  = 760
	lineHeight = 16
	barLeft    = 225
	barRight   = 640
	headHeight = 66
	legendStep = 110 // wide enough for the longest kind in any font
)

// kindColours are the colours of bars and events by kind.
var kindColours = map[string]string{
	result.KindCall: "ink", result.KindDocker: "hue0", result.KindCNI: "hue1", result.KindStep: "hue2", result.KindEvent: "hue3",
}

// timelinePlot draws a timeline: a row for each span, below them how the time of each
// call is divided.
func timelinePlot(t result.Timeline) Plot {
	title := fmt.Sprintf("Start of a pod on %s: medians of %d", t.Target, t.Pods)
	d := &timelineDrawing{end: end(t)}
	height := headHeight + lineHeight*(len(t.Spans)+len(t.Shares)+2)
	fmt.Fprintf(&d.b, `<svg width="%dpt" height="%dpt" viewBox="0 0 %[1]d %[2]d" xmlns="http://www.w3.org/2000/svg" font-family="%s" font-size="10">`+"\n", lineWidth, height, fontFamily)
	fmt.Fprintf(&d.b, `<text x="8" y="18" font-size="13"%s>%s</text>`+"\n", paint("fill", "ink"), html.EscapeString(title))
	d.legend(t)
	d.axis(headHeight + lineHeight*len(t.Spans))
	y := headHeight
	for _, s := range t.Spans {
		d.row(s, y)
		y += lineHeight
	}
	y += lineHeight
	for _, s := range t.Shares {
		d.text(8, y+11, s.Call)
		d.text(barLeft, y+11, shareText(s))
		y += lineHeight
	}
	d.b.WriteString("</svg>\n")
	return Plot{Name: plotName("timeline " + t.Target), Alt: title, SVG: d.b.String(), Wide: true}
}

// end returns the end of the last call: what goes on after it does not delay a pod.
func end(t result.Timeline) float64 {
	last := 0.0
	for _, s := range t.Spans {
		if s.Kind == result.KindCall || s.Kind == result.KindEvent {
			last = max(last, s.Start+s.Duration)
		}
	}
	if last == 0 {
		return 1
	}
	return last
}

type timelineDrawing struct {
	b   strings.Builder
	end float64 // seconds at the right edge
}

func (d *timelineDrawing) x(seconds float64) float64 {
	return barLeft + (barRight-barLeft)*min(seconds/d.end, 1)
}

func (d *timelineDrawing) text(x, y int, text string) {
	fmt.Fprintf(&d.b, `<text x="%d" y="%d"%s>%s</text>`+"\n", x, y, paint("fill", "ink"), html.EscapeString(text))
}

func (d *timelineDrawing) legend(t result.Timeline) {
	shown := map[string]bool{}
	for _, s := range t.Spans {
		shown[s.Kind] = true
	}
	x := 8
	for _, kind := range result.Kinds {
		if !shown[kind] {
			continue
		}
		d.mark(kind, float64(x+4), 36)
		d.text(x+14, 39, kind)
		x += legendStep
	}
}

// mark draws the sign of a kind with its centre at a point: a diamond for an event, a
// square for others.
func (d *timelineDrawing) mark(kind string, x, y float64) {
	colour := paint("fill", kindColours[kind])
	if kind == result.KindEvent {
		fmt.Fprintf(&d.b, `<path d="M%.1f,%.1f l4,4 l-4,4 l-4,-4 z"%s/>`+"\n", x, y-4, colour)
		return
	}
	fmt.Fprintf(&d.b, `<rect x="%.1f" y="%.1f" width="8" height="8"%s/>`+"\n", x-4, y-4, colour)
}

// axis draws vertical lines with their times, down to bottom.
func (d *timelineDrawing) axis(bottom int) {
	step := tickStep(d.end * 1e3)
	for ms := 0.0; ms <= d.end*1e3; ms += step {
		x := d.x(ms / 1e3)
		fmt.Fprintf(&d.b, `<path d="M%.1f,%d V%d" stroke-width="0.5"%s/>`, x, headHeight-6, bottom, paint("stroke", "grid"))
		fmt.Fprintf(&d.b, `<text x="%.1f" y="%d" text-anchor="middle"%s>%g</text>`+"\n", x, headHeight-9, paint("fill", "ink"), ms)
	}
	d.text(barLeft-28, headHeight-9, "ms")
}

// tickStep returns a round step that divides a length into four to ten parts.
func tickStep(length float64) float64 {
	decade := math.Pow10(int(math.Floor(math.Log10(length))))
	for _, step := range []float64{decade / 10, decade / 5, decade / 2, decade, 2 * decade} {
		if length/step <= 10 {
			return step
		}
	}
	return decade
}

func (d *timelineDrawing) row(s result.Span, y int) {
	indent := 8
	if s.Kind != result.KindCall {
		indent = 20
	}
	d.text(indent, y+11, s.Name)
	if s.Kind == result.KindEvent {
		d.mark(s.Kind, d.x(s.Start), float64(y+8))
		d.text(barRight+8, y+11, "at "+format(s.Start, result.Seconds))
		return
	}
	from, to := d.x(s.Start), d.x(s.Start+s.Duration)
	fmt.Fprintf(&d.b, `<rect x="%.1f" y="%d" width="%.1f" height="10"%s/>`+"\n", from, y+3, max(to-from, 1), paint("fill", kindColours[s.Kind]))
	d.text(barRight+8, y+11, format(s.Start, result.Seconds)+" + "+format(s.Duration, result.Seconds))
}

func shareText(s result.Share) string {
	of := func(v float64) string { return format(v, result.Seconds) }
	text := fmt.Sprintf("%s: Docker %s", of(s.Total), of(s.Docker))
	if s.CNI > 0 {
		text += ", CNI " + of(s.CNI)
	}
	return text + ", neither of them " + of(s.Rest)
}

// TimelineTable writes a timeline as text.
func TimelineTable(w io.Writer, timeline result.Timeline) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "START OF A POD ON %s, MEDIANS OF %d\tKIND\tAT\tTAKES\tP99\n", timeline.Target, timeline.Pods)
	for _, s := range timeline.Spans {
		name, takes, p99 := s.Name, "", ""
		if s.Kind != result.KindCall {
			name = "  " + name
		}
		if s.Kind != result.KindEvent {
			takes, p99 = format(s.Duration, result.Seconds), format(s.DurationP99, result.Seconds)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", name, s.Kind, format(s.Start, result.Seconds), takes, p99)
	}
	for _, s := range timeline.Shares {
		fmt.Fprintf(t, "%s\t%s\n", s.Call, shareText(s))
	}
	return t.Flush()
}
