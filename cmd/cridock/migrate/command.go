package migrate

import (
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/cridock/cridock/shim/engine"
)

// NewCommand returns the command migrate. load returns the settings of a cridock with
// these arguments; refuse is called with the command first.
func NewCommand(load func(args []string) (Settings, error), refuse func(*cobra.Command) error) *cobra.Command {
	var r Request
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Move this node from cri-dockerd or dockershim to cridock, or back; pods keep running",
		Long: `Move this node from cri-dockerd or the kubelet's dockershim to cridock, or back,
while its pods keep running. cridock must be installed, with its unit
cridock.service and its settings, and must not run.

It shows its steps and asks before it begins: it stops the kubelet and the old
adapter, changes the kubelet's flags and configuration, starts cridock, waits
until cridock lists all pods, compares them with those before, and starts the
kubelet. If a step fails, or the command is interrupted, it undoes all. If it is
killed, --resume finishes the migration, and --back undoes it. --back also goes
back later: keep the root directory until then.

It stops no pod. It needs root and systemd.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := refuse(cmd); err != nil {
				return err
			}
			// A terminal that is closed interrupts the command, too; SIGPIPE must not
			// end it without undoing anything.
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGHUP)
			defer stop()
			signal.Ignore(syscall.SIGPIPE)
			defer signal.Reset(syscall.SIGPIPE)
			h := NewHost(cmd.InOrStdin(), cmd.OutOrStdout())
			h.Load = load
			h.Docker = func(endpoint string) (Engine, error) { return engine.New(endpoint, nil) }
			return Run(ctx, h, r)
		},
	}
	cmd.Flags().StringVar(&r.From, "from", "", "what the node runs on: "+FromCRIDockerd+" or "+FromDockershim)
	cmd.Flags().BoolVar(&r.Back, "back", false, "undo a migration, interrupted or complete")
	cmd.Flags().BoolVar(&r.Resume, "resume", false, "finish an interrupted migration")
	cmd.Flags().BoolVar(&r.DryRun, "dry-run", false, "show the steps, and change nothing")
	cmd.Flags().BoolVarP(&r.Yes, "yes", "y", false, "do not ask")
	return cmd
}
