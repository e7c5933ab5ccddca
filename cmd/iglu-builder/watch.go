package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"iglu.sh/builder/internal/buildclient"
	"iglu.sh/builder/internal/lazyregexp"
)

func watchCommand() *cobra.Command {
	var options buildclient.Options
	command := &cobra.Command{
		Use:   "watch [flags] ID",
		Short: "Show the log of a job that runs or has run",
		Long: `Watch shows the log of a job from its beginning until the job ends, and exits with the build's
exit code. If there is no exit code, it exits with 125 and a sentence on standard error.
Ctrl-C does not cancel the job.

The job's id is in the first line of its log and on the builder's page, and
'iglu-builder build --detach' prints it.`,
		Example: `  iglu-builder watch "$(iglu-builder build --detach examples/hello/job.json)"
  iglu-builder watch --url wss://builder.example.com q7kyhbv3gqxzt5mbnhf2wcd4ea`,
		Args:              exactlyOneJob,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(command *cobra.Command, args []string) error {
			if err := readClient(command, &options); err != nil {
				return err
			}
			ctx, stop := untilInterrupted(command.Context())
			defer stop()
			return ofJob(buildclient.Watch(ctx, options, args[0]))
		},
	}
	addClientFlags(command.Flags(), &options)
	return command
}

func cancelCommand() *cobra.Command {
	var options buildclient.Options
	command := &cobra.Command{
		Use:   "cancel [flags] ID",
		Short: "Cancel a running or waiting job",
		Long: `Cancel asks a builder to end a job, and exits without waiting for the end, which takes some
seconds. If the job does not exist or has ended, it exits with 125 and a sentence on standard error.`,
		Example:           `  iglu-builder cancel q7kyhbv3gqxzt5mbnhf2wcd4ea`,
		Args:              exactlyOneJob,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(command *cobra.Command, args []string) error {
			if err := readClient(command, &options); err != nil {
				return err
			}
			if err := buildclient.Cancel(command.Context(), options, args[0]); err != nil {
				return &exitError{buildclient.ExitClient, err}
			}
			return nil
		},
	}
	addBuilderFlags(command.Flags())
	return command
}

const giveJob = "give the id of a job"

var jobID = lazyregexp.New(`^[a-z0-9]+$`)

// exactlyOneJob returns an error unless the only argument is a job's id.
func exactlyOneJob(command *cobra.Command, args []string) error {
	if err := arguments(1, 1, giveJob, "give the id of one job")(command, args); err != nil {
		return err
	}
	return checkJobID(args[0])
}

// checkJobID returns an error unless a text has the form of a job's id.
func checkJobID(text string) error {
	if !jobID().MatchString(text) {
		return fmt.Errorf("%q is not a job's id, which has only small letters and digits", text)
	}
	return nil
}

// addBuilderFlags adds the flags with a builder's address and token.
func addBuilderFlags(flags *pflag.FlagSet) {
	flags.SortFlags = false
	flags.String("url", buildclient.DefaultURL, "`URL` of the builder, or its HOST:PORT; without this flag, the value of "+buildclient.EnvURL)
	flags.String("token-file", "", "`FILE` with the builder's token (default the value of IGLU_TOKEN_FILE)")
}

// addClientFlags adds those flags and --json.
func addClientFlags(flags *pflag.FlagSet, options *buildclient.Options) {
	addBuilderFlags(flags)
	flags.BoolVar(&options.JSON, "json", false, "print the builder's messages as they are")
}

// readClient sets a client's options from its flags and the environment.
func readClient(command *cobra.Command, options *buildclient.Options) (err error) {
	if options.URL, options.Token, err = readBuilder(command.Flags()); err != nil {
		return &exitError{buildclient.ExitClient, err}
	}
	options.Stdout, options.Stderr = command.OutOrStdout(), command.ErrOrStderr()
	options.NoColor = os.Getenv("NO_COLOR") != ""
	return nil
}

// untilInterrupted returns a context that ends with Ctrl-C or SIGTERM. A second signal ends the program, which may
// be waiting for a reader of its output.
func untilInterrupted(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}
