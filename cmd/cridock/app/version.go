package app

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

const (
	// devVersion is the version of a build that does not say which it is.
	devVersion = "dev"
	modulePath = "github.com/cridock/cridock"
)

// buildInfo describes the program.
type buildInfo struct {
	Version   string `json:"version"`
	GitCommit string `json:"gitCommit,omitempty"` // with "-dirty" if the tree was changed
	GitTime   string `json:"gitTime,omitempty"`   // RFC 3339
	GoVersion string `json:"goVersion"`
	Platform  string `json:"platform"`
	CRI       string `json:"criVersion"`
}

// newBuildInfo returns the description of a build with this version, set at build
// time, and what Go's linker recorded. Without a version, as with "go install", the
// module's counts, also if cridock is part of another program.
func newBuildInfo(version string, recorded *debug.BuildInfo) buildInfo {
	b := buildInfo{Version: version, GoVersion: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, CRI: "v1"}
	if recorded == nil {
		recorded = &debug.BuildInfo{}
	}
	if b.Version == "" || b.Version == devVersion {
		b.Version = moduleVersion(recorded)
	}
	if recorded.Main.Path != modulePath {
		return b // the revision is another repository's
	}
	dirty := ""
	for _, s := range recorded.Settings {
		switch s.Key {
		case "vcs.revision":
			b.GitCommit = s.Value
		case "vcs.time":
			b.GitTime = s.Value
		case "vcs.modified":
			if s.Value == "true" {
				dirty = "-dirty"
			}
		}
	}
	if b.GitCommit != "" {
		b.GitCommit += dirty
	}
	return b
}

func moduleVersion(recorded *debug.BuildInfo) string {
	for _, module := range append(recorded.Deps, &recorded.Main) {
		if module.Path != modulePath {
			continue
		}
		if module.Replace != nil {
			module = module.Replace
		}
		if module.Version != "" && module.Version != "(devel)" {
			return module.Version
		}
	}
	return devVersion
}

// currentBuild describes this program.
func currentBuild(version string) buildInfo {
	recorded, _ := debug.ReadBuildInfo() // nil without modules
	return newBuildInfo(version, recorded)
}

// text writes the description in the form of cri-dockerd's --buildinfo.
func (b buildInfo) text(w io.Writer) error {
	_, err := fmt.Fprintf(w, "Program: cridock\nVersion: %s\nGitCommit: %s\nGo version: %s\nPlatform: %s\nCRI: %s\n",
		b.Version, strings.TrimSpace(b.GitCommit+" "+b.GitTime), b.GoVersion, b.Platform, b.CRI)
	return err
}

func newVersionCommand(b buildInfo) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print cridock's version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch output {
			case "text":
				return b.text(cmd.OutOrStdout())
			case "json":
				encoder := json.NewEncoder(cmd.OutOrStdout())
				encoder.SetIndent("", "  ")
				return encoder.Encode(b)
			}
			return fmt.Errorf("output %q: want text or json", output)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	return cmd
}
