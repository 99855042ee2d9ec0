package report

import (
	_ "embed" // for the page's template and style
	"fmt"
	"html/template"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/cridock/cridock/cmd/cribench/internal/result"
)

var (
	//go:embed page.html
	pageText string
	//go:embed page.css
	pageCSS string

	page = template.Must(template.New("page").Parse(pageText))
)

// section is the table of one workload.
type section struct {
	Workload string
	Steps    []step
}

// step is the part of a table for one key.
type step struct {
	What string
	Rows []Row
}

type pagePlot struct {
	Alt  string
	SVG  template.HTML
	Wide bool
}

// HTML writes a document as one self-contained page: it includes style and plots,
// and has no scripts.
func HTML(w io.Writer, d *result.Document, baseline string) error {
	plots, err := Plots(d)
	if err != nil {
		return err
	}
	data := struct {
		Title, When, Machine, Baseline string
		CSS                            template.CSS
		Doc                            *result.Document
		Plots                          []pagePlot
		Sections                       []section
		Failed                         []string
	}{
		Title:    "cribench: " + strings.Join(d.Names(), ", "),
		When:     d.Started.UTC().Format("2 January 2006, 15:04 UTC"),
		Machine:  MachineText(d.Machine),
		Baseline: baseline, CSS: template.CSS(pageCSS), Doc: d,
		Sections: sections(Rows(d, baseline)), Failed: failed(d),
	}
	for _, p := range plots {
		// The texts of a plot are already escaped.
		data.Plots = append(data.Plots, pagePlot{Alt: p.Alt, SVG: template.HTML(sized.ReplaceAllString(p.SVG, "<svg")), Wide: p.Wide})
	}
	return page.Execute(w, data)
}

func sections(rows []Row) []section {
	var all []section
	for i, r := range rows {
		if i == 0 || rows[i-1].Workload != r.Workload {
			all = append(all, section{Workload: r.Workload})
		}
		in := &all[len(all)-1]
		if len(in.Steps) == 0 || rows[i-1].Key != r.Key {
			in.Steps = append(in.Steps, step{What: r.What()})
		}
		last := &in.Steps[len(in.Steps)-1]
		last.Rows = append(last.Rows, r)
	}
	return all
}

func failed(d *result.Document) []string {
	var all []string
	for _, s := range d.Series {
		if s.Failures > 0 {
			all = append(all, fmt.Sprintf("%s, %s, %s: %d times, last: %s", s.Target, s.Workload, describe(s.Key), s.Failures, s.LastError))
		}
	}
	return all
}

// MachineText describes a machine in one line.
func MachineText(m result.Machine) string {
	return fmt.Sprintf("%s, Linux %s, %d × %s, %.0f GiB, cgroup %s, load %.1f before and %.1f after",
		m.OS, m.Kernel, m.CPUs, m.CPU, float64(m.MemoryMiB)/1024, m.Cgroup, m.LoadBefore, m.LoadAfter)
}

// WriteAll writes the page and the plots into a directory: index.html, and
// plots/NAME.svg, which follow the reader's colour scheme as well.
func WriteAll(dir string, d *result.Document, baseline string) (err error) {
	if err := os.MkdirAll(filepath.Join(dir, "plots"), 0o755); err != nil {
		return err
	}
	var b strings.Builder
	if err := HTML(&b, d, baseline); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "index.html"), []byte(b.String()), 0o644); err != nil {
		return err
	}
	plots, err := Plots(d)
	if err != nil {
		return err
	}
	for _, p := range plots {
		if err := os.WriteFile(filepath.Join(dir, "plots", p.Name+".svg"), []byte(standalone(p)), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// standalone returns a plot as the content of a separate file, with style and
// background.
func standalone(p Plot) string {
	open, rest, _ := strings.Cut(p.SVG, ">")
	return open + "><title>" + template.HTMLEscapeString(p.Alt) + "</title><style>" + pageCSS +
		`</style><rect width="100%" height="100%"` + paint("fill", "paper") + "/>" + rest
}
