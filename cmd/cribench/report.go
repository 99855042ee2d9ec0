package main

import (
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/cridock/cridock/cmd/cribench/internal/bench"
	"github.com/cridock/cridock/cmd/cribench/internal/report"
	"github.com/cridock/cridock/cmd/cribench/internal/result"
	"github.com/cridock/cridock/cmd/cribench/internal/target"
)

func newReport() *cobra.Command {
	var output, baseline string
	cmd := &cobra.Command{
		Use:   "report results.json [-o DIR]",
		Short: "Show the results of an earlier run",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			doc, err := result.Read(args[0])
			if err != nil {
				return err
			}
			if len(doc.Targets) == 0 {
				return fmt.Errorf("%s: no targets", args[0])
			}
			if baseline == "" {
				baseline = doc.Targets[0].Name
			}
			if !slices.Contains(doc.Names(), baseline) {
				return fmt.Errorf("baseline %q: no such target; the targets are %v", baseline, doc.Names())
			}
			if err := report.Table(cmd.OutOrStdout(), doc, baseline); err != nil || output == "" {
				return err
			}
			return report.WriteAll(output, doc, baseline)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "directory for the page and the plots (default: print only a table)")
	cmd.Flags().StringVar(&baseline, "baseline", "", "target that the others are compared to (default: the first)")
	return cmd
}

func newCompare() *cobra.Command {
	var threshold float64
	var reference string
	var all bool
	cmd := &cobra.Command{
		Use:   "compare old.json new.json",
		Short: "Compare two runs; fails if the new one is worse",
		Long: `Compares the medians of two runs and fails if one is worse by more than the
threshold, with its whole 95 % interval beyond it. Other load on the machine also
changes between runs: --relative-to divides both by a target that is in both.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			older, err := result.Read(args[0])
			if err != nil {
				return err
			}
			newer, err := result.Read(args[1])
			if err != nil {
				return err
			}
			if a, b := older.Machine, newer.Machine; a.CPU != b.CPU || a.CPUs != b.CPUs || a.Kernel != b.Kernel {
				fmt.Fprintln(os.Stderr, "warning: the runs are from different machines or kernels")
			}
			worse, err := report.CompareTable(cmd.OutOrStdout(), report.Compare(older, newer, reference), threshold, all)
			if err == nil && worse > 0 {
				err = fmt.Errorf("%d worse", worse)
			}
			return err
		},
	}
	cmd.Flags().Float64Var(&threshold, "threshold", 0.05, "smallest difference that counts, as a fraction")
	cmd.Flags().StringVar(&reference, "relative-to", "", "target to divide both runs by")
	cmd.Flags().BoolVar(&all, "all", false, "also show what has not changed")
	return cmd
}

func newClean() *cobra.Command {
	var targets targetFlags
	var run string
	cmd := &cobra.Command{
		Use:   "clean --target NAME=unix:///PATH ...",
		Short: "Remove pods left by killed runs",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			var subjects []bench.Subject
			defer func() {
				if closeErr := closeAll(subjects); err == nil {
					err = closeErr
				}
			}()
			subjects, err = targets.open(target.Options{}, target.DockerSandbox{})
			if err != nil {
				return err
			}
			return cleanAll(cmd.Context(), subjects, run)
		},
	}
	targets.add(cmd.Flags())
	cmd.Flags().StringVar(&run, "run", "", "remove only the pods of this run")
	return cmd
}
