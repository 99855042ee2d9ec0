// Package doctor checks whether a node is fit for cridock: the Docker Engine and its
// configuration, the kernel, CNI, the kubelet, other adapters, what pods have left
// behind, and cridock itself if it runs.
//
// It never changes anything on the node, and waits only a few seconds for whatever
// does not answer.
package doctor

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// State is the outcome of a check.
type State string

// The states, from good to bad. A check is skipped if it does not apply to these
// settings or if what it needs is missing, which is then another check's error.
const (
	Skipped State = "skipped"
	OK      State = "ok"
	Warning State = "warning"
	Error   State = "error"
)

// severity orders states; skipped is as good as ok.
func (s State) severity() int {
	switch s {
	case Error:
		return 2
	case Warning:
		return 1
	default:
		return 0
	}
}

// Result is what one check found.
type Result struct {
	// Check is the name of the check.
	Check string `json:"check"`
	State State  `json:"state"`
	// Why is one sentence about what was found.
	Why string `json:"why"`
	// Cure is one sentence about what to do; only for warnings and errors.
	Cure string `json:"cure,omitempty"`
}

// Report has the results of all checks, in a fixed order.
type Report struct {
	// Version is that of the cridock that made the report.
	Version string `json:"version"`
	// State is the worst of the results: ok, warning or error.
	State   State    `json:"state"`
	Results []Result `json:"results"`
}

// Check is one question about the node.
type Check struct {
	// Name is short, and unique among the checks.
	Name string
	// run must not change anything and must not write to n. It may leave
	// Result.Check empty.
	run func(ctx context.Context, n *node) Result
	// needsEngine: without capabilities the check is skipped.
	needsEngine bool
	// needsCNI: the check is skipped with another network plugin.
	needsCNI bool
}

// checkTimeout bounds each check, and each look at the node before them.
const checkTimeout = 10 * time.Second

// Checks returns all checks in the order of the report.
func Checks() []Check {
	var all []Check
	for _, group := range [][]Check{engineChecks, daemonChecks, imageChecks, kernelChecks, networkChecks, kubeletChecks, nodeChecks, leftoverChecks} {
		all = append(all, group...)
	}
	return all
}

// Run runs all checks, most of them in parallel, and returns after at most some
// seconds even if a check hangs.
func Run(ctx context.Context, s Settings, e Engine) Report {
	return examine(ctx, newNode(s, e))
}

func examine(ctx context.Context, n *node) Report {
	n.look(ctx)
	checks := Checks()
	pending := make([]chan Result, len(checks))
	for i, c := range checks {
		pending[i] = make(chan Result, 1)
		go func() { pending[i] <- c.result(ctx, n) }()
	}
	report := Report{Version: n.Version, State: OK}
	for i := range checks {
		r := <-pending[i]
		if r.State.severity() > report.State.severity() {
			report.State = r.State
		}
		report.Results = append(report.Results, r)
	}
	return report
}

// result runs the check for at most checkTimeout. A check that hangs longer, as in
// a system call on a dead file system, is left to the end of the process.
func (c Check) result(ctx context.Context, n *node) Result {
	ctx, cancel := context.WithTimeout(ctx, n.limit)
	defer cancel()
	r, err := bounded(ctx, func() Result { return c.applied(ctx, n) })
	if err != nil {
		r = failure("Look for a program or file system that hangs.", "The check did not finish within %v.", n.limit)
	}
	r.Check = c.Name
	return r
}

func (c Check) applied(ctx context.Context, n *node) Result {
	switch {
	case c.needsEngine && n.caps == nil:
		return skipped("Docker does not answer.")
	case c.needsCNI && n.NetworkPlugin != pluginCNI:
		return skipped("The setting network-plugin is %s.", n.NetworkPlugin)
	}
	return c.run(ctx, n)
}

// bounded returns f's result, or the context's error if it ends earlier; f then
// goes on alone.
func bounded[T any](ctx context.Context, f func() T) (T, error) {
	done := make(chan T, 1)
	go func() { done <- f() }()
	select {
	case v := <-done:
		return v, nil
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	}
}

func ok(why string, args ...any) Result      { return found(OK, "", why, args) }
func skipped(why string, args ...any) Result { return found(Skipped, "", why, args) }

func warning(cure, why string, args ...any) Result { return found(Warning, cure, why, args) }
func failure(cure, why string, args ...any) Result { return found(Error, cure, why, args) }

// unknown is the result if something could not be read; the last argument is the
// error. Wrong content is another matter.
func unknown(why string, args ...any) Result {
	return warning("Run this command as root on the node.", why, args...)
}

// worst returns the worst of the results, of which there must be one. If there are
// several of them, it has all their reasons and cures.
func worst(results []Result) Result {
	all := Result{State: Skipped}
	var whys, cures []string
	for _, r := range results {
		if r.State.severity() > all.State.severity() {
			whys, cures = nil, nil
		} else if r.State.severity() < all.State.severity() {
			continue
		}
		if all.State != OK || r.State != Skipped {
			all.State = r.State
		}
		whys = append(whys, r.Why)
		if r.Cure != "" && !slices.Contains(cures, r.Cure) {
			cures = append(cures, r.Cure)
		}
	}
	all.Why, all.Cure = strings.Join(whys, " "), strings.Join(cures, " ")
	return all
}

// found makes a result. A reason ends with one full stop, although messages from
// elsewhere may end with their own.
func found(s State, cure, why string, args []any) Result {
	text := strings.TrimRight(fmt.Sprintf(why, args...), ". \n")
	text = strings.ReplaceAll(text, "\n", "; ") // of joined errors
	if !strings.HasSuffix(text, "?") && !strings.HasSuffix(text, "!") {
		text += "."
	}
	return Result{State: s, Why: text, Cure: cure}
}

// Count returns the number of results in a state.
func (r Report) Count(s State) int {
	count := 0
	for _, result := range r.Results {
		if result.State == s {
			count++
		}
	}
	return count
}

// Text writes the report for people: a line for each check, and below it the cure.
// Text from the node is printed without control characters.
func (r Report) Text(w io.Writer) error {
	var b strings.Builder
	for _, result := range r.Results {
		fmt.Fprintf(&b, "%-8s %-22s %s\n", result.State, result.Check, Printable(result.Why))
		if result.Cure != "" {
			fmt.Fprintf(&b, "%-8s %-22s -> %s\n", "", "", Printable(result.Cure))
		}
	}
	fmt.Fprintf(&b, "\n%d ok, %d skipped, %d warnings, %d errors\n", r.Count(OK), r.Count(Skipped), r.Count(Warning), r.Count(Error))
	_, err := io.WriteString(w, b.String())
	return err
}

// Printable returns text without what could move the cursor or end the line.
func Printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
}
