package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"iglu.sh/builder/internal/buildclient"
	"iglu.sh/builder/internal/server"
)

// exitInterrupted is the exit code after Ctrl-C, the same as that of shells.
const exitInterrupted = 130

func buildCommand() *cobra.Command {
	var (
		options buildclient.Options
		job     buildclient.JobFlags
		detach  bool
	)
	command := &cobra.Command{
		Use:   "build [flags] [JOB.json]",
		Short: "Send a job to a builder and show its log",
		Long: `Build sends a job to a builder, shows its log, and exits with the build's exit code. Ctrl-C
cancels the job. If there is no exit code, it exits with 125 and a sentence on standard error.

A file ("-" is standard input) or flags describe the job. Secrets are never flags, because other
users of the machine could read them. They are read from files, or from the variables
IGLU_GIT_KEY, CACHIX_AUTH_TOKEN and CACHIX_SIGNING_KEY.

On a terminal, a line below the log shows the job's progress, and a summary shows its result.
Otherwise standard output has only the log's lines, and standard error has a line about the job's
progress every 30 s. NO_COLOR removes all colours, also from the log. --colors keeps them in
the log even if it is not shown on a terminal.

With --detach it prints the job's id and exits, and the job continues. 'iglu-builder watch'
shows its log, and 'iglu-builder cancel' ends it.`,
		Example: `  iglu-builder build --repo https://github.com/iglu-sh/builder
  iglu-builder build --command 'nix build nixpkgs#hello --print-build-logs --print-out-paths'
  iglu-builder build --repo https://git.example.com/app --branch main --git-key-file token \
    --command 'nix build .#app --print-build-logs --print-out-paths' \
    --push-to https://cache.example.com/default --api-key-file api-key --signing-key-file key
  iglu-builder build --repo https://github.com/iglu-sh/builder --access-token-file github.com=token
  iglu-builder build --url wss://builder.example.com examples/hello/job.json
  IGLU_URL=builder:3000 iglu-builder build examples/hello/job.json
  iglu-builder build --json - < job.json | jq .event
  iglu-builder build --wait --detach examples/hello/job.json`,
		Args: arguments(0, 1, "", "give one file with a job, or flags; a command with spaces is put into quotes"),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return []string{"json"}, cobra.ShellCompDirectiveFilterFileExt
		},
		RunE: func(command *cobra.Command, args []string) (err error) {
			if err := readClient(command, &options); err != nil {
				return err
			}
			if options.Job, err = readJob(args, &job, command.InOrStdin()); err != nil {
				return &exitError{buildclient.ExitClient, err}
			}
			options.FromFlags = len(args) == 0
			ctx, stop := untilInterrupted(command.Context())
			defer stop()
			send := buildclient.Submit
			if detach {
				send = detachJob
			}
			return ofJob(send(ctx, options))
		},
	}
	flags := command.Flags()
	addClientFlags(flags, &options)
	flags.BoolVar(&options.Wait, "wait", false, "try again while the builder has no free slot for the job")
	flags.BoolVar(&detach, "detach", false, "print the job's id and exit; the job continues")
	job.Register(flags)
	return command
}

// ofJob returns the error of a command that ends with the exit code of a build, or nil.
func ofJob(code int, err error) error {
	if _, ok := errors.AsType[buildclient.Interrupted](err); ok {
		code = exitInterrupted
	}
	if err != nil || code != 0 {
		return &exitError{code, err}
	}
	return nil
}

// ofText returns the error of a command that prints a text of the builder, or nil. err is why that has failed.
func ofText(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return &exitError{code: exitInterrupted}
	case err != nil:
		return &exitError{buildclient.ExitClient, err}
	}
	return nil
}

// readBuilder returns the builder's address and token from flags, or from the environment if they are not
// set. Its errors contain the name of the flag or of the variable.
func readBuilder(flags *pflag.FlagSet) (address *url.URL, token string, err error) {
	name, text := setting(flags, "url", buildclient.EnvURL)
	if address, err = buildclient.ParseAddress(text); err != nil {
		return nil, "", fmt.Errorf("%s: %w", name, err)
	}
	token, err = server.ReadToken(setting(flags, "token-file", server.EnvName("token-file")))
	return address, token, err
}

// setting returns the value of a flag or, if the flag is not set and the variable is not empty, of the
// variable. The name is that of the flag or of the variable.
func setting(flags *pflag.FlagSet, flag, variable string) (name, value string) {
	if value := os.Getenv(variable); value != "" && !flags.Changed(flag) {
		return variable, value
	}
	return "--" + flag, flags.Lookup(flag).Value.String()
}

// readJob returns the message that describes the job: the content of the file in the arguments, or a
// message that is made from the flags.
func readJob(args []string, flags *buildclient.JobFlags, stdin io.Reader) ([]byte, error) {
	switch {
	case len(args) == 0:
		return flags.Job()
	case flags.Given():
		return nil, errors.New("a file and flags both describe a job\nhint: use only one of them")
	case args[0] == "-":
		text, err := io.ReadAll(stdin)
		return buildclient.WithoutMark(text), err
	}
	text, err := os.ReadFile(args[0])
	return buildclient.WithoutMark(text), err
}

// detachJob sends a job and prints its id or, with the option JSON, the builder's whole answer.
func detachJob(ctx context.Context, o buildclient.Options) (code int, err error) {
	id, answer, err := buildclient.Detach(ctx, o)
	if err != nil {
		return buildclient.ExitClient, err
	}
	text := id
	if o.JSON {
		text = string(answer)
	}
	if _, err := fmt.Fprintln(o.Stdout, text); err != nil {
		return buildclient.ExitClient, fmt.Errorf("the job %s was started, but its id cannot be printed: %w", id, err)
	}
	return 0, nil
}
