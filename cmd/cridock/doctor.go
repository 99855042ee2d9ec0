package main

import (
	"github.com/spf13/cobra"

	"github.com/cridock/cridock/cmd/cridock/doctor"
)

// doctorSettings returns the settings that the checks of the node need.
func (o *options) doctorSettings(cmd *cobra.Command) (doctor.Settings, error) {
	if err := o.complete(cmd.Flags()); err != nil {
		return doctor.Settings{}, err
	}
	return doctor.Settings{
		Version: version, Endpoint: o.endpoint, DockerEndpoint: o.dockerEndpoint,
		RootDir: o.rootDir, RuntimeDir: o.runtimeDir, PodLogsDir: o.podLogsDir,
		NetworkPlugin: o.networkPlugin, CNIConfDir: o.cniConfDir, CNIBinDirs: o.cniBinDirs, CNICacheDir: o.cniCacheDir,
	}, nil
}
