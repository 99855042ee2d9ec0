package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cridock/cridock/cmd/cridock/doctor"
	"github.com/cridock/cridock/shim"
	"github.com/cridock/cridock/shim/engine"
)

const (
	// statusTimeout bounds the wait for an answer. It exceeds what the server allows
	// the CNI plugins that it asks.
	statusTimeout = 30 * time.Second
	// exitUnhealthy and exitNoAnswer are exit statuses of cridock status.
	exitUnhealthy doctor.Exit = 1
	exitNoAnswer  doctor.Exit = 2
)

// The states of a statusReport.
const (
	stateHealthy   = "healthy"
	stateUnhealthy = "unhealthy"
)

// statusReport is what cridock status prints. Its JSON is stable: fields may be added,
// but do not change.
type statusReport struct {
	// State is healthy if the kubelet would take the node for ready: RuntimeReady and
	// NetworkReady are true.
	State        string               `json:"state"`
	Conditions   []statusCondition    `json:"conditions"`
	Deprecations []engine.Deprecation `json:"deprecations"` // not nil
	shim.Activity
}

// statusCondition is a condition of the CRI's Status.
type statusCondition struct {
	Type    string `json:"type"`
	Status  bool   `json:"status"`
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
}

func newStatusCommand(o *Options) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show what the running cridock knows and does: pods, logs, Docker, operations",
		Long: `Show what the running cridock knows and does: its connection to Docker, pods,
containers, logs, operations in progress and streaming sessions. It asks cridock on
its CRI socket, and cridock answers from memory, also while Docker is away. Give it
the same --config and flags as the service has.

The exit status is 0 if RuntimeReady and NetworkReady are true, 1 if one of them is
not, and 2 if there is no answer.`,
		Args: func(cmd *cobra.Command, args []string) error { return noAnswer(cmd, cobra.NoArgs(cmd, args)) },
		RunE: func(cmd *cobra.Command, _ []string) error {
			report, err := o.status(cmd, output)
			if err == nil {
				err = report.write(cmd.OutOrStdout(), output)
			}
			if err != nil {
				return noAnswer(cmd, err)
			}
			if report.State != stateHealthy {
				return exitUnhealthy
			}
			return nil
		},
	}
	cmd.SetFlagErrorFunc(noAnswer)
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}

// noAnswer prints an error and returns its exit status: 1, that of other commands'
// errors, has another meaning here.
func noAnswer(cmd *cobra.Command, err error) error {
	if err == nil {
		return nil
	}
	cmd.PrintErrln("cridock:", err)
	return exitNoAnswer
}

// status asks the cridock that runs with these settings.
func (o *Options) status(cmd *cobra.Command, output string) (*statusReport, error) {
	if output != "text" && output != "json" {
		return nil, fmt.Errorf("output %q: want text or json", output)
	}
	settings, err := o.doctorSettings(cmd)
	if err != nil {
		return nil, err
	}
	socket := doctor.SocketPath(settings)
	if socket == "" {
		return nil, errors.New("systemd passes the socket, and no unit of cridock says where it is; give its path as --container-runtime-endpoint")
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), statusTimeout)
	defer cancel()
	report, err := askStatus(ctx, socket)
	if err != nil {
		return nil, fmt.Errorf("ask the server on %s: %w", socket, err)
	}
	return report, nil
}

// askStatus asks the cridock that serves a socket.
func askStatus(ctx context.Context, socket string) (*statusReport, error) {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	r, err := runtimeapi.NewRuntimeServiceClient(conn).Status(ctx, &runtimeapi.StatusRequest{Verbose: true})
	if err != nil {
		return nil, err
	}
	return newStatusReport(r)
}

// newStatusReport reads a verbose response.
func newStatusReport(r *runtimeapi.StatusResponse) (*statusReport, error) {
	activity, ok := r.GetInfo()[shim.ActivityInfo]
	if !ok {
		return nil, errors.New("it is not cridock, or an older one that does not report this")
	}
	report := &statusReport{State: stateHealthy, Deprecations: []engine.Deprecation{}}
	if err := json.Unmarshal([]byte(activity), &report.Activity); err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	if list, ok := r.GetInfo()[shim.DeprecationsInfo]; ok {
		if err := json.Unmarshal([]byte(list), &report.Deprecations); err != nil {
			return nil, fmt.Errorf("read the answer: %w", err)
		}
	}
	needed := map[string]bool{runtimeapi.RuntimeReady: false, runtimeapi.NetworkReady: false}
	for _, c := range r.GetStatus().GetConditions() {
		report.Conditions = append(report.Conditions, statusCondition{Type: c.Type, Status: c.Status, Reason: c.Reason, Message: c.Message})
		if _, ok := needed[c.Type]; ok {
			needed[c.Type] = c.Status
		}
	}
	for _, ready := range needed {
		if !ready {
			report.State = stateUnhealthy
		}
	}
	return report, nil
}

func (r *statusReport) write(w io.Writer, output string) error {
	if output == "json" {
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		encoder.SetEscapeHTML(false)
		return encoder.Encode(r)
	}
	return r.text(w)
}

// text writes the report for people.
func (r *statusReport) text(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		_, _ = fmt.Fprintf(table, "%s\t%s\n", name, doctor.Printable(fmt.Sprintf(format, args...))) // Flush returns the error
	}
	row("state", "%s", r.State)
	row("cridock", "%s, running for %s", r.Version, ago(r.Time, r.Started))
	r.dockerText(row)
	for _, c := range r.Conditions {
		if !c.Status {
			row("condition", "%s is false: %s: %s", c.Type, c.Reason, c.Message)
		}
	}
	row("pods", "%d ready, %d not ready", r.Pods.Ready, r.Pods.NotReady)
	row("containers", "%d running, %d created, %d exited, %d unknown", r.Containers.Running, r.Containers.Created, r.Containers.Exited, r.Containers.Unknown)
	r.logsText(row)
	row("sessions", "%d exec, %d attach, %d port-forward", r.Sessions["exec"], r.Sessions["attach"], r.Sessions["portforward"])
	for _, d := range r.Deprecations {
		row("deprecated", "%s %s", d.Why, d.Cure)
	}
	row("operations", "%s", r.operationCounts())
	for _, op := range r.Operations {
		row("", "%s %s, for %s", op.Kind, op.Object, ago(r.Time, op.Since))
	}
	return table.Flush()
}

func (r *statusReport) dockerText(row func(name, format string, args ...any)) {
	d := r.Docker
	state := "not connected"
	if d.Connected {
		state = "connected"
	}
	version := ""
	if d.EngineVersion != "" {
		version = fmt.Sprintf("%s (API %s), ", d.EngineVersion, d.APIVersion)
	}
	row("docker", "%s%s for %s", version, state, ago(r.Time, d.Since))
	if d.LastErrorTime != nil {
		row("", "last error, %s ago: %s", ago(r.Time, *d.LastErrorTime), d.LastError)
	}
}

func (r *statusReport) logsText(row func(name, format string, args ...any)) {
	l := r.Logs
	row("logs", "%d followed, %s behind, %d failing", l.Followed, units.BytesSize(float64(l.LagBytes)), l.Troubled)
	if l.MostBehind != "" {
		row("", "most behind: container %s, %s", l.MostBehind, units.BytesSize(float64(l.MostBehindBytes)))
	}
	if l.Streamed > 0 {
		row("", "%d read through Docker's API, whose lag is unknown", l.Streamed)
	}
}

// operationCounts returns how many operations of each kind there are.
func (r *statusReport) operationCounts() string {
	counts := map[string]int{}
	var kinds []string
	for _, op := range r.Operations {
		if counts[op.Kind] == 0 {
			kinds = append(kinds, op.Kind)
		}
		counts[op.Kind]++
	}
	if len(kinds) == 0 {
		return "none"
	}
	slices.Sort(kinds)
	parts := make([]string, len(kinds))
	for i, kind := range kinds {
		parts[i] = fmt.Sprintf("%d %s", counts[kind], kind)
	}
	return strings.Join(parts, ", ")
}

// ago returns the time from then to now, to the second.
func ago(now, then time.Time) string { return max(0, now.Sub(then)).Round(time.Second).String() }
