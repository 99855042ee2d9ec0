//go:build ignore

// Command manpages writes cridock's manual pages and shell completions, from its
// command line. hack/release.sh runs it with a module file of its own: what cobra
// needs for manual pages is no dependency of cridock.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra/doc"

	"github.com/cridock/cridock/cmd/cridock/app"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: manpages DIRECTORY VERSION")
		os.Exit(2)
	}
	if err := write(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "manpages:", err)
		os.Exit(1)
	}
}

// write makes DIR/man/*.8 and DIR/completions/cridock.{bash,zsh,fish}. The pages'
// date is SOURCE_DATE_EPOCH.
func write(dir, version string) error {
	man, completions := filepath.Join(dir, "man"), filepath.Join(dir, "completions")
	for _, d := range []string{man, completions} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	root := app.NewCommand(version)
	root.DisableAutoGenTag = true
	header := &doc.GenManHeader{Section: "8", Source: "cridock " + version, Manual: "System Administration"}
	if err := doc.GenManTree(root, header, man); err != nil {
		return err
	}
	if err := root.GenBashCompletionFileV2(filepath.Join(completions, "cridock.bash"), true); err != nil {
		return err
	}
	if err := root.GenZshCompletionFile(filepath.Join(completions, "cridock.zsh")); err != nil {
		return err
	}
	return root.GenFishCompletionFile(filepath.Join(completions, "cridock.fish"), true)
}
