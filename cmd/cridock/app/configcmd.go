package app

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"
)

// newConfigCommand returns the command config, whose subcommands show and check the
// settings that serve would have with the same flags.
func newConfigCommand(o *Options) *cobra.Command {
	config := &cobra.Command{
		Use:   "config",
		Short: "Show or check the settings",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	config.AddCommand(
		&cobra.Command{
			Use:   "default",
			Short: "Print a configuration file with all settings at their defaults",
			Args:  cobra.NoArgs,
			RunE:  func(cmd *cobra.Command, _ []string) error { return o.writeDefaults(cmd.OutOrStdout()) },
		},
		&cobra.Command{
			Use:   "dump",
			Short: "Print the settings that serve would have, and where each is from",
			Long: `Print the settings that serve would have with the same flags, as a configuration
file, and after each where it is from: the default, a file, or a flag. A running
cridock may have older ones: see its log for those that need a restart.`,
			Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				if err := errors.Join(o.Complete(cmd.Flags()), o.validLoaded()); err != nil {
					return err
				}
				return o.writeInForce(cmd.OutOrStdout())
			},
		},
		&cobra.Command{
			Use:   "check",
			Short: "Check the settings that serve would have; the exit status is 1 if any is invalid",
			Args:  cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				if err := errors.Join(o.Complete(cmd.Flags()), o.validLoaded()); err != nil {
					return err
				}
				return o.writeChecked(cmd.OutOrStdout())
			},
		},
	)
	return config
}

// validLoaded validates the settings if Complete succeeded: its own error is enough.
func (o *Options) validLoaded() error {
	if o.loaded == nil {
		return nil
	}
	return o.Validate()
}

// eachSetting calls visit for each setting that a file can have, by name.
func (o *Options) eachSetting(visit func(*pflag.Flag) error) error {
	var err error
	o.settings.VisitAll(func(f *pflag.Flag) {
		if err == nil && !f.Hidden && !onlyOnCommandLine(f.Name) {
			err = visit(f)
		}
	})
	return err
}

func (o *Options) writeDefaults(w io.Writer) error {
	return o.eachSetting(func(f *pflag.Flag) error {
		value, err := yamlValue(f, f.DefValue)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(w, "%s%s: %s\n\n", comment(f.Usage), f.Name, value)
		return err
	})
}

func (o *Options) writeInForce(w io.Writer) error {
	return o.eachSetting(func(f *pflag.Flag) error {
		value, err := yamlValue(f, f.Value.String())
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(w, "%s: %s  # %s\n", f.Name, value, o.loaded.source(f.Name))
		return err
	})
}

// writeChecked prints which files were read, and which in their directory were not.
func (o *Options) writeChecked(w io.Writer) error {
	for _, path := range o.loaded.read {
		if _, err := fmt.Fprintf(w, "read %s\n", path); err != nil {
			return err
		}
	}
	if o.configDir != "" {
		entries, _ := os.ReadDir(o.configDir) // Complete has read it, or it is missing
		for _, entry := range entries {
			if isDropIn(entry.Name()) {
				continue
			}
			if _, err := fmt.Fprintf(w, "ignored %s: not *.yaml\n", filepath.Join(o.configDir, entry.Name())); err != nil {
				return err
			}
		}
	}
	_, err := fmt.Fprintln(w, "the settings are valid")
	return err
}

// yamlValue returns a flag's value, as String or DefValue has it, as YAML on one line.
func yamlValue(f *pflag.Flag, text string) (string, error) {
	switch f.Value.Type() {
	case "bool", "int", "Level":
		return text, nil
	case "stringSlice":
		return yamlList(strings.TrimSuffix(strings.TrimPrefix(text, "["), "]"))
	case "patterns":
		return yamlList(text)
	}
	b, err := yaml.Marshal(text)
	return strings.TrimSpace(string(b)), err
}

func yamlList(text string) (string, error) {
	parts := []string{}
	if text != "" {
		parts = strings.Split(text, ",")
	}
	b, err := json.Marshal(parts)
	return string(b), err
}

// comment wraps text in lines of a YAML comment.
func comment(text string) string {
	const width = 78
	var lines strings.Builder
	line := "#"
	for word := range strings.FieldsSeq(text) {
		if len(line)+1+len(word) > width && line != "#" {
			lines.WriteString(line + "\n")
			line = "#"
		}
		line += " " + word
	}
	return lines.String() + line + "\n"
}
