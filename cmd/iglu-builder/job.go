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
		Args:   cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return &exitError{code: jobrun.Main()}
		},
	}
}
