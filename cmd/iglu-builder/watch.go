package main

import (
	"context"
	"errors"
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
		Long: `Watch shows the log of a job from its beginning, goes on as long as the job does, and exits with
the build's exit code. It exits with 125, and a sentence on standard error, where there is no
such code. Ctrl-C ends the watching only: the job goes on.

The first line of each job's log, the builder's page and 'iglu-builder build --detach' say what
the job's id is.`,
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
			code, err := buildclient.Watch(ctx, options, args[0])
			if ctx.Err() != nil {
				return &exitError{exitInterrupted, errors.New("the job goes on; 'iglu-builder cancel " + args[0] + "' ends it")}
			}
			if err != nil || code != 0 {
				return &exitError{code, err}
			}
			return nil
		},
	}
	addClientFlags(command.Flags(), &options)
	return command
}

func cancelCommand() *cobra.Command {
	var options buildclient.Options
	command := &cobra.Command{
		Use:   "cancel [flags] ID",
		Short: "Cancel a job that runs or waits",
		Long: `Cancel has a builder end a job. It returns at once; the job ends within some seconds. It exits with
125, and a sentence on standard error, if there is no such job or it does not run any more.`,
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

var jobID = lazyregexp.New(`^[a-z0-9]+$`)

// exactlyOneJob reports whether the arguments are a job's id.
func exactlyOneJob(command *cobra.Command, args []string) error {
	if err := cobra.ExactArgs(1)(command, args); err != nil {
		return err
	}
	if !jobID().MatchString(args[0]) {
		return fmt.Errorf("%q is not a job's id: that is letters and digits", args[0])
	}
	return nil
}

// addBuilderFlags adds the flags that say which builder is meant.
func addBuilderFlags(flags *pflag.FlagSet) {
	flags.SortFlags = false
	flags.String("url", buildclient.DefaultURL, "`URL` of the builder, or its HOST:PORT; without this flag, the value of "+buildclient.EnvURL)
	flags.String("token-file", "", "`FILE` with the builder's token (default the value of IGLU_TOKEN_FILE)")
}

// addClientFlags adds those flags, and one that says how a job is shown.
func addClientFlags(flags *pflag.FlagSet, options *buildclient.Options) {
	addBuilderFlags(flags)
	flags.BoolVar(&options.JSON, "json", false, "print the builder's messages as they are")
}

// readClient completes a client's options with what its flags and the environment say.
func readClient(command *cobra.Command, options *buildclient.Options) (err error) {
	if options.URL, options.Token, err = readBuilder(command.Flags()); err != nil {
		return &exitError{buildclient.ExitClient, err}
	}
	options.Stdout, options.Stderr = command.OutOrStdout(), command.ErrOrStderr()
	options.NoColor = os.Getenv("NO_COLOR") != ""
	return nil
}

// untilInterrupted returns a context that ends when somebody presses Ctrl-C.
func untilInterrupted(ctx context.Context) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
}
