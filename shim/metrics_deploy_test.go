package shim

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/yaml"
)

// described returns the labels of each metric that cridock can export, whether it
// has a value yet or not.
func described() map[string][]string {
	descriptions := make(chan *prometheus.Desc)
	go func() {
		defer close(descriptions)
		NewMetrics().registry.Describe(descriptions)
		for _, c := range (&Service{}).gauges() {
			c.Describe(descriptions)
		}
	}()
	// A Desc shows its parts only as text.
	text := regexp.MustCompile(`^Desc\{fqName: "([^"]+)".*variableLabels: \{([^}]*)\}`)
	metrics := map[string][]string{"up": {}} // "up" is Prometheus's own
	for d := range descriptions {
		if m := text.FindStringSubmatch(d.String()); m != nil {
			metrics[m[1]] = strings.FieldsFunc(m[2], func(r rune) bool { return r == ',' })
		}
	}
	return metrics
}

// ruleExpressions returns the expressions of the alerts, by their names.
func ruleExpressions(t *testing.T, path string) map[string]string {
	t.Helper()
	var file struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	content, err := os.ReadFile(filepath.Clean(path))
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(content, &file); err != nil {
		t.Fatal(err)
	}
	expressions := map[string]string{}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			expressions[r.Alert] = r.Expr
		}
	}
	return expressions
}

// panelExpressions returns the expressions of a dashboard, by their panels' titles,
// and the query of its variable.
func panelExpressions(t *testing.T, path string) map[string]string {
	t.Helper()
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
		Templating struct {
			List []struct{ Type, Name, Query string }
		}
	}
	content, err := os.ReadFile(filepath.Clean(path))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(content, &dashboard); err != nil {
		t.Fatal(err)
	}
	expressions := map[string]string{}
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			expressions[p.Title] += target.Expr + "\n"
		}
	}
	for _, v := range dashboard.Templating.List {
		if v.Type == "query" {
			expressions["variable "+v.Name] = v.Query
		}
	}
	return expressions
}

var (
	// metricName matches by prefix: no function, keyword or label has these.
	metricName = regexp.MustCompile(`\b(?:up|(?:cridock|process|go)_[a-z0-9_]+)\b`)
	selector   = regexp.MustCompile(`([a-z0-9_]+)\{([^}]*)\}`)
	grouping   = regexp.MustCompile(`by \(([^)]*)\)`)
	matcher    = regexp.MustCompile(`([a-z_]+)\s*(?:=~|!~|!=|=)\s*"`)
)

// checkExpression reports metrics and labels that do not exist.
func checkExpression(t *testing.T, metrics map[string][]string, where, expression string) {
	t.Helper()
	known := map[string]bool{"job": true, "instance": true} // Prometheus adds them
	names := metricName.FindAllString(expression, -1)
	if len(names) == 0 {
		t.Errorf("%s names no metric: %s", where, expression)
	}
	for _, name := range names {
		labels, ok := lookup(metrics, name)
		if !ok {
			t.Errorf("%s: cridock has no metric %s", where, name)
		}
		for _, l := range labels {
			known[l] = true
		}
	}
	for _, m := range selector.FindAllStringSubmatch(expression, -1) {
		labels, _ := lookup(metrics, m[1])
		for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
			if l[1] != "job" && l[1] != "instance" && !slices.Contains(labels, l[1]) {
				t.Errorf("%s: %s has no label %s", where, m[1], l[1])
			}
		}
	}
	for _, m := range grouping.FindAllStringSubmatch(expression, -1) {
		for _, l := range strings.Split(m[1], ",") {
			if l = strings.TrimSpace(l); !known[l] {
				t.Errorf("%s groups by %s, which none of its metrics has", where, l)
			}
		}
	}
}

// lookup returns a metric's labels; of a histogram's series those of the histogram.
func lookup(metrics map[string][]string, name string) (labels []string, ok bool) {
	if labels, ok = metrics[name]; ok {
		return labels, true
	}
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		base, cut := strings.CutSuffix(name, suffix)
		if labels, ok = metrics[base]; cut && ok && strings.HasSuffix(base, "_seconds") {
			if suffix == "_bucket" {
				labels = append([]string{"le"}, labels...)
			}
			return labels, true
		}
	}
	return nil, false
}

// TestDeployedMetrics: the alerts and the dashboard use metrics and labels that
// cridock exports, and the dashboard shows all of cridock's own.
func TestDeployedMetrics(t *testing.T) {
	metrics := described()
	for alert, expression := range ruleExpressions(t, "../deploy/prometheus/cridock.rules.yaml") {
		checkExpression(t, metrics, "alert "+alert, expression)
	}
	shown := ""
	for panel, expression := range panelExpressions(t, "../deploy/grafana/cridock.json") {
		checkExpression(t, metrics, "panel "+panel, expression)
		shown += expression
	}
	for name := range metrics {
		if strings.HasPrefix(name, "cridock_") && !strings.Contains(shown, name) {
			t.Errorf("the dashboard does not show %s", name)
		}
	}
}

// TestCheckExpression: the check above can fail.
func TestCheckExpression(t *testing.T) {
	metrics := described()
	if labels, ok := lookup(metrics, "cridock_rpc_duration_seconds_bucket"); !ok || strings.Join(labels, " ") != "le method code" {
		t.Errorf("the labels of a histogram's buckets are %q, %v", labels, ok)
	}
	for _, name := range []string{"cridock_rpc_duration_seconds_total", "cridock_index_images_count", "cridock_rpc"} {
		if _, ok := lookup(metrics, name); ok {
			t.Errorf("%s is found, and does not exist", name)
		}
	}
}
