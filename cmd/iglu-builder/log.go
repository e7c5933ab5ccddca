package main

import (
	"github.com/spf13/cobra"

	"iglu.sh/builder/internal/buildclient"
)

func logCommand() *cobra.Command {
	var (
		options buildclient.Options
		log     buildclient.KeptLog
	)
	command := &cobra.Command{
		Use:   "log [flags] JOB [DERIVATION]",
		Short: "Show the kept log of a job, or of one of its derivations",
		Long: `Log shows the log of a job that runs or has ended, or the whole log of one derivation that the
job has built.
JOB is the id in the first line of the job's log. DERIVATION is a name, such as hello-2.12, the
hash before the name in its store path, or that path.`,
		Example: `  iglu-builder log 2k5q3xn7plkugqbsfzu5x36zqa
  iglu-builder log --follow 2k5q3xn7plkugqbsfzu5x36zqa
  iglu-builder log --url builder:3000 2k5q3xn7plkugqbsfzu5x36zqa hello-2.12`,
		Args: func(command *cobra.Command, args []string) error {
			if err := arguments(1, 2, giveJob, "give the id of one job, and one derivation")(command, args); err != nil {
				return err
			}
			return checkJobID(args[0])
		},
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(command *cobra.Command, args []string) error {
			if err := readClient(command, &options); err != nil {
				return err
			}
			log.Job = args[0]
			if len(args) > 1 {
				log.Derivation = args[1]
			}
			ctx, stop := untilInterrupted(command.Context())
			defer stop()
			return ofText(ctx, buildclient.ShowLog(ctx, options, log))
		},
	}
	flags := command.Flags()
	addBuilderFlags(flags)
	flags.BoolVar(&log.Follow, "follow", false, "continue until the job, or the build of the derivation, has ended")
	return command
}
