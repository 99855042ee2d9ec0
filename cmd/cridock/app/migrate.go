package app

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/cridock/cridock/cmd/cridock/migrate"
)

// migrateCommand returns the command migrate. Its settings are those of the node's
// service, and not of its own command line.
func (o *Options) migrateCommand() *cobra.Command {
	return migrate.NewCommand(serviceSettings, func(cmd *cobra.Command) error {
		var err error
		cmd.Flags().Visit(func(f *pflag.Flag) {
			if o.settings.Lookup(f.Name) != nil && !reloadsLog(f.Name) {
				err = errors.Join(err, fmt.Errorf("--%s: migrate takes cridock's settings from cridock.service; set it there", f.Name))
			}
		})
		return err
	})
}

// serviceSettings returns the settings of a cridock that is started with args.
func serviceSettings(args []string) (migrate.Settings, error) {
	o := NewOptions()
	f := pflag.NewFlagSet("cridock", pflag.ContinueOnError)
	f.Usage = func() {}
	o.AddFlags(f)
	if err := f.Parse(args); err != nil {
		return migrate.Settings{}, err
	}
	if rest := f.Args(); len(rest) > 1 || len(rest) == 1 && rest[0] != "serve" {
		return migrate.Settings{}, fmt.Errorf("arguments %q: want serve", rest)
	}
	if err := errors.Join(o.Complete(f), o.validLoaded()); err != nil {
		return migrate.Settings{}, err
	}
	root := o.ownDirs()[0]
	return migrate.Settings{
		Endpoint: o.Endpoint, DockerEndpoint: o.DockerEndpoint, RootDir: o.RootDir, RuntimeDir: o.RuntimeDir, PodLogsDir: o.PodLogsDir, ConfigDir: o.configDir,
		NetworkPlugin: o.networkPlugin(), CNIConfDir: o.CNIConfDir, CNIBinDirs: o.CNIBinDirs, CNICacheDir: o.CNICacheDir,
		LinkedLogs: o.LogMode == "symlink", PrepareRoot: root.prepare,
	}, nil
}
