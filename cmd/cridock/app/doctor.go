package app

import (
	"github.com/spf13/cobra"

	"github.com/cridock/cridock/cmd/cridock/doctor"
)

// doctorSettings returns the settings that the checks of the node need.
func (o *Options) doctorSettings(cmd *cobra.Command) (doctor.Settings, error) {
	if err := o.Complete(cmd.Flags()); err != nil {
		return doctor.Settings{}, err
	}
	if err := o.Validate(); err != nil {
		return doctor.Settings{}, err
	}
	return doctor.Settings{
		Version: o.Version, Endpoint: o.Endpoint, DockerEndpoint: o.DockerEndpoint,
		RootDir: o.RootDir, RuntimeDir: o.RuntimeDir, PodLogsDir: o.PodLogsDir,
		NetworkPlugin: o.networkPlugin(), CNIConfDir: o.CNIConfDir, CNIBinDirs: o.CNIBinDirs, CNICacheDir: o.CNICacheDir,
		RegistryConfigDir: o.RegistryConfigDir,
		PodCIDR:           o.PodCIDR, SocketLink: o.SocketLink,
	}, nil
}
