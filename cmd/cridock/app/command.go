// Package app is the cridock process: its command line, configuration file and
// directories, and the wiring of its parts. cmd/cridock is only a call of Main.
//
// To run cridock inside another program, fill in Options and call Run, or add
// NewCommand's command to that program's own. The program must run as root on the
// node, and only one cridock can serve an engine.
//
// It never decides anything about pods: that is what shim does.
package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"github.com/cridock/cridock/cmd/cridock/doctor"
)

// Main runs the process's command line until SIGTERM or SIGINT, prints an error to
// standard error, and returns the exit status. version is what cridock calls itself.
func Main(version string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := NewCommand(version).ExecuteContext(ctx)
	stop()
	klog.Flush()
	var exit doctor.Exit
	if errors.As(err, &exit) {
		return int(exit)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "cridock:", err)
		return 1
	}
	return 0
}

// NewCommand returns the command line. Without a subcommand, it serves, as it does
// with serve, until the context of its execution ends.
func NewCommand(version string) *cobra.Command {
	o := NewOptions()
	o.Version = version
	root := &cobra.Command{
		Use:           "cridock",
		Short:         "cridock runs Kubernetes pods on Docker Engine: a CRI v1 server",
		Version:       version,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.Complete(cmd.Flags()); err != nil {
				return err
			}
			return Run(cmd.Context(), o)
		},
	}
	serve := &cobra.Command{
		Use:   "serve",
		Short: "Serve the CRI (the default)",
		Args:  cobra.NoArgs,
		RunE:  root.RunE,
	}
	o.AddFlags(root.PersistentFlags())
	root.AddCommand(serve, doctor.NewCommand(o.doctorSettings), runtimeCommand())
	return root
}
