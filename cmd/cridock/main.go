// Command cridock serves the Kubernetes Container Runtime Interface on top of
// Docker Engine.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"
)

// version is set at build time.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := newCommand().ExecuteContext(ctx)
	stop()
	klog.Flush()
	if err != nil {
		fmt.Fprintln(os.Stderr, "cridock:", err)
		os.Exit(1)
	}
}

// newCommand returns the command line. Without a subcommand, cridock serves.
func newCommand() *cobra.Command {
	o := &options{}
	root := &cobra.Command{
		Use:           "cridock",
		Short:         "cridock runs Kubernetes pods on Docker Engine: a CRI v1 server",
		Version:       version,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(cmd *cobra.Command, _ []string) error { return serve(cmd, o) },
	}
	serveCommand := &cobra.Command{
		Use:   "serve",
		Short: "Serve the CRI (the default)",
		Args:  cobra.NoArgs,
		RunE:  root.RunE,
	}
	o.addFlags(root.PersistentFlags())
	root.AddCommand(serveCommand, runtimeCommand())
	return root
}
