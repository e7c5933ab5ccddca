package main

import (
	"github.com/spf13/cobra"

	"iglu.sh/builder/internal/buildclient"
)

// defaultJobs is how many jobs are listed by default, as many as on the builder's page.
const defaultJobs = 20

func jobsCommand() *cobra.Command {
	var (
		options buildclient.Options
		filter  buildclient.JobFilter
	)
	command := &cobra.Command{
		Use:   "jobs [flags]",
		Short: "List the jobs of a builder",
		Long: `Jobs lists a builder's jobs, the newest first: those that wait, run, or have ended and are still
kept. Its column STATE says waiting, running, succeeded, failed, or how the job ended otherwise, such as
cancelled: docs/protocol.md lists the ends.

'iglu-builder log' and 'iglu-builder watch' show a job of the list, and 'iglu-builder cancel' ends it.`,
		Example: `  iglu-builder jobs
  iglu-builder jobs --state unended
  iglu-builder jobs --state failed --repo https://github.com/iglu-sh/builder
  iglu-builder jobs --json | jq -r '.jobs[0].id'`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if err := readClient(command, &options); err != nil {
				return err
			}
			ctx, stop := untilInterrupted(command.Context())
			defer stop()
			return ofText(ctx, buildclient.ShowJobs(ctx, options, filter))
		},
	}
	flags := command.Flags()
	addClientFlags(flags, &options)
	flags.StringVar(&filter.State, stateFlag, "", "only jobs in this `STATE`: waiting, running, unended (both), succeeded, or failed, which includes cancelled ones")
	flags.StringVar(&filter.Repository, "repo", "", "only jobs of the repository with this `URL`, by https or ssh")
	flags.IntVar(&filter.Limit, "limit", defaultJobs, "the largest `NUMBER` of jobs to list, at most 1000")
	return command
}

// stateFlag is the flag that selects jobs by their state.
const stateFlag = "state"
