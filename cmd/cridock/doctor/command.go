package doctor

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/cridock/cridock/shim/engine"
)

// Exit is an error that stands for an exit status and needs no message.
type Exit int

func (e Exit) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// The exit statuses. 1 is any error of the command line or the settings.
const (
	ExitWarning Exit = 2
	ExitError   Exit = 3
)

// NewCommand returns the command doctor. settings returns those of the process,
// after it has read the configuration file. If a check finds something, the
// command's error is an Exit.
func NewCommand(settings func(*cobra.Command) (Settings, error)) *cobra.Command {
	var output, daemonConfig string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check the node, its Docker Engine, CNI and kubelet; changes nothing",
		Long: `Check the node, its Docker Engine, CNI and kubelet, before and after cridock
runs on it. It changes nothing. Give it the same --config and flags as the service
has. The exit status is 0 if all is well, 2 with warnings, 3 with errors.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("output %q: want text or json", output)
			}
			s, err := settings(cmd)
			if err != nil {
				return err
			}
			s.DaemonConfig = daemonConfig
			docker, err := engine.New(s.DockerEndpoint, nil)
			if err != nil {
				return err
			}
			defer func() { _ = docker.Close() }()
			return write(cmd, output, Run(cmd.Context(), s, docker))
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	cmd.Flags().StringVar(&daemonConfig, "daemon-config", "/etc/docker/daemon.json", "Docker's configuration file")
	return cmd
}

// write prints the report and returns its exit status.
func write(cmd *cobra.Command, output string, r Report) error {
	var err error
	if output == "json" {
		encoder := json.NewEncoder(cmd.OutOrStdout())
		encoder.SetIndent("", "  ")
		encoder.SetEscapeHTML(false)
		err = encoder.Encode(r)
	} else {
		err = r.Text(cmd.OutOrStdout())
	}
	switch {
	case err != nil:
		return err
	case r.State == Error:
		return ExitError
	case r.State == Warning:
		return ExitWarning
	}
	return nil
}
