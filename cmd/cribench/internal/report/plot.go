package report

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/cridock/cridock/cmd/cribench/internal/stat"
)

// Size of a plot in points: at the width of a phone its text is as large as that of
// the page.
const (
	plotWidth, plotHeight = 380, 260
	legendHeight          = 18
)

// Colours are stand-ins that themed replaces by the page's.
var (
	inkColour  = color.RGBA{R: 1, G: 1, B: 1, A: 255}
	gridColour = color.RGBA{R: 1, G: 1, B: 2, A: 255}
)

// hues is how many targets have their own colour.
const hues = 6

func hue(i int) color.RGBA { return color.RGBA{R: 2, G: 2, B: uint8(i % hues), A: 255} }

// chart is a plot in progress.
type chart struct {
	*plot.Plot
	targets []string
	// shown is true for targets that have data in the plot.
	shown []bool
	alt   string
}

func newChart(title, y string, targets []string) *chart {
	c := &chart{Plot: plot.New(), targets: targets, shown: make([]bool, len(targets)), alt: title}
	c.Title.Text = title
	c.Y.Label.Text = y
	c.BackgroundColor = nil
	c.Title.TextStyle.Font.Size = vg.Points(13)
	c.Title.TextStyle.Color = inkColour
	c.Title.Padding = vg.Points(4)
	for _, axis := range []*plot.Axis{&c.X, &c.Y} {
		axis.Color = inkColour
		axis.Label.TextStyle.Color = inkColour
		axis.Label.TextStyle.Font.Size = vg.Points(11)
		axis.Tick.Color = inkColour
		axis.Tick.Label.Color = inkColour
		axis.Tick.Label.Font.Size = vg.Points(10)
	}
	grid := plotter.NewGrid()
	grid.Vertical.Width = 0
	grid.Vertical.Color = nil
	grid.Horizontal.Color = gridColour
	c.Add(grid)
	c.Y.Tick.Marker = linearTicks{}
	return c
}

// linearTicks are the library's ticks, without trailing zeros in labels.
type linearTicks struct{}

// Ticks implements plot.Ticker.
func (linearTicks) Ticks(low, high float64) []plot.Tick {
	ticks := plot.DefaultTicks{}.Ticks(low, high)
	for i := range ticks {
		if ticks[i].Label != "" {
			ticks[i].Label = strconv.FormatFloat(ticks[i].Value, 'g', 6, 64)
		}
	}
	return ticks
}

// decadeTicks are labelled powers of ten, both ends included, with unlabelled ticks
// at their multiples from 2 to 9.
type decadeTicks struct{}

// Ticks implements plot.Ticker.
func (decadeTicks) Ticks(low, high float64) []plot.Tick {
	var ticks []plot.Tick
	first, last := int(math.Round(math.Log10(low))), int(math.Round(math.Log10(high)))
	for e := first; e <= last; e++ {
		decade := math.Pow10(e)
		ticks = append(ticks, plot.Tick{Value: decade, Label: strconv.FormatFloat(decade, 'f', -1, 64)})
		for n := 2; n < 10 && e < last; n++ {
			ticks = append(ticks, plot.Tick{Value: float64(n) * decade})
		}
	}
	return ticks
}

// svg draws the chart below a row with the targets' names and colours.
func (c *chart) svg() (string, error) {
	canvas := vgsvg.New(plotWidth, plotHeight)
	area := draw.New(canvas)
	c.Draw(draw.Crop(area, 0, -vg.Points(4), 0, -legendHeight))
	c.legend(area)
	var b bytes.Buffer
	if _, err := canvas.WriteTo(&b); err != nil {
		return "", err
	}
	_, svg, ok := strings.Cut(b.String(), "<svg ")
	if !ok {
		return "", fmt.Errorf("the plot %q is not SVG", c.alt)
	}
	return themed("<svg " + svg), nil
}

// legendWidening allows for readers whose font is wider than the one that the library
// measures with.
const legendWidening = 1.25

func (c *chart) legend(area draw.Canvas) {
	style := c.X.Tick.Label
	style.XAlign, style.YAlign = draw.XLeft, draw.YCenter
	const mark, gap = 8, 5
	y := area.Max.Y - legendHeight/2
	x := area.Min.X + gap
	for i, name := range c.targets {
		if !c.shown[i] {
			continue
		}
		area.FillPolygon(hue(i), []vg.Point{{X: x, Y: y - mark/2}, {X: x + mark, Y: y - mark/2}, {X: x + mark, Y: y + mark/2}, {X: x, Y: y + mark/2}})
		x += mark + gap
		area.FillText(style, vg.Point{X: x, Y: y}, name)
		x += style.Width(name)*legendWidening + 2*gap
	}
}

// boxes draws distributions: for each group one box per target, with all samples
// as points. samples is by group and target; empty ones are left out.
func boxes(title, unit string, groups, targets []string, samples [][][]float64) (string, error) {
	scale, name := axisUnit(unit, samples)
	c := newChart(title, name, targets)
	rng := rand.New(rand.NewPCG(1, 1)) // the same drawing each time
	slot := 0.8 / float64(len(targets))
	for g := range groups {
		for t := range targets {
			if len(samples[g][t]) == 0 {
				continue
			}
			c.shown[t] = true
			x := float64(g) - 0.4 + slot*(float64(t)+0.5)
			if err := c.box(x, slot, hue(t), scaled(samples[g][t], scale), rng); err != nil {
				return "", err
			}
		}
	}
	c.NominalX(groups...)
	c.X.Min, c.X.Max = -0.5, float64(len(groups))-0.5
	c.X.Width, c.X.Tick.Length = 0, 0
	c.Y.Min = 0
	return c.svg()
}

// box draws quartiles and median, and the samples as points.
func (c *chart) box(x, slot float64, colour color.Color, values plotter.Values, rng *rand.Rand) error {
	points := make(plotter.XYs, len(values))
	for i, v := range values {
		points[i] = plotter.XY{X: x + slot*0.5*(rng.Float64()-0.5), Y: v}
	}
	cloud, err := plotter.NewScatter(points)
	if err != nil {
		return err
	}
	cloud.GlyphStyle = draw.GlyphStyle{Color: colour, Radius: vg.Points(1.5), Shape: draw.CircleGlyph{}}
	bar := func(from, to, width float64) error {
		line, err := plotter.NewLine(plotter.XYs{{X: x, Y: from}, {X: x, Y: to}})
		if err != nil {
			return err
		}
		line.LineStyle = draw.LineStyle{Color: colour, Width: vg.Points(width)}
		c.Add(line)
		return nil
	}
	c.Add(cloud)
	if err := bar(stat.Quantile(values, 0.25), stat.Quantile(values, 0.75), min(max(3, 60*slot), 14)); err != nil {
		return err
	}
	return c.medianMark(x, slot, stat.Median(values))
}

func (c *chart) medianMark(x, slot, y float64) error {
	mark, err := plotter.NewLine(plotter.XYs{{X: x - slot*0.35, Y: y}, {X: x + slot*0.35, Y: y}})
	if err != nil {
		return err
	}
	mark.LineStyle = draw.LineStyle{Color: inkColour, Width: vg.Points(1.5)}
	c.Add(mark)
	return nil
}

// curves are medians by level.
type curves struct {
	title, x, unit string
	levels         []int
	targets        []string
	samples        [][][]float64 // by level and target
	// logarithmic makes the vertical axis logarithmic if all values are above 0.
	logarithmic bool
}

// draw draws the curves, with a bar between the quartiles.
func (l curves) draw() (string, error) {
	scale, name := axisUnit(l.unit, l.samples)
	c := newChart(l.title, name, l.targets)
	c.X.Label.Text = l.x
	ticks := make([]plot.Tick, len(l.levels))
	for i, l := range l.levels {
		ticks[i] = plot.Tick{Value: float64(l), Label: fmt.Sprint(l)}
	}
	c.X.Tick.Marker = plot.ConstantTicks(ticks)
	lowest := math.Inf(1)
	for t := range l.targets {
		low, err := c.line(t, l.levels, l.samples, scale)
		if err != nil {
			return "", err
		}
		lowest = min(lowest, low)
	}
	if l.logarithmic && lowest > 0 && c.Y.Max > c.Y.Min {
		// With whole decades there is always a labelled tick.
		c.Y.Min, c.Y.Max = math.Pow(10, math.Floor(math.Log10(lowest))), math.Pow(10, math.Ceil(math.Log10(c.Y.Max)))
		c.Y.Scale, c.Y.Tick.Marker = plot.LogScale{}, decadeTicks{}
	} else {
		c.Y.Min = min(0, c.Y.Min)
	}
	return c.svg()
}

// line draws one target and returns its lowest value.
func (c *chart) line(t int, levels []int, samples [][][]float64, scale float64) (lowest float64, err error) {
	lowest = math.Inf(1)
	var medians plotter.XYs
	for l, level := range levels {
		values := scaled(samples[l][t], scale)
		if len(values) == 0 {
			continue
		}
		medians = append(medians, plotter.XY{X: float64(level), Y: stat.Median(values)})
		low, high := stat.Quantile(values, 0.25), stat.Quantile(values, 0.75)
		lowest = min(lowest, low)
		spread, err := plotter.NewLine(plotter.XYs{{X: float64(level), Y: low}, {X: float64(level), Y: high}})
		if err != nil {
			return 0, err
		}
		spread.LineStyle = draw.LineStyle{Color: hue(t), Width: vg.Points(4)}
		c.Add(spread)
	}
	if len(medians) == 0 {
		return lowest, nil
	}
	c.shown[t] = true
	line, points, err := plotter.NewLinePoints(medians)
	if err != nil {
		return 0, err
	}
	line.LineStyle = draw.LineStyle{Color: hue(t), Width: vg.Points(1.5)}
	points.GlyphStyle = draw.GlyphStyle{Color: hue(t), Radius: vg.Points(2.5), Shape: draw.CircleGlyph{}}
	c.Add(line, points)
	return lowest, nil
}

func scaled(values []float64, by float64) plotter.Values {
	out := make(plotter.Values, len(values))
	for i, v := range values {
		out[i] = v * by
	}
	return out
}

// axisUnit returns the factor for values and the unit of the results.
func axisUnit(unit string, samples [][][]float64) (float64, string) {
	if unit != "s" {
		return 1, unit
	}
	largest := 0.0
	for _, group := range samples {
		for _, values := range group {
			if len(values) > 0 {
				largest = max(largest, stat.Median(values))
			}
		}
	}
	if largest < 2 {
		return 1e3, "ms"
	}
	return 1, "s"
}
