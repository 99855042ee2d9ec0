// Package progress shows the progress of a long run: as a bar on a terminal, else as
// a line for each stage. It measures nothing.
package progress

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// Reporter shows stages, one after the other, and the steps of the current one. It
// is not safe for concurrent use.
type Reporter interface {
	// Stage begins a stage with a number of steps and ends the one before.
	Stage(title string, steps int)
	// Step marks one step of the stage as done.
	Step()
	// Close ends the last stage.
	Close()
}

// New returns a bar if the file is a terminal, and plain lines otherwise.
func New(f *os.File) Reporter {
	if term.IsTerminal(int(f.Fd())) {
		return &bar{w: f}
	}
	return Lines(f)
}

// Lines returns a reporter that prints a line when a stage ends: its title, steps and
// time.
func Lines(w io.Writer) Reporter { return &lines{w: w} }

type lines struct {
	w     io.Writer
	title string
	done  int
	steps int
	began time.Time
}

func (l *lines) Stage(title string, steps int) {
	l.Close()
	*l = lines{w: l.w, title: title, steps: steps, began: time.Now()}
}

func (l *lines) Step() { l.done++ }

func (l *lines) Close() {
	if l.title != "" {
		fmt.Fprintf(l.w, "%s: %d of %d in %.1fs\n", l.title, l.done, l.steps, time.Since(l.began).Seconds())
	}
	l.title = ""
}

type bar struct {
	w   io.Writer
	bar *progressbar.ProgressBar
}

func (b *bar) Stage(title string, steps int) {
	b.Close()
	b.bar = progressbar.NewOptions(steps,
		progressbar.OptionSetWriter(b.w),
		progressbar.OptionSetDescription(fmt.Sprintf("%-28s", title)),
		progressbar.OptionSetWidth(24),
		progressbar.OptionShowCount(),
		progressbar.OptionSetPredictTime(true),
		progressbar.OptionSetTheme(progressbar.ThemeUnicode),
	)
	_ = b.bar.RenderBlank() // a bar that cannot be drawn is no reason to stop
}

func (b *bar) Step() {
	if b.bar != nil {
		_ = b.bar.Add(1) // likewise
	}
}

func (b *bar) Close() {
	if b.bar != nil {
		_ = b.bar.Exit() // likewise
		fmt.Fprintln(b.w)
	}
	b.bar = nil
}
