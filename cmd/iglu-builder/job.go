package main

import (
	"github.com/spf13/cobra"

	"iglu.sh/builder/internal/jobrun"
)

func jobCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "job",
		Short:  "Run the job that the environment describes, as a container's first process",
		Hidden: true,
		Args:   cobra.MaximumNArgs(1), // which the program gives itself
		RunE: func(_ *cobra.Command, args []string) error {
			return &exitError{code: jobrun.Main(args)}
		},
	}
}
