package main

import (
	"github.com/spf13/cobra"

	"iglu.sh/builder/internal/jobrun"
)

func jobCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "job",
		Short:  "Run the job in the environment variables, as the first process of a container",
		Hidden: true,
		Args:   cobra.MaximumNArgs(1), // the program starts itself with an argument
		RunE: func(_ *cobra.Command, args []string) error {
			return &exitError{code: jobrun.Main(args)}
		},
	}
}
