// Iglu-builder builds Nix derivations in containers, for clients
// that connect to its WebSocket. See README.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"iglu.sh/builder/internal/buildclient"
	"iglu.sh/builder/internal/jobenv"
	"iglu.sh/builder/internal/jobrun"
)

func main() {
	// Git runs the program under this name, with its question.
	if filepath.Base(os.Args[0]) == jobenv.Askpass && len(os.Args) == 2 {
		os.Exit(jobrun.Askpass(os.Args[1]))
	}
	os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// exitError is an error with the exit code that it ends the program with.
type exitError struct {
	code int
	err  error // nil: all has been said
}

func (e *exitError) Error() string { return fmt.Sprint(e.err) }

func (e *exitError) Unwrap() error { return e.err }

// run runs one command line and returns its exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := &cobra.Command{
		Use:           "iglu-builder",
		Short:         "Build Nix derivations in containers and push them to a cache",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(commands()...)
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)

	command, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	exit, ok := errors.AsType[*exitError](err)
	if !ok { // cobra's own: the words of the command line are off
		exit = &exitError{code: usageCode(command), err: fmt.Errorf("%w\nhint: see '%s --help'", err, command.CommandPath())}
	}
	if exit.err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", command.CommandPath(), exit.err)
	}
	return exit.code
}

// commands returns the program's commands, without those that the library adds.
func commands() []*cobra.Command {
	return []*cobra.Command{
		serveCommand(), buildCommand(), watchCommand(), cancelCommand(), logCommand(), jobCommand(), cleanupCommand(),
		storesCommand(), agentCommand(), healthcheckCommand(), versionCommand(),
	}
}

// exitUsage is the exit code for a command line or a setting that is wrong.
const exitUsage = 2

// usageCode is exitUsage, except for commands whose exit code is that of a build, or one that an
// engine reads.
func usageCode(command *cobra.Command) int {
	switch command.Name() {
	case "build", "watch", "cancel", "log":
		return buildclient.ExitClient
	case "healthcheck", "check":
		return exitUnhealthy
	}
	return exitUsage
}
