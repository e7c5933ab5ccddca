package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"iglu.sh/builder/internal/buildclient"
	"iglu.sh/builder/internal/server"
)

func serveCommand() *cobra.Command {
	var s server.Settings
	command := &cobra.Command{
		Use:   "serve",
		Short: "Run the builder's server",
		Long: `Serve accepts jobs on the WebSocket endpoint /api/v1/build and runs each in a container.

Every flag is an environment variable as well: --job-image is IGLU_JOB_IMAGE. If both are
set, the flag is used. If neither is set, LOG_LEVEL and JSON_LOGGING of the Iglu stack are used for
--log-level and --log-format. DOCKER_HOST and the other variables of Docker's clients select the
container engine.

On SIGTERM or Ctrl-C it accepts no more jobs, gives running jobs the time --shutdown-grace,
then cancels them, and exits with 0. A second signal cancels them immediately.`,
		Args: cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if err := server.ApplyEnviron(command.Flags()); err != nil {
				return &exitError{exitUsage, err}
			}
			log := s.Logger(command.ErrOrStderr())
			server.WarnUnknown(os.Environ(), []string{buildclient.EnvURL, buildclient.EnvGitKey}, log)
			first, second, stop := onSignals(command.Context())
			defer stop()
			if err := server.Serve(first, second, s, selfProgram, buildInfo(), log); err != nil {
				return &exitError{1, err}
			}
			return nil
		},
	}
	s.Register(command.Flags())
	return command
}

// selfProgram is the running program, even if its file has been replaced.
const selfProgram = "/proc/self/exe"

// onSignals returns a context that ends with the first signal to stop, and one that ends with the second.
func onSignals(ctx context.Context) (first, second context.Context, stop func()) {
	first, endFirst := context.WithCancel(ctx)
	second, endSecond := context.WithCancel(ctx)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range signals {
			if first.Err() != nil {
				endSecond()
			}
			endFirst()
		}
	}()
	return first, second, func() {
		signal.Stop(signals)
		close(signals)
		<-done
		endFirst()
		endSecond()
	}
}
