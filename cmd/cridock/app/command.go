// Package app is the cridock process: its command line, configuration files and
// directories, and the wiring of its parts. cmd/cridock is only a call of Main.
//
// To run cridock inside another program, fill in Options and call Run, add
// NewCommand's command to that program's own, or replace cri-dockerd's command with
// NewDockerCRICommand's. The program must run as root on the node, and only one
// cridock can serve an engine.
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
// standard error, and returns the exit status. version is what cridock calls itself;
// empty for the module's version. A process whose name is cri-dockerd serves on
// cri-dockerd's socket by default.
func Main(version string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	o := NewOptions()
	o.Version = version
	o.OwnProcess = true
	o.adopt(os.Args[0])
	err := newCommand(o).ExecuteContext(ctx)
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

// NewCommand returns the command line for use in another program. Without a
// subcommand, it serves, as it does with serve, until the context of its execution
// ends. It handles no signals, takes no part in systemd's protocols, and reads only
// the configuration files that its flags name. version is as in Main.
func NewCommand(version string) *cobra.Command {
	o := NewOptions()
	o.Version = version
	o.configDir = ""
	return newCommand(o)
}

// NewDockerCRICommand returns a command to use instead of cri-dockerd's in a program
// that contains it, such as k3s: it takes cri-dockerd's flags, has its default socket,
// and serves until stop is closed or the context of its execution ends. Otherwise it
// is as NewCommand's, without subcommands. A nil stop never ends it.
func NewDockerCRICommand(stop <-chan struct{}) *cobra.Command {
	o := NewOptions()
	o.configDir = ""
	o.adopt(criDockerd)
	o.Version = currentBuild("").Version
	cmd := serveCommand(o, criDockerd)
	serve := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx, cancel := context.WithCancel(cmd.Context())
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			select {
			case <-stop:
				cancel()
			case <-ctx.Done():
			}
		}()
		defer func() { cancel(); <-stopped }()
		cmd.SetContext(ctx)
		return serve(cmd, args)
	}
	o.AddFlags(cmd.Flags())
	return cmd
}

func newCommand(o *Options) *cobra.Command {
	build := currentBuild(o.Version)
	o.Version = build.Version
	root := serveCommand(o, "cridock")
	serve := &cobra.Command{
		Use:   "serve",
		Short: "Serve the CRI (the default)",
		Args:  cobra.NoArgs,
		RunE:  root.RunE,
	}
	o.AddFlags(root.PersistentFlags())
	root.AddCommand(
		serve, newConfigCommand(o), newVersionCommand(build), newStatusCommand(o),
		doctor.NewCommand(o.doctorSettings), o.migrateCommand(), runtimeCommand(o),
	)
	return root
}

// serveCommand returns the command that serves the CRI, without its settings' flags.
func serveCommand(o *Options, name string) *cobra.Command {
	var build bool
	cmd := &cobra.Command{
		Use:           name,
		Short:         "cridock runs Kubernetes pods on Docker Engine: a CRI v1 server",
		Version:       o.Version,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if build {
				return currentBuild(o.Version).text(cmd.OutOrStdout())
			}
			stop := o.catchReloads()
			defer stop()
			if err := o.Complete(cmd.Flags()); err != nil {
				return err
			}
			return Run(cmd.Context(), o)
		},
	}
	cmd.SetVersionTemplate("cridock {{.Version}}\n")
	cmd.Flags().BoolVar(&build, "buildinfo", false, "print how cridock was built")
	return cmd
}
